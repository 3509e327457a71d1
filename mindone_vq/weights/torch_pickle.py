"""PyTorch's checkpoint files, read without PyTorch and without executing anything.

Both formats of ``torch.save``: the zip archive (since 1.6) and the row of pickles before it. Tensors are read from
the file when they are used; in a zip archive their checksums are verified then.
"""

import io
import math
import os
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, Callable

import numpy as np

from mindone_vq.weights.lazy import STORED_AS, LazyTensor
from mindone_vq.weights.pickle_machine import MAX_LENGTH, Name, PickleMachine, UnreadableCheckpoint, shown
from mindone_vq.weights.torch_storage import Storage

__all__ = ["UnreadableCheckpoint", "open_checkpoint"]

STORAGE_TYPES = {
    "torch.DoubleStorage": "float64",
    "torch.FloatStorage": "float32",
    "torch.HalfStorage": "float16",
    "torch.BFloat16Storage": "bfloat16",
    "torch.LongStorage": "int64",
    "torch.IntStorage": "int32",
    "torch.ShortStorage": "int16",
    "torch.CharStorage": "int8",
    "torch.ByteStorage": "uint8",
    "torch.BoolStorage": "bool",
    "torch.ComplexFloatStorage": "complex64",
    "torch.ComplexDoubleStorage": "complex128",
    "torch.storage.UntypedStorage": "uint8",
}
DTYPES = {f"torch.{dtype}": dtype for dtype in STORED_AS}
LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# A tensor may show one element many times (stride 0). Up to this many bytes that is believed of any file.
SMALL_EXPANSION = 2**20
MAX_DIMENSIONS = 32  # numpy's


def open_checkpoint(path: Path, ignore_unknown: bool = False) -> tuple[Any, set[str]]:
    """What ``torch.save`` put into the file, with a ``LazyTensor`` for each tensor.

    The file stays open as long as one of its tensors is referred to.

    Args:
        path: the file.
        ignore_unknown: pass over objects of unknown classes (Lightning pickles its callbacks) instead of refusing.

    Returns:
        The object; and the names of the classes that were passed over.

    Raises:
        UnreadableCheckpoint: the file is damaged, of another kind, or holds what is refused; names it.
    """
    file = open(path, "rb")  # noqa: SIM115 the tensors keep it
    try:
        magic = file.read(4)
        file.seek(0)
        reader = _ZipReader(file) if magic[:2] == b"PK" else _LegacyReader(file)
        return reader.load(ignore_unknown)
    except UnreadableCheckpoint as error:
        file.close()
        raise UnreadableCheckpoint(f"{path}: {error}.") from error
    except BaseException:
        file.close()
        raise


