"""Configs: the arguments that an object was made with, in a JSON file."""

import functools
import inspect
import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Callable, Optional, Union

from mindone_vq.weights import hub
from mindone_vq.weights.files import read_json, write_json

logger = logging.getLogger("mindone_vq")


class Config(dict):
    """Constructor arguments: ``config["name"]`` or ``config.name``. It is immutable."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}; it has {', '.join(self)}") from None

    def _refuse(self, *_: Any, **__: Any) -> None:
        raise TypeError("a config cannot be changed: make a new object with from_config(config, name=value).")

    __setattr__ = __delattr__ = __setitem__ = __delitem__ = _refuse
    update = pop = popitem = clear = setdefault = __ior__ = _refuse

    def __reduce__(self) -> tuple:
        return Config, (dict(self),)


def register_to_config(init: Callable) -> Callable:
    """Decorates ``__init__``: the name of the class and the arguments, with defaults, become ``self.config``.

    Keywords that begin with "_" are ignored, so that ``cls(**config)`` works.
    """
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self, *args: Any, **kwargs: Any) -> None:
        kwargs = {name: value for name, value in kwargs.items() if not name.startswith("_")}
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        init(self, *args, **kwargs)
        self.config = Config({"_class_name": type(self).__name__, **dict(list(bound.arguments.items())[1:])})

    return wrapper


def named_class(config: Mapping[str, Any]) -> Optional[str]:
    """The class that a config names, as diffusers or transformers writes it; None: it names none."""
    return config.get("_class_name") or (config.get("architectures") or [None])[0]


class ConfigMixin:
    """An object that is made from a config file and can write one."""

    config_name = "config.json"

    @classmethod
    def load_config(
        cls,
        pretrained_model_name_or_path: Union[str, os.PathLike],
        subfolder: Optional[str] = None,
        **hub_options: Any,
    ) -> dict[str, Any]:
        """The content of the config file in a folder or a hub repository.

        Raises:
            ValueError: it is the config of another class.
        """
        subfolder = subfolder or ""
        path = hub.resolve(pretrained_model_name_or_path, [subfolder], **hub_options) / subfolder / cls.config_name
        config = read_json(path)
        named = named_class(config) or cls.__name__
        if named not in cls.family():
            raise ValueError(f"{path} is the config of a {named}, not of a {cls.__name__}.")
        return config

    @classmethod
    def arguments(cls) -> dict[str, inspect.Parameter]:
        """The arguments of the constructor by name."""
        return {name: entry for name, entry in inspect.signature(cls.__init__).parameters.items() if name != "self"}

    @classmethod
    def family(cls) -> dict[str, type]:
        """This class and its subclasses by name: those that a config for it may name."""
        return {kind.__name__: kind for kind in (cls, *cls.__subclasses__())}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], **changed: Any):
        """Makes an object. Entries of ``config`` that are no arguments are ignored with a warning.

        Args:
            config: arguments of the constructor by name.
            changed: arguments that replace those in ``config``.

        Raises:
            TypeError: ``config`` is a path; or ``changed`` names something that is no argument.
            ValueError: an argument is missing.
        """
        if not isinstance(config, Mapping):
            raise TypeError(
                f"from_config takes a config (a dict), given {config!r}: call {cls.__name__}.from_pretrained for a "
                f"folder or a hub id, or pass {cls.__name__}.load_config(...)."
            )
        known = cls.arguments()
        hub.check_options(changed, known, f"{cls.__name__}.from_config")
        unknown = [key for key in config if key not in known and not key.startswith("_")]
        if unknown:
            logger.warning("%s has no argument %s: ignored.", cls.__name__, ", ".join(sorted(unknown)))
        values = {**{key: value for key, value in config.items() if key in known}, **changed}
        missing = [name for name, entry in known.items() if entry.default is entry.empty and name not in values]
        if missing:
            raise ValueError(f"The config of {cls.__name__} lacks {', '.join(missing)}.")
        return cls(**values)

    @classmethod
    def split_options(cls, options: dict[str, Any], own: Iterable[str] = ()) -> tuple[dict[str, Any], dict[str, Any]]:
        """Splits the keywords of ``from_pretrained`` into changes of the config and options of the hub.

        Args:
            options: the keywords.
            own: the named arguments of the method, for messages.

        Raises:
            TypeError: a keyword is neither; says what to write instead.
        """
        known = cls.arguments()
        hub.check_options(options, [*known, *own, *hub.OPTIONS], f"{cls.__name__}.from_pretrained")
        changed = {name: value for name, value in options.items() if name in known}
        return changed, {name: value for name, value in options.items() if name not in known}

    def config_to_save(self) -> dict[str, Any]:
        """The content of the config file."""
        return dict(self.config)

    def save_config(self, save_directory: Union[str, os.PathLike]) -> None:
        """Writes the config file into a folder, which is created if needed."""
        write_json(Path(save_directory) / self.config_name, self.config_to_save())
