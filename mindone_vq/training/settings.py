"""Settings of a run: a frozen dataclass, filled from defaults, a YAML file and the command line, in that order."""

import argparse
import copy
import dataclasses
import difflib
import re
import typing
from pathlib import Path
from typing import Any, Literal, NoReturn, Optional, TypeVar, Union

import yaml

from mindone_vq.weights.files import write_atomically

Settings = TypeVar("Settings")
REQUIRED = dataclasses.MISSING
WORDS = {int: "a whole number", float: "a number", str: "text", bool: "true or false", Path: "a path"}
METAVARS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number, as in YAML 1.2."""


class _Dumper(yaml.SafeDumper):
    """Writes the text '1e-3' in quotes, so that ``_Loader`` reads it as text."""


for _yaml in (_Loader, _Dumper):
    # What PyYAML lacks: an exponent without a point or without a sign.
    _number = re.compile(r"[-+]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)[eE][-+]?[0-9]+$")
    _yaml.add_implicit_resolver("tag:yaml.org,2002:float", _number, list("-+.0123456789"))


def option(
    default: Any,
    help: str,
    minimum: Optional[float] = None,
    maximum: Optional[float] = None,
    above: Optional[float] = None,
    choices: Optional[tuple] = None,
) -> Any:
    """A field of a settings dataclass.

    Args:
        default: the value where none is given; ``REQUIRED`` where one must be.
        help: what ``--help`` says.
        minimum, maximum: the smallest and largest value, each of them allowed.
        above: the value must be larger than this. Limits and choices of a tuple are those of its entries.
        choices: the values there are; ``Literal[...]`` as the type says the same.
    """
    limits = {"minimum": minimum, "maximum": maximum, "exclusive_minimum": above, "choices": choices}
    metadata = {"help": help, **{key: value for key, value in limits.items() if value is not None}}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def parse(
    settings_class: type[Settings], arguments: list[str], description: str, positional: tuple[str, ...] = ()
) -> Settings:
    """Settings from the command line.

    ``--config FILE`` reads YAML that names any of the fields; what is given on the command line goes before it. A dict
    in the file replaces the default, ``--field.key value`` changes one key of either. ``none`` clears an option that
    may be empty.

    Args:
        settings_class: a dataclass whose fields are made by ``option``.
        arguments: the words of the command line, without the program's name.
        description: what ``--help`` starts with.
        positional: fields that are given by place instead of by ``--name``.

    Raises:
        ValueError: an unknown name, a value that does not fit, or what the class's ``problems`` reports.
        FileNotFoundError: there is no such config file.
    """
    options = {field.name: field for field in _options(settings_class, positional)}
    arguments, changes = _take_dict_changes(arguments, options)
    given, extras = _parser(options, description).parse_known_intermixed_args(arguments)
    _refuse_extras(extras, [field.flag for field in options.values() if not field.positional] + ["--config"])
    values = _from_file(Path(given.config), options) if given.config is not None else {}
    for name, field in options.items():
        text = getattr(given, name, None)
        if text is not None and not (field.positional and text == []):
            values[name] = field.read(text, field.flag, text=True)
    for name, path, value in changes:
        values[name] = _changed(values[name] if name in values else options[name].default, path, value)
    missing = [field.flag for name, field in options.items() if name not in values and field.default is REQUIRED]
    if missing:
        raise ValueError(f"No value for {', '.join(missing)}; give it on the command line or in --config.")
    settings = settings_class(**values)
    check(settings)
    return settings


def check(settings: Any) -> None:
    """Checks types and limits of every field, then what the class's ``problems()`` says about them together.

    Raises:
        ValueError: names each field that does not fit, its value and what it may be.
    """
    problems = []
    for field in _options(type(settings)):
        value = getattr(settings, field.name)
        try:
            if field.read(value, field.name) != value:  # a list for a tuple, or text for a number
                raise field.misfit(value, field.name)
        except ValueError as error:
            problems.append(str(error))
    if not problems and hasattr(settings, "problems"):
        problems = settings.problems()
    if problems:
        raise ValueError(" ".join(problems))


def to_yaml(settings: Any) -> str:
    """Every field, each under its help; ``parse`` makes an equal object of it through ``--config``."""
    lines = []
    for field in _options(type(settings)):
        value = getattr(settings, field.name)
        value = str(value) if isinstance(value, Path) else value
        lines += [f"# {line}" for line in field.help.splitlines()]
        lines.append(yaml.dump({field.name: value}, Dumper=_Dumper, sort_keys=False, allow_unicode=True))
    return "\n".join(lines)


def save(settings: Any, path: Union[str, Path]) -> None:
    """Writes ``to_yaml`` into ``path``, whole or not at all."""
    write_atomically(Path(path), to_yaml(settings).encode())


@dataclasses.dataclass(frozen=True)
class _Option:
    """One field: its type taken apart, and how a value is read into it."""

    name: str
    kind: type  # int, float, str, bool, Path or dict: of the field, or of the entries of a tuple
    many: bool
    optional: bool
    positional: bool
    choices: Optional[tuple]
    default: Any
    limits: Any

    @property
    def help(self) -> str:
        return self.limits.get("help", "")

    @property
    def flag(self) -> str:
        return self.name.upper() if self.positional else "--" + self.name.replace("_", "-")

    @property
    def expected(self) -> str:
        """What a value may be, in words."""
        words = "names with values" if self.kind is dict else WORDS[self.kind]
        if self.choices:
            words = "one of " + ", ".join(map(str, self.choices))
        for key, relation in (("minimum", "at least"), ("exclusive_minimum", "above"), ("maximum", "at most")):
            if key in self.limits:
                words += f", {relation} {self.limits[key]}"
        return (f"a list, each of it {words}" if self.many else words) + (", or none" if self.optional else "")

    def misfit(self, value: Any, where: str) -> ValueError:
        return ValueError(f"{where} is {value!r}, expected {self.expected}.")

    def read(self, value: Any, where: str, text: bool = False) -> Any:
        """``value`` in the field's type; ``text``: it comes from the command line, as words."""
        if self.optional and (value is None or (text and value in ("none", ["none"]))):
            return None
        try:
            if not self.many:
                return self._entry(value, text)
            if not isinstance(value, (list, tuple)):
                raise TypeError
            return tuple(self._entry(entry, text) for entry in value)
        except (TypeError, ValueError, OverflowError):
            raise self.misfit(value, where) from None

    def _entry(self, value: Any, text: bool) -> Any:
        if self.kind is float and type(value) in (int, str):
            value = float(value)
        elif (text and self.kind in (int, Path)) or (self.kind is Path and isinstance(value, str)):
            value = self.kind(value)
        fits = isinstance(value, Path) if self.kind is Path else type(value) is self.kind
        lower, upper = self.limits.get("minimum", value), self.limits.get("maximum", value)
        if (
            not fits
            or (self.choices and value not in self.choices)
            or (self.kind is dict and not _is_plain(value))
            or not (self.kind is dict or lower <= value <= upper)  # false for not-a-number, too
            or ("exclusive_minimum" in self.limits and not value > self.limits["exclusive_minimum"])
        ):
            raise ValueError
        return value


