"""The bytes of tensors in a PyTorch file: read when they are used, and then checked."""

import contextlib
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO, Optional

import numpy as np

from mindone_vq.weights.pickle_machine import UnreadableCheckpoint

CHUNK = 2**20


class Storage:
    """A run of bytes in the file.

    Args:
        file: the open file.
        start, length: where it lies, in bytes.
        dtype: of its elements.
        checksum: CRC-32 of the bytes, or None where the format has none.
        name: for messages.
    """

    def __init__(self, file: BinaryIO, start: int, length: int, dtype: str, checksum: Optional[int], name: str) -> None:
        self.file, self.start, self.length, self.dtype = file, start, length, dtype
        self.checksum, self.name = checksum, name

    def bytes(self, first: int, length: int) -> np.ndarray:
        """``length`` bytes from byte ``first`` on, as uint8; verifies the checksum the first time."""
        if self.checksum is not None and (first, length) == (0, self.length):
            data = self._pread(0, self.length)
            self._verify(zlib.crc32(data))
            return data
        self._verify_whole()
        return self._pread(first, length)

    def copy_to(self, target: BinaryIO, first: int, length: int) -> None:
        """Appends ``length`` bytes from byte ``first`` on to ``target``; an error where their checksum is wrong.

        Where the system can, it copies by itself, while the checksum is taken beside it: several times as fast for
        gigabytes.
        """
        target.flush()
        position, end = self.start + first, self.start + first + length
        with ThreadPoolExecutor(max_workers=1) as beside:
            verified = beside.submit(self._verify_whole)
            with contextlib.suppress(OSError, AttributeError):  # not here, or not between these files: see below
                while position < end:
                    copied = os.copy_file_range(self.file.fileno(), target.fileno(), end - position, position)
                    if not copied:
                        break
                    position += copied
            verified.result()
        while position < end:
            step = min(CHUNK, end - position)
            target.write(self._pread(position - self.start, step).data)
            position += step

    def _verify_whole(self) -> None:
        if self.checksum is None:
            return
        crc, buffer = 0, memoryview(bytearray(min(CHUNK, self.length)))
        self.file.seek(self.start)
        for position in range(0, self.length, CHUNK):
            piece = buffer[: min(CHUNK, self.length - position)]
            if self.file.readinto(piece) != len(piece):
                raise UnreadableCheckpoint(f"the file ends inside {self.name}")
            crc = zlib.crc32(piece, crc)
        self._verify(crc)

    def _verify(self, crc: int) -> None:
        if crc != self.checksum:
            raise UnreadableCheckpoint(f"the bytes of {self.name} do not have their checksum: the file is damaged")
        self.checksum = None

    def _pread(self, first: int, length: int) -> np.ndarray:
        data = np.empty(length, np.uint8)
        self.file.seek(self.start + first)
        if self.file.readinto(memoryview(data)) != length:
            raise UnreadableCheckpoint(f"the file ends inside {self.name}")
        return data
