"""Noto Emoji as captioned pictures: which of them show a role, a gender and a tone of skin, and which are held out.

The pictures are of the npm package emoji-datasource-google (Noto Emoji, Apache-2.0), names and tags of emojibase-data
(MIT). Neither is part of this package; ``examples/emoji_data.py`` reads both. People are factorial: every role is drawn
as a person, a man and a woman, in yellow and in five tones. Some of these cells are held out of training whole.
"""

import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from PIL import Image

from mindone_vq.pictures import to_rgb

GENDERS = ("person", "man", "woman")
TONES = ("yellow", "light", "medium-light", "medium", "medium-dark", "dark")
SIDE = 64
HELD_OUT = Path(__file__).with_name("emoji_held_out.txt")
JOINER, VARIATION = "200D", "FE0F"
TONE_OF = {"1F3FB": "light", "1F3FC": "medium-light", "1F3FD": "medium", "1F3FE": "medium-dark", "1F3FF": "dark"}
GENDER_OF = {"1F9D1": "person", "1F468": "man", "1F469": "woman"}  # before a joiner and a thing: 1F469 200D 1F692
SIGNS = {"2642": "man", "2640": "woman"}  # after a joiner: 1F3C3 200D 2640
MOST_TAGS = 3


@dataclass(frozen=True, order=True)
class Cell:
    """role: the name of it as a yellow person, such as "firefighter"; gender: of ``GENDERS``; tone: of ``TONES``."""

    role: str
    gender: str
    tone: str

    def __str__(self) -> str:
        return f"{self.role} | {self.gender} | {self.tone}"


@dataclass(frozen=True)
class Emoji:
    """One picture.

    Attributes:
        file: the picture, RGBA.
        code: its code points.
        name: without the tone: "woman firefighter".
        tone: of ``TONES``; "yellow" for emoji without tones, too.
        has_tones: whether it is drawn in all tones.
        tags: words that belong to it.
        cell: its place among people; None for everything else.
    """

    file: Path
    code: str
    name: str
    tone: str
    has_tones: bool
    tags: tuple[str, ...]
    cell: Optional[Cell] = None

    def picture(self) -> Image.Image:
        """In RGB, on white."""
        with Image.open(self.file) as picture:
            return to_rgb(picture)

    @property
    def is_held_out(self) -> bool:
        """Whether its cell is in the list of those that no model of this package was trained on."""
        return str(self.cell) in held_out()

    @property
    def captions(self) -> list[str]:
        """Several ways to say what it shows, the plainest first.

        For people the last two leave out the role, so that gender and tone have to be learned from their own words,
        and not with every role anew.
        """
        if self.cell is not None:
            role, gender, tone = self.cell.role, self.cell.gender, self.cell.tone
            return [
                self.name if tone == "yellow" else f"{self.name}, {tone} skin tone",
                f"{self.name} with {tone} skin",
                f"{gender}, {role}, {tone} skin",
                f"{gender} with {tone} skin",
                f"{tone} skin tone",
            ]
        name = f"{self.name}, {self.tone} skin tone" if self.has_tones and self.tone != "yellow" else self.name
        tags = [tag for tag in self.tags if tag.lower() not in name.lower()][:MOST_TAGS]
        return [name, f"{name}, {', '.join(tags)}"] if tags else [name]


@functools.cache
def held_out() -> frozenset[str]:
    """The cells that no model of this package was trained on, as ``str`` writes them."""
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()
    return frozenset(line for line in lines if line and not line.startswith("#"))


def read(pictures: Path, names: Path) -> list[Emoji]:
    """All emoji of two unpacked npm packages.

    Args:
        pictures: the folder of emoji-datasource-google, with emoji.json and img/google/64.
        names: the folder of emojibase-data, with en/data.json.

    Raises:
        FileNotFoundError: a file of the packages is missing.
    """
    files = {}
    for entry in json.loads((pictures / "emoji.json").read_text(encoding="utf-8")):
        for each in (entry, *entry.get("skin_variations", {}).values()):
            files[_plain(each["unified"])] = pictures / "img/google/64" / each["image"]
    found = [each for each in _named(names, files) if each.file.is_file()]
    if not found:
        raise FileNotFoundError(f"{pictures / 'img/google/64'} has no pictures; unpack emoji-datasource-google there.")
    return _with_cells(found)


def _named(names: Path, files: dict[str, Path]) -> Iterator[Emoji]:
    for entry in json.loads((names / "en/data.json").read_text(encoding="utf-8")):
        variants = [entry, *entry.get("skins", [])]
        for each in variants:
            code = _plain(each["hexcode"])
            tones = {TONE_OF[part] for part in code.split("-") if part in TONE_OF}
            if code in files and len(tones) < 2:  # two people of two tones have no one tone
                tone = min(tones, default="yellow")
                yield Emoji(files[code], code, entry["label"], tone, len(variants) > 1, tuple(entry.get("tags", ())))


def _plain(code: str) -> str:
    return code.upper().replace(f"-{VARIATION}", "")


def _with_cells(emoji: list[Emoji]) -> list[Emoji]:
    """Cells for the roles that are drawn in every gender and tone."""
    places = {each.code: _place(each.code) for each in emoji}
    complete: dict[str, dict[tuple[str, str], Emoji]] = {}
    for each in emoji:
        role, gender = places[each.code]
        complete.setdefault(role, {})[gender, each.tone] = each
    result = []
    for each in emoji:
        role, gender = places[each.code]
        members = complete[role]
        cell = None
        if len(members) == len(GENDERS) * len(TONES):
            cell = Cell(_role_name(members["person", "yellow"].name), gender, each.tone)
        result.append(replace(each, cell=cell))
    return result


def _place(code: str) -> tuple[str, str]:
    """The code points without gender and tone, and the gender."""
    parts = [part for part in code.split("-") if part not in TONE_OF]
    for sign, gender in SIGNS.items():
        if sign in parts and JOINER in parts:
            at = parts.index(sign)
            return "-".join(parts[: at - 1] + parts[at + 1 :]), gender
    people = [part for part in parts if part in GENDER_OF]
    if len(people) == 1 and parts[0] in GENDER_OF and JOINER in parts:
        return "-".join(["", *parts[1:]]), GENDER_OF[parts[0]]
    return "-".join(parts), "person"


def _role_name(label: str) -> str:
    """ "person: blond hair" -> "blond hair", "person running" -> "running", "firefighter" as it is."""
    return label.removeprefix("person: ").removeprefix("person ")