def _options(settings_class: type, positional: tuple[str, ...] = ()) -> list[_Option]:
    hints = typing.get_type_hints(settings_class)
    fields = [field for field in dataclasses.fields(settings_class) if field.init]
    unknown = set(positional) - {field.name for field in fields}
    if unknown:
        raise TypeError(f"{settings_class.__name__} has no field {', '.join(sorted(unknown))} to take by place.")
    return [_option(field, hints[field.name], field.name in positional) for field in fields]


def _option(field: dataclasses.Field, hint: Any, positional: bool) -> _Option:
    alternatives = [kind for kind in typing.get_args(hint) if kind is not type(None)]
    optional = type(None) in typing.get_args(hint)
    if optional and len(alternatives) == 1:
        hint = alternatives[0]
    many = typing.get_origin(hint) is tuple
    kind = typing.get_args(hint)[0] if many else hint
    choices = field.metadata.get("choices")
    if typing.get_origin(kind) is Literal:
        choices = typing.get_args(kind)
        kind = type(choices[0])
    kind = typing.get_origin(kind) or kind
    if kind not in (*WORDS, dict):
        raise TypeError(
            f"Field {field.name} is a {hint}, which settings cannot hold; see mindone_vq.training.settings."
        )
    default = field.default if field.default_factory is REQUIRED else field.default_factory()
    return _Option(field.name, kind, many, optional, positional, choices, default, field.metadata)


