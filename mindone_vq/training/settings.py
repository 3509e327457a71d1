"""Fields of the settings of a run, which are a frozen dataclass; and the file that a run leaves of them."""

import copy
import dataclasses
import json
from pathlib import Path
from typing import Any, Optional

from mindone_vq.weights.files import write_atomically

REQUIRED = dataclasses.MISSING


def option(
    default: Any,
    help: str,
    minimum: Optional[float] = None,
    maximum: Optional[float] = None,
    above: Optional[float] = None,
) -> Any:
    """A field of a settings dataclass: int, float, str, bool, Path, Literal, tuple[str, ...] or dict[str, Any].

    Args:
        default: the value where none is given; ``REQUIRED`` where one must be: it is given by position.
        help: what ``--help`` says.
        minimum, maximum: the smallest and the largest value, both allowed.
        above: the value must be larger than this.
    """
    limits = [(sign, limit) for sign, limit in ((">=", minimum), (">", above), ("<=", maximum)) if limit is not None]
    metadata = {"help": help, "limits": limits}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: copy.deepcopy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def default_of(field: dataclasses.Field) -> Any:
    """The default of a field made by ``option``, or ``REQUIRED``."""
    return field.default if field.default_factory is REQUIRED else field.default_factory()


def save(settings: Any, path: Path) -> None:
    """Writes every field below its help as YAML, which ``--config`` reads."""
    lines = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        value = json.dumps(str(value) if isinstance(value, Path) else value)  # JSON is YAML
        lines.append(f"# {field.metadata['help']}\n{field.name}: {value}\n")
    write_atomically(path, "\n".join(lines).encode())
