"""Weight files of one component: finding them, reading them into a cell, writing them.

On disk everything has diffusers' names and layout, so that diffusers reads what we write.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Optional, Union

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindone_vq.weights.files import write_json
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.rules import current_name, reason_to_ignore, state_dict_parameters
from mindone_vq.weights.safetensors_file import read_safetensors, write_safetensors
from mindone_vq.weights.torch_pickle import open_checkpoint

READABLE, PICKLED = ".safetensors", ".bin"
UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
NUMPY_TYPES = {ms.float32: np.float32, ms.float16: np.float16}


class WeightMismatchError(ValueError):
    """The weights in a file are not those of the network: names missing, left over, or of another shape.

    Attributes:
        advice: the end of the message, for a network whose config.json was read.
    """

    advice = "Check that config.json belongs to the weights."


def weight_files(
    names: Iterable[str],
    stems: tuple[str, ...],
    variant: Optional[str] = None,
    use_safetensors: Optional[bool] = None,
) -> list[str]:
    """Which of the files in a folder hold its weights.

    Args:
        names: the files there are.
        stems: what the file may be called without its ending, the best first.
        variant: the infix of an alternative set, such as "fp16".
        use_safetensors: True: safetensors only; False: pickles only; None: either, safetensors first.

    Returns:
        One file, or the shards of one set, or nothing.
    """
    names = sorted(names)
    infix = rf"\.{re.escape(variant)}" if variant else ""
    shard = r"-\d+-of-\d+"
    for ending in {None: (READABLE, PICKLED), True: (READABLE,), False: (PICKLED,)}[use_safetensors]:
        for stem in stems:
            pattern = re.compile(rf"{re.escape(stem)}({infix}|{infix}{shard}|{shard}{infix}){re.escape(ending)}")
            found = [name for name in names if pattern.fullmatch(name)]
            if found:
                return found
    return []


def find_weights(
    folder: Path, stems: tuple[str, ...], variant: Optional[str] = None, use_safetensors: Optional[bool] = None
) -> list[Path]:
    """The weight files of ``folder``, as ``weight_files`` chooses them.

    Raises:
        FileNotFoundError: there are none, none of that variant, or a shard is missing.
    """
    names = [path.name for path in folder.iterdir()]
    found = weight_files(names, stems, variant, use_safetensors)
    if not found:
        which = f"variant {variant!r} of the weights" if variant else "weights"
        ending = PICKLED if use_safetensors is False else READABLE
        raise FileNotFoundError(
            f"{folder} holds no {which}: expected {stems[0]}{'.' + variant if variant else ''}{ending}. "
            f"It holds {', '.join(sorted(names)) or 'nothing'}."
        )
    shards = re.search(r"-\d+-of-(\d+)", found[0])
    if shards and len(found) != int(shards.group(1)):
        raise FileNotFoundError(
            f"{folder} holds {len(found)} of {int(shards.group(1))} shards: {', '.join(found)}. Download the others."
        )
    return [folder / name for name in found]


def open_weights(files: Iterable[Path], ignore_unknown: bool = False) -> dict[str, LazyTensor]:
    """The tensors of one or several files by name, to be read when they are used.

    Args:
        files: safetensors files, or state dicts of PyTorch.
        ignore_unknown: pass over objects in a PyTorch file whose class is not known.

    Raises:
        ValueError: a file is damaged, or holds something else.
    """
    tensors: dict[str, LazyTensor] = {}
    for path in files:
        tensors.update(read_safetensors(path) if path.suffix == READABLE else read_state_dict(path, ignore_unknown))
    return tensors


def read_state_dict(path: Path, ignore_unknown: bool = False) -> dict[str, LazyTensor]:
    """The tensors of a PyTorch file that holds a state dict and nothing else."""
    content, _ = open_checkpoint(path, ignore_unknown)
    if not isinstance(content, dict) or not any(isinstance(value, LazyTensor) for value in content.values()):
        held = (
            f"entries {', '.join(map(str, list(content)[:8]))}" if isinstance(content, dict) else f"a {type(content)}"
        )
        raise ValueError(
            f"{path} holds {held}, not the weights of a network: convert it with tools/convert_weights.py."
        )
    return {str(key): value for key, value in content.items() if isinstance(value, LazyTensor)}


def load_into(cell: nn.Cell, tensors: Mapping[str, LazyTensor], dtype: Optional[ms.Type] = None) -> list[str]:
    """Fills every parameter of ``cell``; nothing may be missing, left over or of another shape.

    Args:
        cell: the network.
        tensors: by PyTorch state-dict key, under current or older names.
        dtype: the type the parameters get; None: float32.

    Returns:
        The keys that were left out, because no network needs them.

    Raises:
        WeightMismatchError: names every key that does not fit; then nothing was filled.
    """
    fitting, ignored = fit(cell, tensors)
    parameters = state_dict_parameters(cell)
    for key, tensor in fitting.items():
        assign(parameters[key], tensor.read(), dtype or ms.float32)
    return list(ignored)


def fit(cell: nn.Cell, tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Pairs the parameters of ``cell`` with ``tensors``.

    Returns:
        The tensors by the cell's keys; and the keys that were left out, with the reason.

    Raises:
        WeightMismatchError: names every key that does not fit.
    """
    targets = {key: tuple(parameter.shape) for key, parameter in state_dict_parameters(cell).items()}
    fitting, ignored, problems = {}, {}, []
    for source, tensor in tensors.items():
        key = current_name(source)
        reason = reason_to_ignore(key) if tensor.size else "it is empty"
        if key in fitting:
            problems.append(f"twice: {source}")
        elif key not in targets and reason is not None:
            ignored[source] = reason
        elif key not in targets:
            problems.append(f"not in the network: {source} {tensor.shape}")
        elif tensor.shape != targets[key]:
            problems.append(f"of another shape: {source} is {tensor.shape}, the network has {targets[key]}")
        fitting[key] = tensor
    problems = [f"missing: {key} {shape}" for key, shape in targets.items() if key not in fitting] + problems
    if problems:
        raise _mismatch(cell, problems)
    return {key: fitting[key] for key in targets}, ignored


