"""Weight files of one component: finding them, reading them into a cell, writing them.

On disk everything has diffusers' names and layout, so that diffusers reads what we write.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from safetensors import SafetensorError

# safe_open by this name, because mindnlp replaces the one in the package above
from safetensors.numpy import safe_open
from safetensors.numpy import save as to_safetensors

from mindone_vq.weights.files import write_atomically
from mindone_vq.weights.rules import current_name, reason_to_ignore, state_dict_parameters

READABLE, PICKLED = ".safetensors", ".bin"


class WeightMismatchError(ValueError):
    """The weights in a file are not those of the network: names missing, left over, or of another shape."""


def weight_files(names: Iterable[str], stems: tuple[str, ...], variant: Optional[str] = None) -> list[str]:
    """Which of the files in a folder hold its weights.

    Args:
        names: the files there are.
        stems: what the file may be called without its ending, the best first.
        variant: the infix of an alternative set, such as "fp16".

    Returns:
        One file, or the shards of one set, or nothing. safetensors are preferred to pickles.
    """
    names = sorted(names)
    infix = rf"\.{re.escape(variant)}" if variant else ""
    shard = r"-\d+-of-\d+"
    for ending in (READABLE, PICKLED):
        for stem in stems:
            pattern = re.compile(rf"{re.escape(stem)}({infix}|{infix}{shard}|{shard}{infix}){re.escape(ending)}")
            found = [name for name in names if pattern.fullmatch(name)]
            if found:
                return found
    return []


def find_weights(folder: Path, stems: tuple[str, ...], variant: Optional[str] = None) -> list[Path]:
    """The weight files of ``folder``, as ``weight_files`` chooses them.

    Raises:
        FileNotFoundError: there are none, or none of that variant.
        ValueError: there are only pickles, or a shard is missing.
    """
    names = [path.name for path in folder.iterdir()]
    found = weight_files(names, stems, variant)
    if not found:
        which = f"variant {variant!r} of the weights" if variant else "weights"
        raise FileNotFoundError(
            f"{folder} holds no {which}: expected {stems[0]}{'.' + variant if variant else ''}{READABLE}. "
            f"It holds {', '.join(sorted(names)) or 'nothing'}."
        )
    if found[0].endswith(PICKLED):
        raise ValueError(
            f"{folder} holds its weights only as a PyTorch pickle ({', '.join(found)}), which is not read yet: "
            "loading one may execute code. Convert it to .safetensors where PyTorch is installed."
        )
    shards = re.search(r"-\d+-of-(\d+)", found[0])
    if shards and len(found) != int(shards.group(1)):
        raise FileNotFoundError(
            f"{folder} holds {len(found)} of {int(shards.group(1))} shards: {', '.join(found)}. Download the others."
        )
    return [folder / name for name in found]


class TensorFiles(Mapping[str, np.ndarray]):
    """Named tensors over several files; a tensor is read when it is asked for."""

    def __init__(self, readers: Mapping[str, object]) -> None:
        self._readers = readers

    def __getitem__(self, key: str) -> np.ndarray:
        return widened(self._readers[key].get_tensor(key))

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


@contextmanager
def open_weights(files: Iterable[Path]) -> Iterator[TensorFiles]:
    """Opens safetensors files as one mapping of names to arrays.

    Raises:
        ValueError: a file is cut short or is not a safetensors file.
    """
    with ExitStack() as stack:
        readers = {}
        for path in files:
            try:
                reader = stack.enter_context(safe_open(path, framework="numpy"))
            except SafetensorError as error:
                raise ValueError(
                    f"{path} ({path.stat().st_size} bytes) is not a whole safetensors file: {error}. "
                    "Download or convert it again."
                ) from error
            readers.update(dict.fromkeys(reader.keys(), reader))
        yield TensorFiles(readers)


def load_into(cell: nn.Cell, tensors: Mapping[str, np.ndarray], dtype: Optional[ms.Type] = None) -> None:
    """Fills every parameter of ``cell``; nothing may be missing, left over or of another shape.

    Args:
        cell: the network.
        tensors: arrays by PyTorch state-dict key, under current or older names.
        dtype: the type the parameters get; None: float32.

    Raises:
        WeightMismatchError: names every key that does not fit.
    """
    targets = state_dict_parameters(cell)
    sources = {current_name(key): key for key in tensors}
    problems = [f"missing: {key} {tuple(targets[key].shape)}" for key in targets if key not in sources]
    for key, source in sources.items():
        if key not in targets and reason_to_ignore(key) is None and tensors[source].size:
            problems.append(f"not in the network: {source} {tensors[source].shape}")
    if problems:
        raise _mismatch(cell, problems)
    for key, parameter in targets.items():
        array = tensors[sources[key]]
        if array.shape != tuple(parameter.shape):
            problems.append(f"of another shape: {key} is {array.shape}, the network has {tuple(parameter.shape)}")
        elif not problems:
            assign(parameter, array, dtype or ms.float32)
    if problems:
        raise _mismatch(cell, problems)


def _mismatch(cell: nn.Cell, problems: list[str]) -> WeightMismatchError:
    shown = "\n  ".join(problems[:20])
    more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
    return WeightMismatchError(
        f"The weights do not fit {type(cell).__name__} with this config:\n  {shown}{more}\n"
        "Check that config.json belongs to the weights."
    )


def assign(parameter: Parameter, array: np.ndarray, dtype: ms.Type) -> None:
    """Gives ``parameter`` the values of ``array`` in type ``dtype``."""
    parameter.set_dtype(dtype)
    parameter.set_data(Tensor(np.ascontiguousarray(array), dtype))


def to_float32(tensor: Tensor) -> np.ndarray:
    """The values of a float tensor of any type."""
    return widened(tensor.asnumpy()).astype(np.float32, copy=False)


def widened(array: np.ndarray) -> np.ndarray:
    """``array``, as float32 where it is bfloat16, for which numpy has no arithmetic."""
    if array.dtype.name != "bfloat16":
        return array
    return (array.view(np.uint16).astype(np.uint32) << 16).view(np.float32)


def save_weights(cell: nn.Cell, path: Path, extra: Optional[Mapping[str, np.ndarray]] = None) -> None:
    """Writes the parameters of ``cell`` as safetensors under PyTorch's names."""
    arrays = {key: parameter.asnumpy() for key, parameter in state_dict_parameters(cell).items()}
    arrays.update(extra or {})
    write_atomically(path, to_safetensors(arrays, metadata={"format": "pt"}))
