"""PyTorch's checkpoint files, read without PyTorch and without executing anything.

Both formats of ``torch.save`` are read: the zip archive (since 1.6), and the sequence of pickles before it. The bytes
of a tensor are read when it is used; those of a zip archive are then compared with their checksum.
"""

import io
import mmap
import struct
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

from mindone_vq.weights.torch_tensors import MAX_COUNT, NAMES, ElementType, Storage, file_size, width_of
from mindone_vq.weights.unpickler import MAX_LENGTH, Unpickler, UnreadableCheckpoint

__all__ = ["UnreadableCheckpoint", "open_checkpoint"]

LEGACY_MAGIC, LEGACY_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# What zipfile raises for a damaged archive.
BAD_ZIP = (zipfile.BadZipFile, EOFError, OSError, RuntimeError, struct.error, ArithmeticError, LookupError, ValueError)


def open_checkpoint(path: Path, ignore_unknown: bool = False) -> tuple[Any, set[str]]:
    """Reads what ``torch.save`` wrote, with a ``LazyTensor`` for each tensor.

    The file stays open as long as one of its tensors is referred to.

    Args:
        path: the file.
        ignore_unknown: replace objects of unknown classes (Lightning pickles its callbacks) instead of refusing them.

    Returns:
        The object; and the names of the unknown classes.

    Raises:
        UnreadableCheckpoint: the file is damaged, of another kind, or holds something that is refused.
    """
    file = open(path, "rb")  # noqa: SIM115 the tensors keep it
    try:
        is_zip = file.read(2) == b"PK"
        file.seek(0)
        return _ZipArchive(file).load(ignore_unknown) if is_zip else _load_legacy(file, ignore_unknown)
    except UnreadableCheckpoint as error:
        file.close()
        raise UnreadableCheckpoint(f"{path}: {error}.") from error
    except BaseException:
        file.close()
        raise


def _storage_fields(persistent_id: Any, count: int) -> tuple[ElementType, str, int]:
    """(type, key, bytes) of a persistent id ("storage", type, key, device, number of elements, ...)."""
    if not isinstance(persistent_id, tuple) or len(persistent_id) != count:
        raise UnreadableCheckpoint("its pickle has a persistent id that is no storage")
    kind, dtype, key, _, number = persistent_id[:5]
    valid = kind == "storage" and isinstance(dtype, ElementType) and isinstance(key, str) and len(key) < 100
    if not valid or type(number) is not int or not 0 <= number < MAX_COUNT:
        raise UnreadableCheckpoint("its pickle describes a storage as torch.save does not")
    return dtype, key, number * width_of(dtype)


