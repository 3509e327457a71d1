"""Configs, and ``from_pretrained`` / ``save_pretrained`` for everything that has one."""

import functools
import inspect
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Callable, Optional, Union

import mindspore as ms
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from mindone_vq.weights import hub, store
from mindone_vq.weights.files import read_json, write_json
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.rules import state_dict_parameters

logger = logging.getLogger("mindone_vq")

FLOAT_TYPES = (ms.float32, ms.float16, ms.bfloat16)


class Config(dict):
    """The arguments an object was made with: ``config["name"]`` or ``config.name``."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"the config has no {name!r}; it has {', '.join(self)}") from None


def register_to_config(init: Callable) -> Callable:
    """Decorates ``__init__``: its arguments, defaults included, become ``self.config``."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def wrapper(self, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        init(self, *args, **kwargs)
        self.config = Config(list(bound.arguments.items())[1:])

    return wrapper


def named_class(config: Mapping[str, Any]) -> Optional[str]:
    """The class that a config says it belongs to, as diffusers or as transformers writes it; None: it does not say."""
    return config.get("_class_name") or (config.get("architectures") or [None])[0]


class ConfigMixin:
    """What has a config file: it can be made from one and written to one."""

    config_name = "config.json"

    @classmethod
    def load_config(cls, folder: Path) -> dict[str, Any]:
        """The content of the config file in ``folder``; refuses the config of another class."""
        path = folder / cls.config_name
        config = read_json(path)
        cls.check_config(config, path)
        return config

    @classmethod
    def check_config(cls, config: Mapping[str, Any], path: Path) -> None:
        """Raises ValueError where ``config`` says that it belongs to another class."""
        named = named_class(config) or cls.__name__
        if named not in cls.family():
            raise ValueError(f"{path} is the config of a {named}, not of a {cls.__name__}.")

    @classmethod
    def arguments(cls) -> dict[str, inspect.Parameter]:
        """The arguments of the constructor by name: what a config may hold."""
        return {name: entry for name, entry in inspect.signature(cls.__init__).parameters.items() if name != "self"}

    @classmethod
    def family(cls) -> dict[str, type]:
        """This class and those made from it, by name: what a config for it may name."""
        return {cls.__name__: cls, **{kind.__name__: kind for kind in cls.__subclasses__()}}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]):
        """Makes the object with the arguments in ``config``; entries that are no arguments are named in a warning."""
        known = cls.arguments()
        unknown = [key for key in config if key not in known and not key.startswith("_")]
        if unknown:
            logger.warning("%s has no argument %s: ignored.", cls.__name__, ", ".join(sorted(unknown)))
        missing = [name for name, entry in known.items() if entry.default is entry.empty and name not in config]
        if missing:
            raise ValueError(f"The config of {cls.__name__} lacks {', '.join(missing)}.")
        return cls(**{key: value for key, value in config.items() if key in known})

    def config_to_save(self) -> dict[str, Any]:
        """What the config file says."""
        return {"_class_name": type(self).__name__, **self.config}

    def save_config(self, folder: Union[str, os.PathLike]) -> None:
        """Writes the config file into ``folder``, which is made if needed."""
        write_json(Path(folder) / self.config_name, self.config_to_save())


def check_dtype(dtype: Optional[ms.Type]) -> ms.Type:
    """``dtype``, or float32 for None; TypeError for what no weight can be."""
    if dtype is None:
        return ms.float32
    if dtype not in FLOAT_TYPES:
        raise TypeError(f"mindspore_dtype is {dtype!r}; it must be mindspore.float32, float16 or bfloat16.")
    return dtype


class PretrainedCell(nn.Cell, ConfigMixin):
    """A network that is loaded from and saved to a folder in diffusers' layout."""

    weights_stems = ("diffusion_pytorch_model",)

    @property
    def dtype(self) -> ms.Type:
        """The type of the weights (float32 where there are none)."""
        return next((parameter.dtype for parameter in self.get_parameters()), ms.float32)

    def to(self, dtype: ms.Type) -> "PretrainedCell":
        """Casts every weight in place; a network with ``force_upcast`` stays float32. Returns itself."""
        dtype = self._dtype_to_use(dtype)
        for parameter in self.get_parameters():
            if parameter.dtype != dtype:
                store.assign(parameter, store.to_float32(parameter), dtype)
        return self

    def num_parameters(self) -> int:
        """How many numbers the weights are."""
        return sum(parameter.size for parameter in self.get_parameters())

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Union[str, os.PathLike],
        subfolder: str = "",
        mindspore_dtype: Optional[ms.Type] = None,
        variant: Optional[str] = None,
        **hub_options: Any,
    ):
        """Makes the network from its config and fills every weight.

        Args:
            pretrained_model_name_or_path: a folder, or a hub id.
            subfolder: where in it config.json lies.
            mindspore_dtype: type of the weights; None: float32.
            variant: infix of the weight file, such as "fp16".
            hub_options: see ``mindone_vq.weights.hub.resolve``.

        Raises:
            FileNotFoundError: the folder, its config or its weights are not there.
            ValueError: a file cannot be read, or belongs to another class.
            WeightMismatchError: config and weights do not fit.
        """
        dtype = check_dtype(mindspore_dtype)
        root = hub.resolve(pretrained_model_name_or_path, [subfolder], variant, **hub_options)
        folder = root / subfolder
        config = cls.load_config(folder)
        with no_init_parameters():
            network = cls.family()[named_class(config) or cls.__name__].from_config(config)
        files = store.find_weights(folder, cls.weights_stems, variant) if network.has_weights() else []
        store.load_into(network, store.open_weights(files), network._dtype_to_use(dtype))
        return network.set_train(False)

    def save_pretrained(
        self,
        save_directory: Union[str, os.PathLike],
        variant: Optional[str] = None,
        max_shard_size: Optional[int] = None,
    ) -> None:
        """Writes config.json and the weights as safetensors, under the names diffusers has for them.

        Args:
            save_directory: the folder, made if needed.
            variant: an infix for the names of the weight files, such as "fp16".
            max_shard_size: write several files of at most so many bytes each; None: one file.
        """
        folder = Path(save_directory)
        if folder.is_file():
            raise FileExistsError(f"{folder} is a file; give a folder to save into.")
        store.save_weights(self, folder, self.weights_stems[0], variant, max_shard_size, self.extra_tensors())
        self.save_config(folder)

    def has_weights(self) -> bool:
        """Whether this network has any weight at all."""
        return bool(state_dict_parameters(self))

    def extra_tensors(self) -> dict[str, LazyTensor]:
        """Entries beyond the weights that diffusers expects in the file."""
        return {}

    def _dtype_to_use(self, dtype: ms.Type) -> ms.Type:
        return ms.float32 if self.config.get("force_upcast") else dtype
