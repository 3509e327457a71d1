"""Reading and writing small files without leaving half of one behind."""

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
    """A file under a temporary name beside ``path``, renamed at the end: the old file or the whole new one."""
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
    """Writes ``content`` into ``path``, whole or not at all."""
    with atomic_file(path) as file:
        file.write(content)


@contextmanager
def replacing_folder(destination: Path, overwrite: bool) -> Iterator[Path]:
    """A new folder that takes the place of ``destination`` at the end, and is removed on an error.

    Raises:
        FileExistsError: ``destination`` is there and may not be replaced.
    """
    check_destination(destination, overwrite)
    destination.parent.mkdir(parents=True, exist_ok=True)
    partial = destination.with_name(f".{destination.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    partial.mkdir()
    try:
        yield partial
        if destination.exists():
            previous = destination.with_name(f".{destination.name}.previous")
            shutil.rmtree(previous, ignore_errors=True)
            os.replace(destination, previous)
            os.replace(partial, destination)
            shutil.rmtree(previous)
        else:
            os.replace(partial, destination)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def check_destination(destination: Path, overwrite: bool) -> None:
    """Raises FileExistsError where ``destination`` is there and may not be replaced."""
    if destination.is_file():
        raise FileExistsError(f"{destination} is a file; the destination is a folder.")
    if destination.exists() and any(destination.iterdir()) and not overwrite:
        raise FileExistsError(f"{destination} is there already; pass --overwrite (overwrite=True) to replace it.")


def check_writable(path: Path, is_folder: bool = False) -> None:
    """Raises OSError where no file, or no folder, can be made at ``path``; leaves nothing."""
    if path.exists() and path.is_dir() != is_folder:
        wanted = "a file; give the name of a folder." if is_folder else "a folder; give the name of a file."
        raise OSError(f"{path} is {wanted}")
    place = next(parent for parent in (path.absolute(), *path.absolute().parents) if parent.exists())
    place = place if place.is_dir() or place != path.absolute() else place.parent
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
        beside = sorted(p.name for p in path.parent.iterdir()) if path.parent.is_dir() else []
        held = f"the folder holds {', '.join(beside) or 'nothing'}" if path.parent.is_dir() else "nor the folder"
        raise FileNotFoundError(f"{path} does not exist; {held}.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not readable as JSON: {error}.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, expected an object.")
    return content
