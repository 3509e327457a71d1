"""A folder of generated pictures, each with its prompt, seed and settings inside its file, and a manifest of all.

A file is the only record that its picture was made: from the moment it has its name it is whole and says how it came
about. So a run may be killed at any moment and gone on with by any number of workers; they know nothing of each other.

    pictures/        a PNG for each picture
    manifest.jsonl   when every picture is there: a line for each, in the order of the prompts
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mindone_vq.text.prompts import Prompt
from mindone_vq.weights.files import atomic_file, write_atomically

PICTURES, MANIFEST = "pictures", "manifest.jsonl"
KEY = "mindone_vq"  # of the text inside a PNG
_ADVICE = "Pictures of different makings are not mixed: take another folder, or move it away."


@dataclass(frozen=True)
class Picture:
    """One picture to be made: what it shows, its seed, and what its file is called."""

    prompt: str
    seed: int
    name: str


def plan(prompts: Sequence[Prompt], seed: int, per_prompt: int = 1) -> list[Picture]:
    """Every picture of the prompts: ``per_prompt`` of each, next to each other.

    The i-th of all has ``seed + i``; where the prompt has a seed of its own, its j-th picture has that and j.
    """
    pictures = []
    for prompt in prompts:
        first = seed + len(pictures) if prompt.seed is None else prompt.seed
        for j in range(per_prompt):
            name = prompt.id if per_prompt == 1 else f"{prompt.id}_{j}"
            pictures.append(Picture(prompt.text, first + j, f"{name}.png"))
    return pictures


class PictureFolder:
    """The files of planned pictures.

    Args:
        folder: made when the first picture is written.
        pictures: all that are to be there in the end.
        settings: what else decides how they look; numbers and strings by name. Pictures of other settings are refused.
        notes: what the manifest says of each picture beside that; nothing is decided by it.
    """

    def __init__(
        self, folder: Path, pictures: Sequence[Picture], settings: Mapping[str, Any], notes: Mapping[str, Any]
    ) -> None:
        self.folder, self.pictures = Path(folder), pictures
        self._settings, self._notes = settings, notes

    def done(self) -> set[int]:
        """Which of the pictures are there.

        Raises:
            ValueError: the folder holds a picture that is not among those planned, or is another than planned.
            NotADirectoryError: it is a file.
        """
        numbers = {picture.name: number for number, picture in enumerate(self.pictures)}
        found = set()
        for path in sorted(self._files()):
            if path.suffix != ".png" or path.name.startswith("."):
                continue
            if path.name not in numbers:
                raise ValueError(f"{path} is there, and it is not among the pictures asked for. {_ADVICE}")
            number = numbers[path.name]
            self._compare(path, self._description(number))
            found.add(number)
        return found

    def save(self, number: int, image: Image.Image) -> None:
        """Writes a picture; its name appears when all of it is on the disk."""
        description = PngInfo()
        description.add_text(KEY, json.dumps(self._description(number)))
        with atomic_file(self.folder / PICTURES / self.pictures[number].name) as file:
            image.save(file, format="PNG", pnginfo=description)
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> bool:
        """If every picture is there: writes the manifest and removes what killed runs left half-written.

        Returns:
            Whether it is so. Every worker asks in the end: the last one finds it so, and several may.
        """
        names = {path.name for path in self._files()}
        if not all(picture.name in names for picture in self.pictures):
            return False
        self._remove_temporaries()
        lines = [
            {"file": f"{PICTURES}/{picture.name}", **self._description(number), **self._notes}
            for number, picture in enumerate(self.pictures)
        ]
        try:
            content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_atomically(self.folder / MANIFEST, content.encode())
        except FileNotFoundError:
            # Another worker that finishes at this moment has removed the temporary file. It writes the same manifest,
            # and it comes later: of several the last one to remove has its own file still to come.
            pass
        return True

    def _files(self) -> list[Path]:
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{self.folder} is a file; give a folder.")
        pictures = self.folder / PICTURES
        return list(pictures.iterdir()) if pictures.is_dir() else []

    def _description(self, number: int) -> dict[str, Any]:
        picture = self.pictures[number]
        return {"prompt": picture.prompt, "seed": picture.seed, **self._settings}

    @staticmethod
    def _compare(path: Path, expected: Mapping[str, Any]) -> None:
        found = describe(path)
        if not found:
            raise ValueError(f"{path} is there, and it does not say how it was made. {_ADVICE}")
        others = [name for name in expected if found.get(name) != expected[name]]
        if others:
            differ = ", ".join(f"{name} {found.get(name)!r} instead of {expected[name]!r}" for name in others)
            raise ValueError(f"{path} is there, and it was made with {differ}. {_ADVICE}")

    def _remove_temporaries(self) -> None:
        pictures = {picture.name for picture in self.pictures}
        for folder, names in ((self.folder, {MANIFEST}), (self.folder / PICTURES, pictures)):
            for path in folder.glob(".*"):
                if path.stem[1:] in names and len(path.suffix) == 9:  # .name.XXXXXXXX, as atomic_file makes them
                    path.unlink(missing_ok=True)


def describe(path: Path) -> dict[str, Any]:
    """How a picture was made, from inside its file: prompt, seed and settings; empty where it does not say."""
    try:
        with Image.open(path) as picture:
            description = json.loads(picture.info[KEY])
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return {}
    return description if isinstance(description, dict) else {}
