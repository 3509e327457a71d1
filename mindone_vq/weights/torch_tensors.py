"""The tensors of PyTorch's checkpoints: what stands for PyTorch's own functions while their pickle is read."""

import math
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Optional

import numpy as np

from mindone_vq.weights.lazy import STORED_AS, LazyTensor
from mindone_vq.weights.unpickler import UnreadableCheckpoint, check_keys

MAX_DIMENSIONS = 32  # numpy's
MAX_COUNT = 2**48  # of elements
# A tensor may repeat its elements (stride 0). Up to this many bytes it may be larger than its file.
SMALL_EXPANSION = 2**20
CHUNK = 2**20


class ElementType(str):
    """A key of ``STORED_AS`` that a pickle refers to as a global. Plain text in a pickle is none."""


STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": "bfloat16",
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
}


@dataclass(eq=False)
class Storage:
    """A range of bytes in a file, of which tensors are views.

    Attributes:
        file: open.
        start, length: in bytes.
        dtype: of the elements.
        name: for messages.
        checksum: CRC-32 of the bytes; None: there is none, or it was verified.
    """

    file: BinaryIO
    start: int
    length: int
    dtype: ElementType
    name: str
    checksum: Optional[int] = None

    def read(self, first: int, length: int) -> np.ndarray:
        """``length`` bytes from byte ``first`` on, as uint8. The first reading verifies the checksum of all bytes."""
        if self.checksum is not None and length < self.length:
            for _ in self.pieces():
                pass
        data = np.empty(length, np.uint8)
        self._fill(data, first)
        if self.checksum is not None:
            self._verify(zlib.crc32(data))
        return data

    def pieces(self) -> Iterator[np.ndarray]:
        """All bytes in pieces, which share one buffer. The checksum is verified at the end."""
        buffer, crc = np.empty(min(CHUNK, self.length), np.uint8), 0
        for first in range(0, self.length, CHUNK):
            piece = buffer[: self.length - first]
            self._fill(piece, first)
            crc = zlib.crc32(piece, crc)
            yield piece
        self._verify(crc)

    def _fill(self, target: np.ndarray, first: int) -> None:
        self.file.seek(self.start + first)
        if self.file.readinto(memoryview(target)) != len(target):
            raise UnreadableCheckpoint(f"the file ends inside {self.name}")

    def _verify(self, crc: int) -> None:
        if self.checksum not in (None, crc):
            raise UnreadableCheckpoint(f"the bytes of {self.name} do not have their checksum: the file is damaged")
        self.checksum = None


def file_size(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size


def width_of(dtype: str) -> int:
    """Bytes of an element."""
    return np.dtype(STORED_AS[dtype]).itemsize


# The functions below stand for PyTorch's. All their arguments come from the file.


def _ordered_dict(items: Any = ()) -> OrderedDict:
    check_keys([key for key, _ in items])
    return OrderedDict(items)


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """Pickles of protocol 2 spell bytes like this."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnreadableCheckpoint("its pickle encodes something else than text, or by another codec than latin1")
    return text.encode("latin1")


def _size(numbers: Any) -> tuple:
    if not isinstance(numbers, tuple):
        raise UnreadableCheckpoint(f"its pickle makes a torch.Size of a {type(numbers).__name__}")
    return numbers


def _rebuild_parameter(tensor: Any, *_: Any) -> LazyTensor:
    if not isinstance(tensor, LazyTensor):
        raise UnreadableCheckpoint("its pickle makes a parameter of something that is no tensor")
    return tensor


def _rebuild_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any = None, _hooks: Any = None, metadata: Any = None
) -> LazyTensor:
    return _rebuild_tensor_v3(storage, offset, size, stride, None, None, None, metadata)


def _rebuild_tensor_v3(
    storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, metadata: Any = None
) -> LazyTensor:
    """A tensor over part of a storage; ``offset`` and ``stride`` count elements."""
    dtype = getattr(storage, "dtype", None) if dtype is None else dtype
    valid = isinstance(storage, Storage) and isinstance(dtype, ElementType)
    # Tuples of integers cannot change between the checks and the reading.
    valid = valid and isinstance(size, tuple) and isinstance(stride, tuple) and len(size) == len(stride)
    if not valid or not all(type(number) is int and 0 <= number < MAX_COUNT for number in (offset, *size, *stride)):
        raise UnreadableCheckpoint("its pickle describes a tensor as torch.save does not")
    if len(size) > MAX_DIMENSIONS:
        raise UnreadableCheckpoint(f"a tensor has {len(size)} dimensions; at most {MAX_DIMENSIONS} are read")
    described = f"a tensor of offset {offset}, size {size} and stride {stride}"
    if metadata:
        raise UnreadableCheckpoint(f"{described} is conjugated or negated when it is read, which is not supported")
    stored_as = np.dtype(STORED_AS[dtype])
    count, width = math.prod(size), stored_as.itemsize
    if count * width > max(file_size(storage.file), SMALL_EXPANSION):
        raise UnreadableCheckpoint(f"{described} would take more bytes than the whole file has")
    if not count:
        empty = np.empty(size, stored_as)
        return LazyTensor(size, dtype, lambda: empty)
    length = sum((n - 1) * step for n, step in zip(size, stride)) + 1
    if (offset + length) * width > storage.length:
        raise UnreadableCheckpoint(f"{described} reaches beyond the end of {storage.name}")

    def read() -> np.ndarray:
        elements = storage.read(offset * width, length * width).view(stored_as)
        steps = [step * width for step in stride]
        return np.ascontiguousarray(np.lib.stride_tricks.as_strided(elements, size, steps)).reshape(size)

    def copy_to(file: BinaryIO) -> None:
        for piece in storage.pieces():
            file.write(piece)

    in_order = stride == tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
    return LazyTensor(size, dtype, read, copy_to if in_order and count * width == storage.length else None)


def _rebuild_from_type(function: Any, _type: Any, arguments: Any, _state: Any) -> LazyTensor:
    if function not in (_rebuild_tensor, _rebuild_tensor_v3):
        raise UnreadableCheckpoint("its pickle makes a tensor by a function that makes none: refused")
    return function(*arguments)


# What stands for the globals in a pickle.
NAMES = {
    "torch._utils._rebuild_tensor": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_v3,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuild_from_type,
    "torch.Size": _size,
    "torch.device": lambda *_: None,
    "collections.OrderedDict": _ordered_dict,
    "_codecs.encode": _encode,
    "torch.Tensor": "torch.Tensor",
    "torch.nn.parameter.Parameter": "torch.nn.parameter.Parameter",
    "torch.storage.UntypedStorage": ElementType("uint8"),
    **{f"torch.{name}Storage": ElementType(dtype) for name, dtype in STORAGES.items()},
    **{f"torch.{dtype}": ElementType(dtype) for dtype in STORED_AS},
}
