"""Files and folders that are written completely or not at all; and JSON."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file that is written under a temporary name beside ``path``, and renamed at the end."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    """Writes ``content`` into ``path``, completely or not at all."""
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def replacing_folder(destination: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder that replaces ``destination`` at the end, and is removed on an error.

    Raises:
        FileExistsError: ``destination`` exists and may not be replaced.
    """
    check_destination(destination, overwrite)
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial, previous = (destination.with_name(f".{destination.name}.{suffix}") for suffix in ("partial", "previous"))
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    try:
        yield partial
        if destination.exists():
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(destination, previous)
        os.replace(partial, destination)
        shutil.rmtree(previous, ignore_errors=True)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_destination(destination: Path, overwrite: bool) -> None:
    """Raises FileExistsError if ``destination`` exists and may not be replaced."""
    if destination.is_file():
        raise FileExistsError(f"{destination} is a file; the destination must be a folder.")
    if destination.exists() and any(destination.iterdir()) and not overwrite:
        raise FileExistsError(f"{destination} exists already; pass --overwrite (overwrite=True) to replace it.")


def check_writable(path: Path, is_folder: bool = False) -> None:
    """Raises OSError if no file, or no folder, can be created at ``path``. Leaves nothing behind."""
    if path.exists() and path.is_dir() != is_folder:
        wanted = "a file; give the name of a folder." if is_folder else "a folder; give the name of a file."
        raise OSError(f"{path} is {wanted}")
    place = path.absolute() if path.is_dir() else path.absolute().parent
    place = next(folder for folder in (place, *place.parents) if folder.exists())
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise type(error)(f"{path} cannot be written: {place}: {error.strerror}. Give another place.") from error


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes ``content`` the way diffusers writes its configs."""
    write_atomically(path, (json.dumps(content, indent=2, sort_keys=True) + "\n").encode())


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: says what else the folder holds.
        ValueError: the file is not a JSON object.
    """
    if not path.is_file():
        if not path.parent.is_dir():
            raise FileNotFoundError(f"{path} does not exist, nor does its folder.")
        names = ", ".join(sorted(os.listdir(path.parent))) or "nothing"
        raise FileNotFoundError(f"{path} does not exist; its folder holds {names}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, expected an object.")
    return content
