"""Datasets: captioned pictures in a folder or in MindRecord files."""

import functools
import hashlib
import io
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any, BinaryIO, Optional, Union

from PIL import Image

from mindone_vq.pictures import to_rgb
from mindone_vq.training.data.mindrecord import Records, record_files

Source = Union[Path, BinaryIO]

METADATA = "metadata.jsonl"
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
EXPECTED = (
    f"Expected a folder of pictures with {METADATA} (a line for each: file_name, caption), "
    "a MindRecord file or a folder of them; where captions are not needed, also a folder of pictures alone."
)
NAMED_AT_MOST = 5
HEADER_THREADS = 8  # opening files is waiting, not computing


class UnreadablePicture(ValueError):
    """A picture whose header can be read and whose pixels cannot."""


# Kind of problem -> what one of them and what several are called.
KINDS = {
    "malformed": ("malformed line", "malformed lines"),
    "outside": ("file name that leaves the folder", "file names that leave the folder"),
    "missing": ("missing file", "missing files"),
    "unreadable": ("unreadable picture", "unreadable pictures"),
    "uncaptioned": ("without a caption", "without a caption"),
}


@dataclass
class Problems:
    """What is wrong in a dataset: the names of the entries, by kind. All but ``undecodable`` are left out."""

    total: int = 0  # entries, usable or not
    malformed: list[str] = field(default_factory=list)  # lines of metadata that are no JSON object with a file_name
    outside: list[str] = field(default_factory=list)  # names that leave the folder
    uncaptioned: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)  # without the header of a picture
    undecodable: list[str] = field(default_factory=list)  # found only when the picture was read

    @property
    def left_out(self) -> int:
        return sum(len(getattr(self, kind)) for kind in KINDS)

    def summary(self) -> str:
        """One line: how many entries were left out and why, with at most five names for each kind."""
        named = [(getattr(self, kind), words) for kind, words in KINDS.items()]
        parts = [f"{len(names):,} {words[len(names) > 1]} ({_some(names)})" for names, words in named if names]
        count = f"{self.left_out:,}" if self.left_out else "none"
        line = f"{count} of {self.total:,} entries {'was' if self.left_out == 1 else 'were'} left out"
        line += f": {', '.join(parts)}" if parts else ""
        if self.undecodable:
            pictures = "picture" if len(self.undecodable) == 1 else "pictures"
            line += f"; {len(self.undecodable):,} {pictures} could not be decoded when read ({_some(self.undecodable)})"
        return line


def _some(names: list[str]) -> str:
    more = len(names) - NAMED_AT_MOST
    return ", ".join(names[:NAMED_AT_MOST]) + (f" and {more:,} more" if more > 0 else "")


class CaptionedPictures:
    """Pictures with captions, in an order that is always the same; made by ``open_dataset``.

    Attributes:
        captions: one for each picture; empty where there is none and none is required.
        problems: what was left out, and what could not be decoded so far.
        background: the colour on which transparent pictures are laid.
    """

    def __init__(self, problems: Problems, background: str, files: Optional[list[list[Any]]] = None) -> None:
        self.names: list[str] = []
        self.captions: list[str] = []
        self.problems, self.background = problems, background
        self._files, self._sources, self._lock = files or [], [], threading.Lock()

    def add(self, name: str, caption: str, source: Callable[[], Source], file: Optional[list[Any]] = None) -> None:
        """Adds a picture that ``source`` opens; ``file``: size and time of its file."""
        self.names.append(name)
        self.captions.append(caption)
        self._sources.append(source)
        if file is not None:
            self._files.append(file)

    def __len__(self) -> int:
        return len(self.names)

    def picture(self, index: int) -> Image.Image:
        """A picture in RGB.

        Raises:
            UnreadablePicture: it cannot be decoded; from then on it is among ``problems.undecodable``.
        """
        try:
            with Image.open(self._sources[index]()) as picture:
                return to_rgb(picture, self.background)
        except Exception as error:  # decoders raise anything for bytes that are not what they should be
            name = self.names[index]
            with self._lock:  # several threads may read
                if name not in self.problems.undecodable:
                    self.problems.undecodable.append(name)
            raise UnreadablePicture(f"{name} cannot be decoded: {error}. Replace it, or take it out.") from error

    def fingerprint(self) -> str:
        """sha256, in hexadecimal, over names, captions, background, sizes and times of files: equal means unchanged."""
        digest = hashlib.sha256()
        for part in (self.names, self.captions, self._files, self.background):
            digest.update(json.dumps(part).encode() + b"\n")
        return digest.hexdigest()