def _is_plain(value: Any) -> bool:
    """Whether YAML gives it back as it was."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(entry) for key, entry in value.items())
    if isinstance(value, list):
        return all(map(_is_plain, value))
    return value is None or type(value) in (str, int, float, bool)


class _Parser(argparse.ArgumentParser):
    """argparse that raises instead of ending the program."""

    def error(self, message: str) -> NoReturn:
        raise ValueError(f"{message[:1].upper()}{message[1:]}; --help lists the options.")


def _parser(options: dict[str, _Option], description: str) -> argparse.ArgumentParser:
    # Every default is None, which says "not given"; the words are converted later, as those of YAML are.
    result = _Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    result.add_argument("--config", metavar="FILE", help="YAML with any of these settings; options go before it [none]")
    for name, field in options.items():
        text = f"{field.help} [{_shown(field.default)}]".replace("%", "%%")
        metavar = "{" + ",".join(map(str, field.choices)) + "}" if field.choices else METAVARS.get(field.kind)
        if field.kind is dict:  # shown only: _take_dict_changes takes these out before
            result.add_argument(f"{field.flag}.KEY", dest=name, metavar="VALUE", help=text)
        elif field.positional:
            result.add_argument(name, nargs="*" if field.many else "?", metavar=field.flag, help=text)
        elif field.kind is bool:
            result.add_argument(field.flag, action=argparse.BooleanOptionalAction, default=None, help=text)
        else:
            nargs = "*" if field.many else None
            result.add_argument(field.flag, dest=name, nargs=nargs, metavar=metavar, help=text)
    return result


def _shown(default: Any) -> str:
    if default is REQUIRED:
        return "required"
    if isinstance(default, tuple):
        return " ".join(map(str, default))
    return "none" if default is None else str(default)


def _take_dict_changes(
    arguments: list[str], options: dict[str, _Option]
) -> tuple[list[str], list[tuple[str, list[str], Any]]]:
    """Splits ``--field.key value`` off: the other words, and field, path and value of each change."""
    dicts = {field.flag: name for name, field in options.items() if field.kind is dict}
    rest, changes, words = [], [], iter(arguments)
    for word in words:
        key, equals, text = word.partition("=")
        flag, dot, path = key.partition(".")
        if not dot or flag not in dicts:
            rest.append(word)
            continue
        text = text if equals else next(words, "--")
        if not all(path.split(".")) or (not equals and text.startswith("--")):
            raise ValueError(f"{word} is not complete, expected {flag}.KEY VALUE.")
        try:
            value = yaml.load(text, _Loader)
        except yaml.YAMLError as error:
            raise ValueError(f"{key} is {text!r}, expected a value in YAML; put text in quotes.") from error
        changes.append((dicts[flag], path.split("."), value))
    return rest, changes


def _changed(values: Optional[dict], path: list[str], value: Any) -> dict:
    """A copy of ``values`` with another value at ``path``."""
    values = {} if values is None or values is REQUIRED else values
    head, *rest = path
    inner = values.get(head)
    return {**values, head: _changed(inner if isinstance(inner, dict) else {}, rest, value) if rest else value}


def _refuse_extras(extras: list[str], known: list[str]) -> None:
    # The value of an unknown option is left over like the option itself: the option is what is named.
    unknown = [word.partition("=")[0] for word in extras if word.startswith("-")]
    if unknown:
        raise ValueError(" ".join(f"There is no option {name}{_nearest(name, known)}" for name in unknown))
    if extras:
        raise ValueError(f"Nothing takes {' '.join(extras)}; --help shows what is expected.")


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}."


def _from_file(path: Path, options: dict[str, _Option]) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"--config {path} is not a file; it is looked for in {Path.cwd()}.")
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as YAML: {error}.") from error
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected lines such as 'name: value'.")
    unknown = [str(name) for name in content if name not in options]
    if unknown:
        found = " ".join(f"There is no setting {name}{_nearest(name, list(options))}" for name in unknown)
        raise ValueError(f"{path}: {found}")
    return {name: options[name].read(value, f"{path}: {name}") for name, value in content.items()}
