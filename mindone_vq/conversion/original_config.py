"""The YAML files of microsoft/VQ-Diffusion, read by the tables of ``original_settings``."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import yaml

from mindone_vq.conversion.original_settings import (
    BESIDE_MODEL,
    CODECS,
    LENIENT,
    MODELS,
    PASSED_OVER,
    REQUIRED,
    RULES,
    Rule,
)
from mindone_vq.conversion.plan import ConversionError

WHERE_CONFIGS_ARE = "Their repository has one for each model, in configs/ or OUTPUT/pretrained_model/."


class _Loader(yaml.SafeLoader):
    """YAML's safe loader and the one tag of theirs."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node)))


def read_yaml(path: Path) -> dict[str, Any]:
    """A config of theirs, without executing anything.

    Raises:
        ConversionError: it is no YAML, or has a tag that is refused.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path} is not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path} holds no settings.")
    return content


@dataclass
class Settings:
    """The settings of a config, each known to have a value that can be converted.

    Attributes:
        option: of the command line, by which the file was given.
        objects: the objects of the config by their name in it ("model", "transformer_config", ...): for each its
            settings, defaults included, and under "class" the name of its class.
        unused: settings without effect by their whole name, with the reason.
    """

    option: str
    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """A setting by the name of its object and its own: ``settings["transformer_config.n_head"]``."""
        section, _, key = name.rpartition(".")
        return self.objects[section][key]

    def one(self, key: str, sections: Iterable[str]) -> Optional[Any]:
        """A setting that may stand in several objects; None where it stands in none.

        Raises:
            ConversionError: they contradict each other.
        """
        given = {name: self.objects[name][key] for name in sections if self.objects[name].get(key) is not None}
        if len(set(given.values())) > 1:
            said = " and ".join(f"{name}.{key}: {value}" for name, value in given.items())
            raise ConversionError(f"{self.option} has {said}, which contradict each other: leave one of them out.")
        return next(iter(given.values()), None)

    def refuse(self, name: str, why: str) -> ConversionError:
        """The error for a setting that does not go with the rest."""
        return ConversionError(f"{self.option} has {name}: {self[name]}; {why}")


def read_model(config: Mapping[str, Any], option: str = "--config") -> Settings:
    """The settings of a model's config.

    Raises:
        ConversionError: names a setting that is missing, not known, or of a value that is not computed here.
    """
    settings = _read(config, MODELS, option)
    model, objects = settings.objects["model"]["class"], settings.objects
    for name, wanted in zip(("transformer_config", "condition_emb_config"), MODELS[model]):
        given = objects.get(name, {}).get("class")
        if given != wanted:
            raise ConversionError(f"{option} has a {model} with {name}: {given}; it goes with {wanted}.")
    return settings


def read_codec(config: Mapping[str, Any], option: str) -> Settings:
    """The settings of the config of a codec's own file; raises as ``read_model`` does."""
    return _read(config, CODECS, option)


def check_told(settings: Settings, told: Mapping[str, Any], rows: Iterable[tuple[str, str]]) -> None:
    """Raises ConversionError where a setting is not what the weights tell.

    Args:
        settings: of the config.
        told: by the shapes of the weights.
        rows: (name of the setting, name in ``told``); a row of which one is absent is passed over.
    """
    for name, key in rows:
        section, _, own = name.rpartition(".")
        value = settings.objects.get(section, {}).get(own)
        if value is not None and told.get(key) is not None and value != told[key]:
            raise settings.refuse(name, f"the checkpoint has {told[key]}: it is another model's.")


def _read(config: Mapping[str, Any], classes: Iterable[str], option: str) -> Settings:
    settings = Settings(option)
    for name in config:
        if name != "model":
            settings.unused[f"{option} {name}"] = BESIDE_MODEL.get(name, PASSED_OVER)
    if "model" not in config:
        raise ConversionError(f"{option} lacks 'model'. {WHERE_CONFIGS_ARE}")
    _object(config["model"], "model", Rule(classes=tuple(classes)), settings)
    return settings


def _object(given: Any, name: str, rule: Rule, settings: Settings) -> None:
    """Reads one object and those in it."""
    option = settings.option
    if rule.bare:
        given = {"target": rule.classes[0], "params": given}
    target = given.get("target") if isinstance(given, dict) else None
    params = (given.get("params") or {}) if isinstance(given, dict) else None
    if not isinstance(target, str) or not isinstance(params, dict):
        raise ConversionError(f"{option} has {name} without a target and params. {WHERE_CONFIGS_ARE}")
    if not any(f".{target}".endswith(f".{known}") for known in rule.classes):
        raise ConversionError(f"{option} has {name}: {target}; known are {', '.join(rule.classes)}.")
    class_name = target.rsplit(".", 1)[-1]
    rules = RULES[class_name]
    for key in given:
        if key not in ("target", "params"):
            settings.unused[f"{option} {name}.{key}"] = PASSED_OVER
    settings.objects[name] = {"class": class_name}
    for key, own in rules.items():
        settings.objects[name][key] = _setting(params, key, f"{name}.{key}", own, settings)
    for key in params:
        if key not in rules and class_name not in LENIENT:
            raise ConversionError(
                f"{option} has {name}.{key}, which their {class_name} does not have; known are "
                f"{', '.join(rules)}. Leave it out if it does not change what the model generates."
            )
        if key not in rules:
            settings.unused[f"{option} {name}.{key}"] = PASSED_OVER


def _setting(params: Mapping[str, Any], key: str, name: str, rule: Rule, settings: Settings) -> Any:
    """The value of one setting, checked."""
    option = settings.option
    value = params.get(key, rule.default)
    if value is REQUIRED:
        raise ConversionError(f"{option} lacks {key!r} in {name.rpartition('.')[0]}. {WHERE_CONFIGS_ARE}")
    if rule.unused:
        if key in params:
            settings.unused[f"{option} {name}"] = rule.unused
    elif rule.classes:
        if value is not None or rule.default is REQUIRED:
            _object(value, key, rule, settings)
    elif not rule.accepts(value):
        given = f"has {name}: {value}" if key in params else f"has no {name}, which their code then takes for {value}"
        raise ConversionError(f"{option} {given}; only {rule.expected} is known here.")
    return value