class _ZipArchive:
    """``<root>/data.pkl``, and a file ``<root>/data/<key>`` for each storage."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.entries: dict[str, zipfile.ZipInfo] = {}
        self.storages: dict[tuple[str, str], Storage] = {}
        try:
            self.archive = zipfile.ZipFile(file)
        except BAD_ZIP as error:
            raise UnreadableCheckpoint(f"not a whole zip archive ({error})") from error
        for entry in self.archive.infolist():
            self._add(entry)
        pickles = [name for name in self.entries if name.split("/")[1:] == ["data.pkl"]]
        if len(pickles) != 1:
            raise UnreadableCheckpoint("a zip archive without data.pkl: not written by torch.save")
        self.root = pickles[0].split("/")[0]

    def _add(self, entry: zipfile.ZipInfo) -> None:
        name = entry.orig_filename
        parts = name.replace("\\", "/").split("/")
        if name != entry.filename or name[1:2] == ":" or not parts[0] or ".." in parts:
            raise UnreadableCheckpoint(f"its archive has an entry of the name {name!r}: refused")
        if name in self.entries:
            raise UnreadableCheckpoint(f"its archive has two entries of the name {name!r}: refused")
        if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size or entry.flag_bits & 1:
            raise UnreadableCheckpoint(f"the entry {name!r} of its archive is compressed or encrypted")
        self.entries[name] = entry

    def load(self, ignore_unknown: bool) -> tuple[Any, set[str]]:
        order = f"{self.root}/byteorder"
        if order in self.entries and self._content(order) != b"little":
            raise UnreadableCheckpoint("its numbers are big-endian, which is not supported")
        content = io.BytesIO(self._content(f"{self.root}/data.pkl"))
        unpickler = Unpickler(content, NAMES, self._persistent_load, ignore_unknown)
        return unpickler.load(), unpickler.ignored

    def _content(self, name: str) -> bytes:
        storage = self._storage(name, ElementType("uint8"))
        if storage.length > MAX_LENGTH:
            raise UnreadableCheckpoint(f"{name} in its archive is longer than {MAX_LENGTH} bytes")
        return storage.read(0, storage.length).tobytes()

    def _persistent_load(self, persistent_id: Any) -> Storage:
        dtype, key, length = _storage_fields(persistent_id, 5)
        storage = self._storage(f"{self.root}/data/{key}", dtype)
        if length > storage.length:
            raise UnreadableCheckpoint(
                f"the storage {key!r} of {length} bytes has only {storage.length} in its archive"
            )
        return storage

    def _storage(self, name: str, dtype: ElementType) -> Storage:
        if name not in self.entries:
            raise UnreadableCheckpoint(f"{name!r} is not in its archive")
        if (name, dtype) not in self.storages:
            entry = self.entries[name]
            if entry.file_size > file_size(self.file):  # which newer releases of Python call overlapping
                raise UnreadableCheckpoint(f"{name!r} in its archive is longer than the file")
            try:
                self.archive.open(entry).close()  # checks the header before the bytes
                self.file.seek(entry.header_offset + 26)  # the lengths of the name and of the extra field in it
                start = entry.header_offset + 30 + sum(struct.unpack("<HH", self.file.read(4)))
            except BAD_ZIP as error:
                raise UnreadableCheckpoint(f"{name!r} in its archive cannot be read ({error!s:.200})") from error
            if start + entry.file_size > file_size(self.file):
                raise UnreadableCheckpoint(f"{name!r} in its archive is longer than the file")
            self.storages[name, dtype] = Storage(self.file, start, entry.file_size, dtype, name, entry.CRC)
        return self.storages[name, dtype]


def _load_legacy(file: BinaryIO, ignore_unknown: bool) -> tuple[Any, set[str]]:
    """Five pickles in a row - magic number, protocol, system, the object, the storage keys - then the storages."""
    storages: dict[str, Storage] = {}

    def persistent_load(persistent_id: Any) -> Storage:
        dtype, key, length = _storage_fields(persistent_id, 6)
        if persistent_id[5] is not None:
            raise UnreadableCheckpoint("a storage is a view of another one, as only PyTorch before 0.4 wrote it")
        storage = storages.setdefault(key, Storage(file, -1, length, dtype, f"storage {key}"))  # its start comes later
        if (storage.dtype, storage.length) != (dtype, length):
            raise UnreadableCheckpoint(f"the storage {key} is described in two ways")
        return storage

    kind = "neither a zip archive nor a file of pickles as torch.save writes them"
    size = file_size(file)
    if not size:
        raise UnreadableCheckpoint(kind)
    with mmap.mmap(file.fileno(), min(size, MAX_LENGTH), access=mmap.ACCESS_READ) as pickles:
        try:
            magic, protocol, system = (Unpickler(pickles).load() for _ in range(3))
        except UnreadableCheckpoint as error:
            raise UnreadableCheckpoint(f"{kind} ({error})") from error
        if (magic, protocol) != (LEGACY_MAGIC, LEGACY_PROTOCOL):
            raise UnreadableCheckpoint(kind)
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise UnreadableCheckpoint("its numbers are not little-endian")
        unpickler = Unpickler(pickles, NAMES, persistent_load, ignore_unknown)
        try:
            result, keys = unpickler.load(), Unpickler(pickles).load()
        except UnreadableCheckpoint as error:
            if pickles.tell() < MAX_LENGTH:
                raise
            raise UnreadableCheckpoint(f"its pickle is longer than {MAX_LENGTH} bytes") from error
        _find_storages(file, pickles.tell(), keys, storages)
    return result, unpickler.ignored


def _find_storages(file: BinaryIO, position: int, keys: Any, storages: dict[str, Storage]) -> None:
    """Sets the start of each storage: they lie one after another from ``position`` on, each after its length."""
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or sorted(keys) != sorted(storages):
        raise UnreadableCheckpoint("its list of storages does not match its tensors")
    for key in keys:
        storage = storages[key]
        file.seek(position)
        header = file.read(8)
        if len(header) < 8 or struct.unpack("<q", header)[0] * width_of(storage.dtype) != storage.length:
            raise UnreadableCheckpoint(f"{storage.name} is not as long in the file as in its description")
        storage.start = position + 8
        position = storage.start + storage.length
        if position > file_size(file):
            raise UnreadableCheckpoint(f"{storage.name} is longer than the rest of the file")
