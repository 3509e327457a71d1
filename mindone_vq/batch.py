"""Pictures of any number of prompts: batch by batch, by any number of processes, into one folder.

Every file says how its picture was made, and it gets its name when it is complete. It is the only record of progress: a
run can be killed at any moment and continued by any number of processes, which do not communicate.

    pictures/        a PNG for each picture, with its prompt, seed and settings inside
    manifest.jsonl   written when all pictures exist: a line for each, in the order of the prompts
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tqdm import tqdm

from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.text.prompts import Prompt
from mindone_vq.weights.files import atomic_file, write_atomically

PICTURES, MANIFEST = "pictures", "manifest.jsonl"
KEY = "mindone_vq"  # of the text inside a PNG
ADVICE = "Choose another folder, or move this one away."
MEMORY = 4 << 30  # bytes for the intermediate values of a step
LARGEST_BATCH = 64
OUT_OF_MEMORY = re.compile("out of memory|not enough|isn't enough|alloc", re.IGNORECASE)


@dataclass(frozen=True)
class Picture:
    """A picture to generate: its prompt, its seed and the name of its file."""

    prompt: str
    seed: int
    name: str


def plan(prompts: Sequence[Prompt], seed: int, per_prompt: int = 1) -> list[Picture]:
    """All pictures, ``per_prompt`` of each prompt next to each other.

    Picture i has ``seed + i``; picture j of a prompt with a seed of its own has that seed plus j.
    """
    pictures = []
    for prompt in prompts:
        first = seed + len(pictures) if prompt.seed is None else prompt.seed
        for j in range(per_prompt):
            name = prompt.id if per_prompt == 1 else f"{prompt.id}_{j}"
            pictures.append(Picture(prompt.text, first + j, f"{name}.png"))
    return pictures


class PictureFolder:
    """The files of the planned pictures.

    Args:
        folder: is created with the first picture.
        pictures: all pictures of the finished folder.
        settings: numbers and strings by name that pictures depend on. Pictures of other settings are refused.
        notes: further entries of each line of the manifest.
    """

    def __init__(
        self, folder: Path, pictures: Sequence[Picture], settings: Mapping[str, Any], notes: Mapping[str, Any]
    ) -> None:
        self.folder, self.pictures, self.settings, self.notes = Path(folder), pictures, settings, notes

    def done(self) -> set[int]:
        """The indices of the pictures that exist.

        Raises:
            ValueError: the folder holds a picture that is not planned, or that was made differently.
            NotADirectoryError: the folder is a file.
        """
        numbers = {picture.name: number for number, picture in enumerate(self.pictures)}
        found = set()
        for path in sorted(self._files()):
            if path.suffix != ".png" or path.name.startswith("."):
                continue
            if path.name not in numbers:
                raise ValueError(f"{path} exists, but is not one of the planned pictures. {ADVICE}")
            number = numbers[path.name]
            _compare(path, self._description(number))
            found.add(number)
        return found

    def save(self, number: int, image: Image.Image) -> None:
        """Writes a picture; the file has its name when it is complete on the disk."""
        with atomic_file(self.folder / PICTURES / self.pictures[number].name) as file:
            image.save(file, format="PNG", pnginfo=described(self._description(number)))
            file.flush()
            os.fsync(file.fileno())

    def finish(self) -> bool:
        """Writes the manifest, and removes incomplete files of killed runs, if every picture exists.

        Returns:
            Whether every picture exists. Each process calls this at its end; several may find the folder complete.
        """
        names = {path.name for path in self._files()}
        if not all(picture.name in names for picture in self.pictures):
            return False
        self._remove_temporaries()
        lines = [
            {"file": f"{PICTURES}/{picture.name}", **self._description(number), **self.notes}
            for number, picture in enumerate(self.pictures)
        ]
        try:
            content = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_atomically(self.folder / MANIFEST, content.encode())
        except FileNotFoundError:
            # Another process that finishes now has removed the temporary file, and then writes the same manifest: the
            # file of the last process to remove temporary files is not removed by anyone.
            pass
        return True

    def _files(self) -> list[Path]:
        if self.folder.exists() and not self.folder.is_dir():
            raise NotADirectoryError(f"{self.folder} is a file; give a folder.")
        pictures = self.folder / PICTURES
        return list(pictures.iterdir()) if pictures.is_dir() else []

    def _description(self, number: int) -> dict[str, Any]:
        picture = self.pictures[number]
        return {"prompt": picture.prompt, "seed": picture.seed, **self.settings}

    def _remove_temporaries(self) -> None:
        pictures = {picture.name for picture in self.pictures}
        for folder, names in ((self.folder, {MANIFEST}), (self.folder / PICTURES, pictures)):
            for path in folder.glob(".*"):
                if path.stem[1:] in names and len(path.suffix) == 9:  # .name.XXXXXXXX, as atomic_file names them
                    path.unlink(missing_ok=True)


def _compare(path: Path, expected: Mapping[str, Any]) -> None:
    found = describe(path)
    if not found:
        raise ValueError(f"{path} exists, but contains no description of how it was made. {ADVICE}")
    others = [name for name in expected if found.get(name) != expected[name]]
    if others:
        differences = ", ".join(f"{name} {found.get(name)!r} instead of {expected[name]!r}" for name in others)
        raise ValueError(f"{path} exists, but was made with {differences}. {ADVICE}")


def described(description: Mapping[str, Any]) -> PngInfo:
    """What ``describe`` reads from a PNG that was saved with this as its ``pnginfo``."""
    info = PngInfo()
    info.add_text(KEY, json.dumps(description))
    return info


def describe(path: Path) -> dict[str, Any]:
    """The prompt, seed and settings inside the file of a picture; empty if it has none."""
    try:
        with Image.open(path) as picture:
            description = json.loads(picture.info[KEY])
    except (OSError, SyntaxError, ValueError, KeyError, TypeError):
        return {}
    return description if isinstance(description, dict) else {}


def default_batch_size(transformer: Mapping[str, Any]) -> int:
    """The batch size, at most 64, that is estimated to need 4 GB beside the weights.

    For each pixel of the grid, with and without the prompt, the estimate counts eight numbers for each class (logits,
    probabilities, their sums ...), sixteen for each channel, and two rows of attention for each head. It depends on the
    model alone, so that the same command makes the same batches everywhere.

    Args:
        transformer: the config of the denoiser.
    """
    heads, pixels = transformer["num_attention_heads"], transformer["sample_size"] ** 2
    width = heads * transformer["attention_head_dim"]
    numbers = 2 * pixels * (8 * transformer["num_vector_embeds"] + 16 * width + 2 * heads * pixels)
    return max(1, min(LARGEST_BATCH, MEMORY // (4 * numbers)))


def batches_of(count: int, batch_size: int, rank: int = 0, workers: int = 1) -> list[range]:
    """The batches of one process: every ``workers``-th of those that pictures 0 to ``count`` make.

    The place of a picture in its batch never depends on the number of processes or on earlier runs: it decides how
    numbers are rounded.
    """
    return [range(start, min(start + batch_size, count)) for start in range(0, count, batch_size)][rank::workers]


def generate_batch(
    pipe: VQDiffusionPipeline, pictures: Sequence[Picture], size: int, settings: Mapping[str, Any]
) -> list[Image.Image]:
    """Generates ``pictures``, in a batch that is filled up to ``size``: another size would compile again.

    Args:
        settings: arguments of the pipeline's call.

    Raises:
        MemoryError: the batch does not fit into memory.
    """
    empty = size - len(pictures)
    prompts = [picture.prompt for picture in pictures] + [""] * empty
    seeds = [picture.seed for picture in pictures] + [0] * empty
    try:
        return pipe(prompts, generator=seeds, **settings)[0][: len(pictures)]
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            message = f"A batch of {size} does not fit into memory: use a smaller batch size. ({error})"
            raise MemoryError(message) from error
        raise


def generate_missing(
    pipe: VQDiffusionPipeline,
    folder: PictureFolder,
    batch_size: int,
    settings: Mapping[str, Any],
    rank: int = 0,
    workers: int = 1,
) -> None:
    """Generates the missing pictures of ``folder`` that belong to the process ``rank`` of ``workers``.

    Args:
        settings: arguments of the pipeline's call.

    Raises:
        MemoryError: a batch does not fit into memory; finished pictures are kept.
    """
    pipe.set_progress_bar_config(disable=True)
    done, size = folder.done(), min(batch_size, len(folder.pictures))
    batches = batches_of(len(folder.pictures), size, rank, workers)
    missing = [[number for number in batch if number not in done] for batch in batches]
    total, title = sum(map(len, batches)), f"device {rank + 1} of {workers}" if workers > 1 else None
    with tqdm(total=total, initial=total - sum(map(len, missing)), desc=title, unit="picture") as bar:
        for batch, wanted in zip(batches, missing):
            if not wanted:
                continue
            images = generate_batch(pipe, [folder.pictures[number] for number in batch], size, settings)
            for number in wanted:
                folder.save(number, images[number - batch.start])
            bar.update(len(wanted))
