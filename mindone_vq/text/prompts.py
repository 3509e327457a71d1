"""Prompts in a file."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

ID = re.compile(r"\w[\w.-]{0,199}")
SHOWN = 80  # characters of a line in a message


@dataclass(frozen=True)
class Prompt:
    """text: what to show; id: what to call it, another for each prompt; seed: its own, if the file gives one."""

    text: str
    id: str
    seed: Optional[int] = None


def read_prompts(path: Path) -> list[Prompt]:
    """The prompts of a text file, one a line, or of a ``.jsonl`` file, one JSON object a line; not blank lines.

    An object has "text", and if wanted "seed" and "id"; what else it has is passed over. The id of a prompt without one
    is its number, from "000000".

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: a line is not as it must be, or two have one id; the message names the lines.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is no file; give a text file with one prompt a line, or a .jsonl file.")
    prompts: list[Prompt] = []
    lines_of: dict[str, int] = {}
    for number, line in enumerate(path.read_bytes().split(b"\n"), 1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            if not text:
                continue
            default = f"{len(prompts):06d}"
            prompt = _from_json(text, default) if path.suffix == ".jsonl" else Prompt(text, default)
            first = lines_of.setdefault(
                prompt.id.lower(), number
            )  # names of files, which some systems do not tell apart
            if first != number:
                raise ValueError(f"its id is {prompt.id!r}, as that of line {first} is; each needs another")
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
    text.encode()  # half of a surrogate pair is JSON, and no text
    if seed is not None and (not _is_integer(seed) or seed < 0):
        raise ValueError('its "seed" must be an integer, 0 or more')
    if _is_integer(name):
        name = str(name)
    if not isinstance(name, str) or not ID.fullmatch(name):
        raise ValueError('its "id" must be of letters, digits, "_", "-" and "." (not the first), 200 at most')
    return Prompt(text.strip(), name, seed)


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
