"""Tensors whose shape and type are known, and whose values are read when they are used."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Callable, Optional

import numpy as np

# Type of a stored element -> numpy's type of its bytes. numpy has no bfloat16: its bits.
STORED_AS = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint64": np.uint64,
    "uint32": np.uint32,
    "uint16": np.uint16,
    "uint8": np.uint8,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
}


@dataclass(frozen=True)
class LazyTensor:
    """A tensor in a file, or computed from such tensors.

    Attributes:
        shape: its shape.
        dtype: a key of ``STORED_AS``.
        read_stored: returns a new array of ``shape`` and ``STORED_AS[dtype]``; raises ValueError where the file is
            damaged.
        copy_to: appends the same bytes to an open file, faster than ``read_stored``; None: it cannot.
    """

    shape: tuple[int, ...]
    dtype: str
    read_stored: Callable[[], np.ndarray]
    copy_to: Optional[Callable[[BinaryIO], None]] = None

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Number of bytes in a file."""
        return self.size * np.dtype(STORED_AS[self.dtype]).itemsize

    def read(self) -> np.ndarray:
        """The values in numpy's type of the same name; bfloat16 as float32, which holds it exactly."""
        stored = self.read_stored()
        if self.dtype != "bfloat16":
            return stored
        bits = stored.reshape(-1).astype(np.uint32) << 16  # of an array: a number alone would become another type
        return bits.view(np.float32).reshape(self.shape)

    def write_to(self, file: BinaryIO) -> None:
        """Appends the stored bytes to ``file``."""
        if self.copy_to is not None:
            self.copy_to(file)
        elif self.size:
            file.write(np.ascontiguousarray(self.read_stored()).data)

    def then(self, change: Callable[[np.ndarray], np.ndarray], shape: Optional[Sequence[int]] = None) -> "LazyTensor":
        """The tensor after ``change``, which keeps the type."""
        return LazyTensor(self.shape if shape is None else tuple(shape), self.dtype, lambda: change(self.read_stored()))

    def cast(self, dtype: str) -> "LazyTensor":
        """The same values, rounded to ``dtype``: "float32", "float16" or "bfloat16"."""
        if dtype == self.dtype:
            return self
        return LazyTensor(self.shape, dtype, lambda: narrowed(self.read(), dtype))

    @classmethod
    def of(cls, array: np.ndarray) -> "LazyTensor":
        """An array in memory, also of the bfloat16 that some libraries add to numpy."""
        name = array.dtype.name
        return cls(array.shape, name, lambda: array.view(STORED_AS[name]).copy())


def narrowed(array: np.ndarray, dtype: str) -> np.ndarray:
    """``array`` as it is stored in ``dtype``, rounded to nearest, ties to even."""
    if dtype != "bfloat16":
        return array.astype(STORED_AS[dtype])
    bits = np.ascontiguousarray(array, np.float32).reshape(array.shape).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded)