def open_dataset(
    path: Union[str, Path],
    captions_required: bool,
    *,
    background: str = "white",
    image_column: str = "image",
    caption_column: str = "text",
) -> CaptionedPictures:
    """Opens a dataset and looks at every entry; what is wrong is left out and named in ``problems``.

    Args:
        path: a folder with metadata.jsonl, a MindRecord file, a folder of MindRecord files, or, where captions are not
            required, a folder of pictures.
        captions_required: leave entries without a caption out.
        background: the colour on which transparent pictures are laid, as Pillow names it.
        image_column: the field of a MindRecord with the encoded picture.
        caption_column: the field with the caption, of a MindRecord or of a line in metadata.jsonl.

    Raises:
        FileNotFoundError: nothing is there.
        ValueError: nothing in it can be used; says what was found.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. {EXPECTED}")
    records = record_files(path) if path.is_dir() else [path]
    if (path / METADATA).is_file():
        problems = Problems()
        entries = list(_metadata_entries(path / METADATA, caption_column, captions_required, problems))
        dataset = _from_folder(path, entries, problems, background)
    elif records:
        columns = Records(records, image_column, caption_column, captions_required)
        dataset = _from_records(records, columns, background)
    else:
        names = sorted(_picture_files(path))
        if not names or captions_required:
            raise ValueError(f"{path} holds {len(names):,} pictures and neither {METADATA} nor MindRecord. {EXPECTED}")
        dataset = _from_folder(path, [(name, "") for name in names], Problems(total=len(names)), background)
    if not len(dataset):
        raise ValueError(f"{path} has no entry that can be used: {dataset.problems.summary()}. {EXPECTED}")
    return dataset


def _from_folder(
    folder: Path, entries: list[tuple[str, str]], problems: Problems, background: str
) -> CaptionedPictures:
    """``entries``: (name, caption) of files that may turn out to be missing or unreadable."""
    distinct = list(dict.fromkeys(name for name, _ in entries))  # a picture may have several captions
    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        readable = dict(zip(distinct, pool.map(lambda name: _has_header(folder / name), distinct)))
    dataset = CaptionedPictures(problems, background)
    for name, caption in entries:
        path = folder / name
        if not path.is_file():
            problems.missing.append(name)
        elif not readable[name]:
            problems.unreadable.append(name)
        else:
            dataset.add(name, caption, functools.partial(Path, path), _size_and_time(path))
    return dataset


def _from_records(files: list[Path], records: Records, background: str) -> CaptionedPictures:
    dataset = CaptionedPictures(Problems(), background, [[file.name, *_size_and_time(file)] for file in files])
    for number, (content, caption) in enumerate(records.all()):
        name, problems = f"record {number}", dataset.problems
        problems.total += 1
        if records.caption_required and not (caption and caption.strip()):
            problems.uncaptioned.append(name)
        elif not _has_header(io.BytesIO(content)):
            problems.unreadable.append(name)
        else:
            dataset.add(name, caption or "", functools.partial(records.image, number))
    return dataset


def _metadata_entries(path: Path, column: str, required: bool, problems: Problems) -> Iterator[tuple[str, str]]:
    """Yields (name, caption) of the lines that are in order, and sorts the others into ``problems``."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            problems.total += 1
            try:
                entry = json.loads(line.decode("utf-8-sig"))
            except (ValueError, RecursionError):  # neither UTF-8 nor JSON, or nested without end
                entry = None
            name = entry.get("file_name") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not name or "\0" in name:
                problems.malformed.append(f"line {number}")
                continue
            caption = entry.get(column)
            captioned = isinstance(caption, str) and bool(caption.strip())
            if PurePath(name).anchor or ".." in PurePath(name).parts:
                problems.outside.append(name)
            elif required and not captioned:
                problems.uncaptioned.append(name)
            else:
                yield name, caption if captioned else ""


def _picture_files(folder: Path) -> Iterator[str]:
    """Pictures below a folder by their suffix; hidden ones are leftovers of other programs."""
    for path in folder.rglob("*"):
        name = path.relative_to(folder)
        if path.suffix.lower() in SUFFIXES and not any(part.startswith(".") for part in name.parts) and path.is_file():
            yield name.as_posix()


def _has_header(source: Source) -> bool:
    try:
        with Image.open(source):
            return True
    except Exception:  # as in CaptionedPictures.picture
        return False


def _size_and_time(path: Path) -> list[Any]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