class _Reader:
    """What both formats share: the names that a pickle may use, and how tensors are put together."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.file_size = os.fstat(file.fileno()).st_size

    def machine(self, ignore_unknown: bool) -> PickleMachine:
        functions: dict[str, Callable] = {
            "collections.OrderedDict": lambda *items: OrderedDict(*items),
            "torch.Size": _size,
            "torch._utils._rebuild_tensor": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v3": self._rebuild_tensor_of_type,
            "torch._utils._rebuild_parameter": lambda tensor, *_: _tensor(tensor),
            "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: _tensor(tensor),
            "torch._tensor._rebuild_from_type_v2": self._rebuild_from_type,
            "torch.device": lambda *_: None,
            "_codecs.encode": _encode,
        }
        # Given as arguments, never called.
        names = [*STORAGE_TYPES, *DTYPES, "torch.Tensor", "torch.nn.parameter.Parameter"]
        constants = {name: Name(*name.rsplit(".", 1)) for name in names}
        return PickleMachine(functions, constants, self.storage, ignore_unknown)

    def storage(self, persistent_id: Any) -> Storage:
        raise NotImplementedError

    def _rebuild_tensor(
        self,
        storage: Any,
        offset: Any,
        size: Any,
        stride: Any,
        _grad: Any = None,
        _hooks: Any = None,
        flags: Any = None,
    ) -> LazyTensor:
        if not isinstance(storage, Storage):
            raise UnreadableCheckpoint("its pickle makes a tensor without a storage")
        return self._view(storage, storage.dtype, offset, size, stride, flags)

    def _rebuild_tensor_of_type(
        self, storage: Any, offset: Any, size: Any, stride: Any, _grad: Any, _hooks: Any, dtype: Any, flags: Any = None
    ) -> LazyTensor:
        if not isinstance(storage, Storage) or not isinstance(dtype, Name) or str(dtype) not in DTYPES:
            raise UnreadableCheckpoint("its pickle makes a tensor without a storage, or of an unknown type")
        return self._view(storage, DTYPES[str(dtype)], offset, size, stride, flags)

    def _rebuild_from_type(self, function: Any, _type: Any, arguments: Any, _state: Any) -> LazyTensor:
        builders = {
            "torch._utils._rebuild_tensor_v2": self._rebuild_tensor,
            "torch._utils._rebuild_tensor_v3": self._rebuild_tensor_of_type,
        }
        if not isinstance(function, Name) or str(function) not in builders or not isinstance(arguments, tuple):
            raise UnreadableCheckpoint(f"its pickle makes a tensor by {shown(function)}: refused")
        return builders[str(function)](*arguments)

    def _view(self, storage: Storage, dtype: str, offset: Any, size: Any, stride: Any, flags: Any) -> LazyTensor:
        """A tensor over part of a storage; ``offset`` and ``stride`` count elements."""
        described = f"a tensor of offset {shown(offset)}, size {shown(size)}, stride {shown(stride)}"
        # Tuples, and of numbers, so that nothing can change between the checks and the reading.
        if not isinstance(size, tuple) or not isinstance(stride, tuple) or len(size) != len(stride):
            raise UnreadableCheckpoint(f"{described}: its sizes and strides do not belong together")
        if len(size) > MAX_DIMENSIONS:
            raise UnreadableCheckpoint(f"a tensor has {len(size)} dimensions; at most {MAX_DIMENSIONS} are read")
        if not all(type(number) is int and 0 <= number < 2**48 for number in (offset, *size, *stride)):
            raise UnreadableCheckpoint(f"{described}: not all are whole numbers from 0 on")
        if flags:
            raise UnreadableCheckpoint(f"{described} is to be conjugated or negated when it is read: not supported")
        stored_as = np.dtype(STORED_AS[dtype])
        count, width = math.prod(size), stored_as.itemsize
        if count * width > max(self.file_size, SMALL_EXPANSION):
            raise UnreadableCheckpoint(f"{described} would take more bytes than the whole file has")
        if not count:
            empty = np.empty(size, stored_as)
            return LazyTensor(size, dtype, lambda: empty)
        length = sum((n - 1) * step for n, step in zip(size, stride)) + 1
        if (offset + length) * width > storage.length:
            raise UnreadableCheckpoint(f"{described} reaches beyond the end of {storage.name}")

        def read() -> np.ndarray:
            elements = storage.bytes(offset * width, length * width).view(stored_as)
            steps = [step * width for step in stride]
            return np.ascontiguousarray(np.lib.stride_tricks.as_strided(elements, size, steps)).reshape(size)

        in_one_run = length == count and tuple(stride) == _contiguous_stride(size)
        copy = (lambda target: storage.copy_to(target, offset * width, length * width)) if in_one_run else None
        return LazyTensor(size, dtype, read, copy)


def _contiguous_stride(size: tuple) -> tuple:
    """The strides of a tensor whose elements lie in order, in elements."""
    return tuple(math.prod(size[i + 1 :]) for i in range(len(size)))


def _size(numbers: Any = ()) -> tuple:
    if not isinstance(numbers, (tuple, list)):
        raise UnreadableCheckpoint(f"its pickle makes a torch.Size of {shown(numbers)}")
    return tuple(numbers)


def _tensor(value: Any) -> LazyTensor:
    if not isinstance(value, LazyTensor):
        raise UnreadableCheckpoint("its pickle makes a parameter of something that is no tensor")
    return value


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How pickles of protocol 2 spell bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise UnreadableCheckpoint(f"its pickle encodes {shown(text)} as {shown(encoding)}: refused")
    return text.encode("latin1")


def _storage_fields(persistent_id: Any, count: int) -> tuple[str, str, int]:
    """(type of elements, key, number of elements) of a persistent id ('storage', type, key, location, number...)."""
    valid = isinstance(persistent_id, tuple) and len(persistent_id) == count and persistent_id[0] == "storage"
    if not valid or not isinstance(persistent_id[1], Name) or str(persistent_id[1]) not in STORAGE_TYPES:
        raise UnreadableCheckpoint(f"its pickle has a persistent id that is no storage: {shown(persistent_id)}")
    key, number = persistent_id[2], persistent_id[4]
    if not isinstance(key, str) or len(key) > 100 or type(number) is not int or not 0 <= number < 2**48:
        raise UnreadableCheckpoint(f"its pickle has a storage {shown(key)} of {shown(number)} elements")
    return STORAGE_TYPES[str(persistent_id[1])], key, number


class _ZipReader(_Reader):
    """The zip archive: ``<root>/data.pkl`` and a file ``<root>/data/<key>`` for each storage."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        try:
            with zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
        except (
            zipfile.BadZipFile,
            ValueError,
            OSError,
            struct.error,
            IndexError,
            OverflowError,
            NotImplementedError,
            EOFError,
        ) as error:
            raise UnreadableCheckpoint(f"not a whole zip archive ({error})") from error
        self.entries = {}
        for entry in entries:
            self._check(entry)
            self.entries[entry.filename] = entry
        pickles = [name for name in self.entries if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise UnreadableCheckpoint("a zip archive without data.pkl: not written by torch.save")
        self.root = pickles[0].split("/")[0]
        order = self.entries.get(f"{self.root}/byteorder")
        if order is not None and self._content(order) != b"little":
            raise UnreadableCheckpoint("its numbers are big-endian, which is not read")
        self.storages: dict[str, Storage] = {}

    def _check(self, entry: zipfile.ZipInfo) -> None:
        name = entry.orig_filename
        parts = name.replace("\\", "/").split("/")
        if name != entry.filename or name[1:2] == ":" or not parts[0] or ".." in parts:
            raise UnreadableCheckpoint(f"its archive has an entry of the name {name!r}: refused")
        if name in self.entries:
            raise UnreadableCheckpoint(f"its archive has two entries of the name {name!r}: refused")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
            raise UnreadableCheckpoint(f"the entry {name!r} of its archive is compressed: torch.save does not do that")
        if entry.flag_bits & 0x1:
            raise UnreadableCheckpoint(f"the entry {name!r} of its archive is encrypted")

    def _start(self, entry: zipfile.ZipInfo) -> int:
        """Where the bytes of an entry begin."""
        if not 0 <= entry.header_offset < self.file_size:
            raise UnreadableCheckpoint(f"the entry {entry.filename!r} of its archive is not in the file")
        self.file.seek(entry.header_offset)
        header = self.file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise UnreadableCheckpoint(f"the entry {entry.filename!r} of its archive is not where it should be")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        if self.file.read(name_length) != entry.orig_filename.encode("utf-8" if entry.flag_bits & 0x800 else "cp437"):
            raise UnreadableCheckpoint(f"the entry {entry.filename!r} of its archive has another name at its place")
        start = entry.header_offset + 30 + name_length + extra_length
        if start + entry.file_size > self.file_size:
            raise UnreadableCheckpoint(f"the entry {entry.filename!r} of its archive is longer than the file")
        return start

    def _storage_of(self, entry: zipfile.ZipInfo, dtype: str) -> Storage:
        return Storage(self.file, self._start(entry), entry.file_size, dtype, entry.CRC, entry.filename)

    def _content(self, entry: zipfile.ZipInfo) -> bytes:
        return self._storage_of(entry, "uint8").bytes(0, entry.file_size).tobytes()

    def load(self, ignore_unknown: bool) -> tuple[Any, set[str]]:
        machine, entry = self.machine(ignore_unknown), self.entries[f"{self.root}/data.pkl"]
        if entry.file_size > MAX_LENGTH:
            raise UnreadableCheckpoint(f"its pickle is longer than {MAX_LENGTH} bytes")
        return machine.run(io.BytesIO(self._content(entry))), machine.ignored

    def storage(self, persistent_id: Any) -> Storage:
        dtype, key, number = _storage_fields(persistent_id, 5)
        entry = self.entries.get(f"{self.root}/data/{key}")
        if entry is None:
            raise UnreadableCheckpoint(f"the storage {key!r} is not in its archive")
        if number * np.dtype(STORED_AS[dtype]).itemsize > entry.file_size:
            raise UnreadableCheckpoint(
                f"the storage {key!r} of {number} elements is longer than its {entry.file_size} bytes"
            )
        if key not in self.storages:
            self.storages[key] = self._storage_of(entry, dtype)
        known = self.storages[key]
        return known if known.dtype == dtype else self._storage_of(entry, dtype)


class _LegacyReader(_Reader):
    """Five pickles in a row - magic number, protocol, system, the object, the storage keys - then the storages."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.views: dict[str, Storage] = {}

    def load(self, ignore_unknown: bool) -> tuple[Any, set[str]]:
        plain = PickleMachine({}, {}, _no_storage)
        kind = "neither a zip archive nor a file of pickles as torch.save writes them"
        try:
            magic = plain.run(self.file)
        except UnreadableCheckpoint as error:
            raise UnreadableCheckpoint(f"{kind} ({error})") from error
        if magic != LEGACY_MAGIC:
            raise UnreadableCheckpoint(kind)
        if plain.run(self.file) != LEGACY_PROTOCOL:
            raise UnreadableCheckpoint("a format of torch.save that is not known")
        system = plain.run(self.file)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise UnreadableCheckpoint("its numbers are not little-endian")
        machine = self.machine(ignore_unknown)
        result = machine.run(self.file)
        keys = plain.run(self.file)
        if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or len(keys) != len(set(keys)):
            raise UnreadableCheckpoint("its list of storages is damaged")
        self._place(keys)
        return result, machine.ignored

    def storage(self, persistent_id: Any) -> Storage:
        """A storage whose place is not known yet: the bytes come after all pickles."""
        dtype, key, number = _storage_fields(persistent_id, 6)
        if persistent_id[5] is not None:
            raise UnreadableCheckpoint("a storage is a view of another one, as only PyTorch before 0.4 wrote it")
        width = np.dtype(STORED_AS[dtype]).itemsize
        known = self.views.setdefault(key, Storage(self.file, -1, number * width, dtype, None, f"storage {key}"))
        if (known.dtype, known.length) != (dtype, number * width):
            raise UnreadableCheckpoint(f"the storage {key} is described in two ways")
        return known

    def _place(self, keys: list[Any]) -> None:
        position = self.file.tell()
        for key in keys:
            storage = self.views.get(key)
            if storage is None:
                raise UnreadableCheckpoint(f"its list of storages names {shown(key)}, which no tensor uses")
            self.file.seek(position)
            header = self.file.read(8)
            width = np.dtype(STORED_AS[storage.dtype]).itemsize
            if len(header) < 8 or struct.unpack("<q", header)[0] * width != storage.length:
                raise UnreadableCheckpoint(f"{storage.name} is not as long in the file as in its description")
            storage.start = position + 8
            position += 8 + storage.length
            if position > self.file_size:
                raise UnreadableCheckpoint(f"{storage.name} is longer than the rest of the file")
        missing = set(self.views) - set(keys)
        if missing:
            raise UnreadableCheckpoint(f"the storages {shown(tuple(sorted(missing)))} are not in the file")


def _no_storage(persistent_id: Any) -> Storage:
    raise UnreadableCheckpoint("its pickle has a storage where none belongs")