def _mismatch(cell: nn.Cell, problems: list[str]) -> WeightMismatchError:
    shown = "\n  ".join(problems[:20])
    more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
    return WeightMismatchError(
        f"The weights do not fit {type(cell).__name__} with this config:\n  {shown}{more}\n{WeightMismatchError.advice}"
    )


def assign(parameter: Parameter, array: np.ndarray, dtype: ms.Type) -> None:
    """Gives ``parameter`` the values of ``array`` in type ``dtype``, and with them the array's memory where it can."""
    parameter.set_dtype(dtype)
    if dtype in NUMPY_TYPES:
        parameter.set_data(Tensor.from_numpy(np.require(array, NUMPY_TYPES[dtype], ["C", "W"])))
    else:
        parameter.set_data(Tensor(np.ascontiguousarray(array), dtype))


def to_float32(tensor: Tensor) -> np.ndarray:
    """The values of a float tensor of any type."""
    return LazyTensor.of(tensor.asnumpy()).cast("float32").read()


def save_weights(
    cell: nn.Cell,
    folder: Path,
    stem: str,
    variant: Optional[str] = None,
    max_shard_size: Optional[int] = None,
    extra: Optional[Mapping[str, LazyTensor]] = None,
) -> None:
    """Writes the parameters of ``cell`` as safetensors under PyTorch's names."""
    tensors = {key: LazyTensor.of(parameter.asnumpy()) for key, parameter in state_dict_parameters(cell).items()}
    write_weights(folder, stem, {**tensors, **(extra or {})}, variant, max_shard_size)


def write_weights(
    folder: Path,
    stem: str,
    tensors: Mapping[str, LazyTensor],
    variant: Optional[str] = None,
    max_shard_size: Optional[int] = None,
) -> None:
    """Writes ``tensors`` into one file, or into shards of at most ``max_shard_size`` bytes with their index."""
    infix = f".{variant}" if variant else ""
    shards = split_into_shards(tensors, max_shard_size)
    if len(shards) == 1:
        write_safetensors(folder / f"{stem}{infix}{READABLE}", tensors)
        return
    place = {}
    for number, names in enumerate(shards, 1):
        file = f"{stem}{infix}-{number:05d}-of-{len(shards):05d}{READABLE}"
        write_safetensors(folder / file, {name: tensors[name] for name in names})
        place.update(dict.fromkeys(names, file))
    total = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": place}
    write_json(folder / f"{stem}{READABLE}.index{infix}.json", index)


def size_in_bytes(size: Union[int, str, None]) -> Optional[int]:
    """A number of bytes: itself, or "500MB", "2 GB"; None stays None.

    Raises:
        ValueError: it is no size.
    """
    if size is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|KB|MB|GB)", str(size).upper())
    if not match or float(match.group(1)) <= 0:
        raise ValueError(f"{size!r} is no size, such as 500MB or 2GB")
    return int(float(match.group(1)) * UNITS[match.group(2)])


def split_into_shards(tensors: Mapping[str, LazyTensor], max_shard_size: Optional[int]) -> list[list[str]]:
    """The names, in order, in runs that take at most ``max_shard_size`` bytes (a larger tensor is alone)."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if max_shard_size is not None and shards[-1] and filled + tensor.nbytes > max_shard_size:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += tensor.nbytes
    return shards
