"""Tensors that are known by name, shape and type, and read when they are used."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO, Callable, Optional

import numpy as np

# Type of a stored element -> the numpy type of its bytes. numpy has no bfloat16 and no float8: their bits.
STORED_AS = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "float8_e4m3fn": np.uint8,
    "float8_e5m2": np.uint8,
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
    """A tensor in a file, or made of such tensors.

    Attributes:
        shape: its shape.
        dtype: a key of ``STORED_AS``.
        read_stored: gives an array of ``shape`` and ``STORED_AS[dtype]``, whoever asks in memory of his own; may
            raise ValueError where the file is damaged.
        copy_to: copies the same bytes into an open file, where its own file has them in one run; None elsewhere.
    """

    shape: tuple[int, ...]
    dtype: str
    read_stored: Callable[[], np.ndarray]
    copy_to: Optional[Callable[[BinaryIO], None]] = None

    @property
    def size(self) -> int:
        """How many elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    def read(self) -> np.ndarray:
        """The values, in numpy's type of the same name; bfloat16 and float8 as float32, which holds them exactly."""
        return widened(self.read_stored(), self.dtype)

    def write_to(self, file: BinaryIO) -> None:
        """Writes the stored bytes at the end of ``file``."""
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
        """An array that is there already; numpy's bfloat16, as some libraries add it, included."""
        name = array.dtype.name
        return cls(array.shape, name, lambda: array.view(STORED_AS[name]).copy())


def widened(stored: np.ndarray, dtype: str) -> np.ndarray:
    """``stored`` in a type that numpy can compute with."""
    flat = stored.reshape(-1)  # numpy computes with a single number in another type
    if dtype == "bfloat16":
        return (flat.astype(np.uint32) << 16).view(np.float32).reshape(stored.shape)
    if dtype == "float8_e5m2":  # the upper byte of a float16
        return (flat.astype(np.uint16) << 8).view(np.float16).astype(np.float32).reshape(stored.shape)
    if dtype == "float8_e4m3fn":
        return _E4M3FN[flat].reshape(stored.shape)
    return stored


def narrowed(array: np.ndarray, dtype: str) -> np.ndarray:
    """``array`` rounded to ``dtype``, to the nearest and to even, as it is stored."""
    if dtype != "bfloat16":
        return array.astype(STORED_AS[dtype])
    bits = np.ascontiguousarray(array, np.float32).reshape(array.shape).view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(array), np.uint16(0x7FC0), rounded)


def _e4m3fn_values() -> np.ndarray:
    """What each byte stands for: 4 bits of exponent, bias 7; 3 of mantissa; no infinity, one NaN of each sign."""
    byte = np.arange(256)
    exponent, mantissa = (byte >> 3) & 15, (byte & 7) / 8
    value = np.where(exponent == 0, mantissa * 2.0**-6, (1 + mantissa) * 2.0 ** (exponent - 7.0))
    value[(byte & 127) == 127] = np.nan
    return np.where(byte & 128, -value, value).astype(np.float32)


_E4M3FN = _e4m3fn_values()
