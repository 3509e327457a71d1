"""What tells one model from another."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

BLOCK, BLOCKS = 1 << 16, 16
LENGTH = 16  # hexadecimal digits


def fingerprint(folder: Path, components: Iterable[str]) -> str:
    """Some digits that are others when a component of a pipeline was trained further, converted or exchanged.

    They come from the names and sizes of its files and from blocks spread over each (a small file is read whole):
    reading all of a large model would take as long as loading it. Where the folder is, and when it was written, does
    not count.
    """
    digest = hashlib.sha256()
    for component in sorted(components):
        for path in sorted(folder.joinpath(component).glob("*")):
            if not path.is_file() or path.name.startswith("."):
                continue
            size = path.stat().st_size
            digest.update(f"{component}/{path.name} {size}\n".encode())
            with open(path, "rb") as file:
                for start in range(0, size, max(BLOCK, size // BLOCKS)):
                    file.seek(start)
                    digest.update(file.read(BLOCK))
    return digest.hexdigest()[:LENGTH]
