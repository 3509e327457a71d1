"""safetensors files: checked by the library; read lazily, and written, one tensor after another.

The library writes only what is in memory all at once, which a checkpoint of several gigabytes need not be, and maps a
file to read it: all that was read would count as memory of the process.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError

# Under this name, because mindnlp replaces the one in the package above.
from safetensors.numpy import safe_open

from mindone_vq.weights.files import atomic_file
from mindone_vq.weights.lazy import STORED_AS, LazyTensor

# Our name of an element type -> the format's.
TYPE_NAMES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
OUR_NAMES = {theirs: ours for ours, theirs in TYPE_NAMES.items()}
MAX_HEADER = 100_000_000  # bytes; the library reads no longer one


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file by name.

    Raises:
        ValueError: the file is cut short, is not a safetensors file, or has an element type that is not known.
    """
    try:
        with safe_open(path, framework="numpy"):  # checks that the header fits the file
            header, start = _read_header(path)
    except SafetensorError as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file: {error}. "
            "Download or convert it again."
        ) from error
    return {key: _tensor(path, key, entry, start) for key, entry in header.items() if key != "__metadata__"}


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header of a whole file, and where the tensors begin."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(length)), 8 + length


def _tensor(path: Path, key: str, entry: dict[str, Any], start: int) -> LazyTensor:
    """What the header says of one tensor; the tensors begin at ``start``."""
    if entry["dtype"] not in OUR_NAMES:
        raise ValueError(f"{path}: {key} has elements of type {entry['dtype']}, which are not read.")
    dtype, shape, offset = OUR_NAMES[entry["dtype"]], tuple(entry["shape"]), start + entry["data_offsets"][0]
    size = math.prod(shape)

    def read() -> np.ndarray:
        stored = np.fromfile(path, STORED_AS[dtype], size, offset=offset)
        if stored.size != size:
            raise ValueError(f"{path} became shorter while it was read: {key} is not whole.")
        return stored.reshape(shape)

    return LazyTensor(shape, dtype, read)


def read_metadata(path: Path) -> dict[str, str]:
    """What a whole file says of itself beside its tensors."""
    with safe_open(path, framework="numpy") as reader:
        return reader.metadata() or {}


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Writes ``tensors``, whole or not at all, holding one of them at a time.

    Raises:
        ValueError: an element type that the format does not have.
    """
    header = encode_header(tensors, {"format": "pt"})  # without it transformers refuses the file
    with atomic_file(path) as file:
        file.write(header)
        for tensor in tensors.values():
            tensor.write_to(file)


def encode_header(tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> bytes:
    """What a file begins with: its length in eight bytes, then JSON, ``metadata`` first.

    Raises:
        ValueError: an element type that the format does not have; or more than a reader accepts.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in TYPE_NAMES:
            raise ValueError(f"{name} has elements of type {tensor.dtype}, which safetensors does not have.")
        end = position + stored_bytes(tensor)
        header[name] = {"dtype": TYPE_NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, ensure_ascii=False).encode()  # refuses what is not text, as readers do
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of eight
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"Names and metadata take {len(text)} bytes, safetensors allows {MAX_HEADER}: "
            "keep long lists as tensors, not in the metadata."
        )
    return struct.pack("<Q", len(text)) + text


def stored_bytes(tensor: LazyTensor) -> int:
    """How many bytes a tensor takes in a file."""
    return tensor.size * np.dtype(STORED_AS[tensor.dtype]).itemsize
