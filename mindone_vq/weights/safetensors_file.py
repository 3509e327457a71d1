"""safetensors files, read lazily and written one tensor after another.

The library writes only tensors that are in memory all at once. It maps a file to read it, so that everything that was
read counts as memory of the process. Therefore only its check of a file is used.
"""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError

# Under this name, because mindnlp replaces the one in the package above.
from safetensors.numpy import safe_open

from mindone_vq.weights.files import atomic_file
from mindone_vq.weights.lazy import STORED_AS, LazyTensor

# The format's name of an element type -> ours.
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
}
CODES = {ours: code for code, ours in DTYPES.items()}
MAX_HEADER = 100_000_000  # bytes; the library reads no longer one


def read_safetensors(path: Path) -> dict[str, LazyTensor]:
    """The tensors of a file by name.

    Raises:
        ValueError: the file is cut short, is not a safetensors file, or has an unknown element type.
    """
    try:
        with safe_open(path, framework="numpy"):  # checks that the header fits the file
            pass
    except SafetensorError as error:
        raise ValueError(
            f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file: {error}. "
            "Download or convert it again."
        ) from error
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    tensors = {}
    for key, entry in header.items():
        if entry["dtype"] not in DTYPES:
            raise ValueError(f"{path}: {key} has elements of type {entry['dtype']}, which is not supported.")
        dtype, shape = DTYPES[entry["dtype"]], tuple(entry["shape"])
        tensors[key] = _tensor(path, key, dtype, shape, 8 + length + entry["data_offsets"][0])
    return tensors


def _tensor(path: Path, key: str, dtype: str, shape: tuple[int, ...], offset: int) -> LazyTensor:
    def read() -> np.ndarray:
        stored = np.fromfile(path, STORED_AS[dtype], math.prod(shape), offset=offset)
        if stored.size != math.prod(shape):
            raise ValueError(f"{path} became shorter while it was read: {key} is not complete.")
        return stored.reshape(shape)

    return LazyTensor(shape, dtype, read)


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata in the header of a complete file."""
    with safe_open(path, framework="numpy") as reader:
        return reader.metadata() or {}


def write_safetensors(path: Path, tensors: Mapping[str, LazyTensor]) -> None:
    """Writes ``tensors``, holding one of them in memory at a time. On an error there is no file.

    Raises:
        ValueError: an element type that the format does not have.
    """
    header = encode_header(tensors, {"format": "pt"})  # without it transformers refuses the file
    with atomic_file(path) as file:
        file.write(header)
        for tensor in tensors.values():
            tensor.write_to(file)


def encode_header(tensors: Mapping[str, LazyTensor], metadata: Mapping[str, str]) -> bytes:
    """The start of a file: the length of the header in eight bytes, then the header as JSON, ``metadata`` first.

    Raises:
        ValueError: an element type that the format does not have; or a header longer than readers accept.
    """
    header: dict[str, object] = {"__metadata__": metadata}
    position = 0
    for name, tensor in tensors.items():
        if tensor.dtype not in CODES:
            raise ValueError(f"{name} has elements of type {tensor.dtype}, which safetensors does not have.")
        end = position + tensor.nbytes
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, ensure_ascii=False).encode()  # refuses what is not text, as readers do
    text += b" " * (-len(text) % 8)  # the data begin at a multiple of eight
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"Names and metadata take {len(text)} bytes, safetensors allows {MAX_HEADER}: "
            "keep long lists as tensors, not in the metadata."
        )
    return struct.pack("<Q", len(text)) + text
