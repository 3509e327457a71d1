"""Files of prompts."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

ID = re.compile(r"\w[\w.-]{0,199}")
SHOWN = 80  # characters of a line in a message


@dataclass(frozen=True)
class Prompt:
    """text; id: a name, different for each prompt; seed: of its images, if the file gives one."""

    text: str
    id: str
    seed: Optional[int] = None


def read_prompts(path: Path) -> list[Prompt]:
    """Reads a text file with one prompt a line, or a ``.jsonl`` file with one JSON object a line.

    An object has "text", and optionally "seed" and "id"; other entries are ignored. Without "id", the id of a prompt is
    its number, from "000000" on. Blank lines are skipped.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is invalid, or two prompts have the same id. The message names the line.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not a file; give a text file with one prompt a line, or a .jsonl file.")
    prompts: list[Prompt] = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if not text:
                continue
            default = f"{len(prompts):06d}"
            prompt = _from_json(text, default) if path.suffix == ".jsonl" else Prompt(text, default)
            first = lines_of.setdefault(prompt.id.lower(), number)  # some file systems ignore case
            if first != number:
                raise ValueError(f"its id {prompt.id!r} is also that of line {first}; each prompt needs its own")
        except (ValueError, RecursionError) as error:
            shown = line[:SHOWN].decode("utf-8", "replace").strip()
            raise ValueError(f"line {number} of {path} cannot be used: {error}: {shown}") from error
        prompts.append(prompt)
    if not prompts:
        raise ValueError(f"{path} holds no prompt; write one on each line.")
    return prompts


def _from_json(line: str, default_id: str) -> Prompt:
    entry = json.loads(line)
    if not isinstance(entry, dict) or "text" not in entry:
        raise ValueError('it is no JSON object with "text"')
    text, seed, name = entry["text"], entry.get("seed"), entry.get("id", default_id)
    if not isinstance(text, str) or not text.strip():
        raise ValueError('its "text" must be a string that is not empty')
    text.encode()  # fails for half of a surrogate pair, which JSON allows
    if seed is not None and (not _is_integer(seed) or seed < 0):
        raise ValueError('its "seed" must be an integer, 0 or more')
    name = str(name) if _is_integer(name) else name
    if not isinstance(name, str) or not ID.fullmatch(name):
        raise ValueError('its "id" must be of letters, digits, "_", "-" and "." (not the first), 200 at most')
    return Prompt(text.strip(), name, seed)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
