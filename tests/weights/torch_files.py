"""Files as ``torch.save`` writes them, put together byte by byte."""

import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np


# Pickles. A value becomes the opcodes that leave it on the stack; ``Code`` is such opcodes already.
class Code(bytes):
    pass


def code(value) -> Code:
    if isinstance(value, Code):
        return value
    if value is None or isinstance(value, bool):
        return Code({None: b"N", True: b"\x88", False: b"\x89"}[value])
    if isinstance(value, int):
        digits = pickle.encode_long(value)
        return Code(b"\x8a" + bytes([len(digits)]) + digits)
    if isinstance(value, float):
        return Code(b"G" + struct.pack(">d", value))
    if isinstance(value, str):
        return Code(b"X" + struct.pack("<I", len(value.encode())) + value.encode())
    if isinstance(value, tuple):
        return Code(b"(" + b"".join(map(code, value)) + b"t")
    if isinstance(value, list):
        return Code(b"](" + b"".join(map(code, value)) + b"e")
    if isinstance(value, dict):
        return Code(b"}(" + b"".join(code(key) + code(item) for key, item in value.items()) + b"u")
    raise TypeError(type(value))


def name(text: str) -> Code:
    return Code("c{}\n{}\n".format(*text.rsplit(".", 1)).encode())


def call(function, *arguments) -> Code:
    function = name(function) if isinstance(function, str) else function
    return Code(function + code(arguments) + b"R")


def storage(key="0", number=4, kind="FloatStorage", location="cpu", *more) -> Code:
    return Code(code(("storage", name(f"torch.{kind}"), key, location, number, *more)) + b"Q")


def tensor(size=(4,), stride=(1,), offset=0, store=None, *more) -> Code:
    store = storage() if store is None else store
    return call("torch._utils._rebuild_tensor_v2", store, offset, size, stride, False, ordered(), *more)


def ordered(items: Optional[dict] = None) -> Code:
    return Code(call("collections.OrderedDict") + (code(items)[1:] if items else b""))


def pickled(value) -> bytes:
    return b"\x80\x02" + code(value) + b"."


# The zip archive.
@dataclass
class Entry:
    name: str
    content: bytes
    method: int = zipfile.ZIP_STORED
    size: Optional[int] = None  # where it is to be a lie, as are the two below
    local_name: Optional[str] = None
    flags: int = 0x800

    @property
    def sizes(self) -> tuple[int, int]:
        size = len(self.content) if self.size is None else self.size
        return size, size


def archive(entries: Sequence[Entry], moved: int = 0) -> bytes:
    """A zip archive whose contents begin at multiples of 64 bytes, as PyTorch's do.

    Args:
        moved: is added to what the end of the archive says of the place of its directory.
    """
    file, directory = b"", b""
    for entry in entries:
        stored, local = entry.name.encode(), (entry.local_name or entry.name).encode()
        padding = -(len(file) + 30 + len(local) + 4) % 64
        common = (entry.flags, entry.method, 0, 0x21, zlib.crc32(entry.content), *entry.sizes)
        place = len(file)
        file += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 20, *common, len(local), 4 + padding) + local
        file += struct.pack("<2sH", b"FB", padding) + b"Z" * padding + entry.content
        directory += struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, *common, len(stored), *[0] * 5, place)
        directory += stored
    end = (0, 0, len(entries), len(entries), len(directory), len(file) + moved, 0)
    return file + directory + struct.pack("<4sHHHHIIH", b"PK\5\6", *end)


def entries_of(value, storages: Optional[Mapping[str, bytes]] = None, root: str = "archive") -> list[Entry]:
    """What ``torch.save`` puts into its archive. Without ``storages``: a storage "0" of four float32."""
    storages = {"0": bytes(16)} if storages is None else storages
    content = value if type(value) is bytes else pickled(value)
    parts = {"data.pkl": content, "byteorder": b"little", **{f"data/{key}": data for key, data in storages.items()}}
    return [Entry(f"{root}/{part}", data) for part, data in {**parts, "version": b"3\n"}.items()]


def zipped(value, storages: Optional[Mapping[str, bytes]] = None, root: str = "archive") -> bytes:
    return archive(entries_of(value, storages, root))


def legacy(
    value,
    storages: Mapping[str, tuple[int, bytes]],
    magic=0x1950A86A20F9469CFC6C,
    protocol=1001,
    system=None,
    keys=None,
) -> bytes:
    """The format before the zip archive. ``storages``: key -> (how many elements the file says it has, its bytes)."""
    system = dict(protocol_version=1001, little_endian=True, type_sizes={}) if system is None else system
    head = [magic, protocol, system, value, list(storages) if keys is None else keys]
    return b"".join(map(pickled, head)) + b"".join(struct.pack("<q", n) + data for n, data in storages.values())


# An honest checkpoint: 21 tensors, views among them, about 100 kB.
KINDS = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
    "ByteStorage": np.uint8,
    "BFloat16Storage": np.uint16,
}


@dataclass
class Sample:
    """A file; what is in it; and where that lies in the file."""

    content: bytes
    arrays: dict[str, np.ndarray]
    storage_of: dict[str, str]  # name of a tensor -> key of its storage
    places: dict[str, range]  # key of a storage -> its bytes
    pickle: range


def sample(is_legacy: bool) -> Sample:
    rng = np.random.default_rng(7)
    items, arrays, storages, storage_of = {}, {}, OrderedDict(), {}

    def add(title: str, key: str, kind: str, data: np.ndarray, size=None, stride=None, offset=0) -> None:
        size = data.shape if size is None else size
        stride = tuple(step // data.itemsize for step in data.strides) if stride is None else stride
        store = storage(key, data.size, kind, "cpu", *((None,) if is_legacy else ()))
        items[title], storage_of[title], storages[key] = tensor(size, stride, offset, store), key, data
        steps = [step * data.itemsize for step in stride]
        arrays[title] = np.lib.stride_tricks.as_strided(data.ravel()[offset:], size, steps)

    for i, (kind, dtype) in enumerate(KINDS.items()):
        width = np.dtype(dtype).itemsize
        for j, shape in enumerate([(24, 20, 3), (3000 // width,), ()]):
            data = np.frombuffer(rng.bytes(int(np.prod(shape)) * width), dtype).reshape(shape)
            add(f"block{i}.{j}", str(3 * i + j), kind, data)
    base = rng.standard_normal((100, 90)).astype(np.float32)
    add("transposed", "20", "FloatStorage", base, (90, 100), (1, 90))
    add("every second", "20", "FloatStorage", base, (40, 30), (180, 2), 95)
    add("empty", "21", "FloatStorage", np.empty((0, 4), np.float32))
    value = {"state": ordered(items), "rest": [3, 1e-4, None, True, (1, 2)]}
    data = {key: array.tobytes() for key, array in storages.items()}
    content = zipped(value, data)
    if is_legacy:
        content = legacy(value, {key: (array.size, data[key]) for key, array in storages.items()})
    places, end = {}, len(content)
    for key in reversed(data):
        if is_legacy:
            start = end - len(data[key])
            end = start - 8
        else:
            local_name = f"archive/data/{key}".encode()
            start = -(-(content.index(local_name + b"FB") + len(local_name) + 4) // 64) * 64
        places[key] = range(start, start + len(data[key]))
    start = content.index(pickled(value))
    return Sample(content, arrays, storage_of, places, range(start, start + len(pickled(value))))
