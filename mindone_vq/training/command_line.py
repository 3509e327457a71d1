"""Settings from the defaults, a YAML file and the command line, in that order, by jsonargparse."""

import argparse
import dataclasses
import difflib
import operator
import re
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml

from mindone_vq.training.settings import REQUIRED, default_of

try:
    from jsonargparse import ActionYesNo, ArgumentParser, DefaultHelpFormatter
    from jsonargparse.typing import extend_base_type
except ImportError as error:
    raise ImportError('jsonargparse is not installed; for training: pip install "mindone_vq[train]".') from error

Settings = TypeVar("Settings")
COMPARISONS = {">=": operator.ge, ">": operator.gt, "<=": operator.le}


def parse(settings_class: type[Settings], arguments: list[str], description: str) -> Settings:
    """Settings from the command line.

    ``--config FILE`` reads YAML with any of the fields; values on the command line replace those of the file. A dict
    in the file replaces the default, ``--field.key value`` changes one key of either.

    Args:
        settings_class: a dataclass whose fields are made by ``option``.
        arguments: the words of the command line, without the program's name.
        description: what ``--help`` starts with.

    Raises:
        ValueError: an unknown name, a value that does not fit, or what the class itself refuses.
        FileNotFoundError: the config file does not exist.
    """
    fields, parser = dataclasses.fields(settings_class), _parser(settings_class, description)
    names = [field.name for field in fields]
    required = [field.name for field in fields if default_of(field) is REQUIRED]
    config_alone = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    config_alone.add_argument("--config")
    config, arguments = config_alone.parse_known_args(arguments)
    content = _read_file(Path(config.config), parser, names) if config.config is not None else {}
    if content:
        arguments = ["--config", config.config, *arguments]  # first: the command line replaces what the file has
    parser.set_defaults({name: content.get(name) for name in required})
    try:
        given = parser.parse_args(arguments)
    except argparse.ArgumentError as error:
        unknown = re.search(r"unrecognized arguments: --([\w-]+)", str(error))
        near = _nearest(unknown.group(1).replace("-", "_"), names) if unknown else ""
        raise ValueError(f"{' '.join(str(error).split())}{near}; --help lists the options.") from error
    values = {name: _plain(given[name]) for name in names}
    missing = [name.upper() for name in required if values[name] is None]
    if missing:
        raise ValueError(f"No value for {', '.join(missing)}; give it on the command line or in --config.")
    return settings_class(**values)


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """jsonargparse's, which leaves the lines of the description as they are."""


def _parser(settings_class: type, description: str) -> ArgumentParser:
    parser = ArgumentParser(
        description=description,
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
        print_config=None,
    )
    parser.add_argument("--config", action="config", help="YAML with any of these settings")
    hints = typing.get_type_hints(settings_class)
    for field in dataclasses.fields(settings_class):
        hint, limits = hints[field.name], field.metadata["limits"]
        default, help = default_of(field), field.metadata["help"]
        if default is REQUIRED:
            parser.add_argument(field.name, nargs="?", type=hint, help=help)
            continue
        kind: dict[str, Any] = {"type": _limited(hint, limits) if limits else hint}
        if hint is bool:
            kind = {"action": ActionYesNo(no_prefix="no-")}
        elif typing.get_origin(hint) is tuple:
            kind = {"type": str, "nargs": "*"}
        parser.add_argument("--" + field.name.replace("_", "-"), default=default, help=help, **kind)
    return parser


def _limited(kind: type, limits: list[tuple[str, float]]) -> type:
    """A type of numbers within limits, such as "int >= 1"."""
    name = f"{kind.__name__} {' and '.join(f'{sign} {limit}' for sign, limit in limits)}"

    def check(_: type, value: Any) -> None:
        number = kind(value)
        is_kind = not isinstance(value, bool) and number == float(value)
        if not (is_kind and all(COMPARISONS[sign](number, limit) for sign, limit in limits)):
            raise ValueError(f"{value} is out of range or of another type")

    return extend_base_type(name, kind, check, register_key=(name,))


def _read_file(path: Path, parser: ArgumentParser, names: list[str]) -> dict[str, Any]:
    """What a file holds; its errors name the file and the setting, which those of jsonargparse do not always."""
    if not path.is_file():
        raise FileNotFoundError(f"--config {path} is not a file; it is looked for in {Path.cwd()}.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as YAML: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected lines such as 'name: value'.")
    for name, value in content.items():
        if name not in names:
            raise ValueError(f"{path}: there is no setting {name}{_nearest(str(name), names)}.")
        if value is None:
            raise ValueError(f"{path}: {name} has no value.")
        try:
            parser.parse_object({name: value})
        except argparse.ArgumentError as error:
            raise ValueError(f"{path}: {name} is {value!r}: {_one_line(error)}.") from error
    return content


def _nearest(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def _one_line(error: Exception) -> str:
    return " ".join(re.sub(r'^Parser key "\w+":', "", str(error)).split())


def _plain(value: Any) -> Any:
    """Without jsonargparse's types of numbers; lists are tuples in settings."""
    if isinstance(value, list):
        return tuple(value)
    return next((kind(value) for kind in (int, float) if isinstance(value, kind) and type(value) is not bool), value)
