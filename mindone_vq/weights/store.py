"""Weight files of one component, under the names and in the layout of diffusers: find, read and write them."""

import re
import sys
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
    """The weights in a file do not fit the network: keys are missing, left over, or of another shape."""

    advice = "Check that config.json belongs to the weights."


def weight_files(
    names: Iterable[str],
    stems: tuple[str, ...],
    variant: Optional[str] = None,
    use_safetensors: Optional[bool] = None,
) -> list[str]:
    """Chooses the weight files of a folder: one file, the shards of one set, or none.

    Args:
        names: the files in the folder.
        stems: possible names of the weight file without its ending, the best first.
        variant: the infix of an alternative set, such as "fp16".
        use_safetensors: True: safetensors only; False: pickles only; None: either, safetensors first.
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
    """The tensors of one or several files by name.

    Args:
        files: safetensors files, or PyTorch files that hold state dicts.
        ignore_unknown: as ``open_checkpoint`` takes it.

    Raises:
        ValueError: a file is damaged, or holds something else.
    """
    tensors: dict[str, LazyTensor] = {}
    for path in files:
        tensors.update(read_safetensors(path) if path.suffix == READABLE else read_state_dict(path, ignore_unknown))
    return tensors


def read_state_dict(path: Path, ignore_unknown: bool = False) -> dict[str, LazyTensor]:
    """The tensors of a PyTorch file that holds a state dict."""
    content, _ = open_checkpoint(path, ignore_unknown)
    entries = content if isinstance(content, dict) else {}
    tensors = {str(key): value for key, value in entries.items() if isinstance(value, LazyTensor)}
    if not tensors:
        held = ", ".join(map(str, list(entries)[:8])) or f"a {type(content).__name__}"
        raise ValueError(
            f"{path} holds {held}, not the weights of a network: convert it with tools/convert_weights.py."
        )
    return tensors


def load_into(cell: nn.Cell, tensors: Mapping[str, LazyTensor], dtype: Optional[ms.Type] = None) -> list[str]:
    """Fills every parameter of ``cell`` and casts it to ``dtype`` (None: float32).

    Args:
        cell: the network.
        tensors: by state-dict key of PyTorch, as current or older releases name it.
        dtype: of the parameters.

    Returns:
        The keys that were ignored, because no network needs them.

    Raises:
        WeightMismatchError: names every key that does not fit. Then no parameter was changed.
    """
    fitting, ignored = fit(cell, tensors)
    parameters = state_dict_parameters(cell)
    for key, tensor in fitting.items():
        assign(parameters[key], tensor.read(), dtype or ms.float32)
    return list(ignored)


def fit(cell: nn.Cell, tensors: Mapping[str, LazyTensor]) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """Matches ``tensors`` with the parameters of ``cell``.

    Returns:
        The tensors by the cell's keys; and the ignored keys with the reason.

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
        more = [f"and {len(problems) - 20} more"] if len(problems) > 20 else []
        shown = "\n  ".join(problems[:20] + more)
        raise WeightMismatchError(
            f"The weights do not fit {type(cell).__name__} with this config:\n  {shown}\n{WeightMismatchError.advice}"
        )
    return {key: fitting[key] for key in targets}, ignored


def assign(parameter: Parameter, array: np.ndarray, dtype: ms.Type) -> None:
    """Sets the values and the type of ``parameter``. It takes over the memory of ``array`` where that is possible."""
    parameter.set_dtype(dtype)
    if dtype in NUMPY_TYPES:
        parameter.set_data(Tensor.from_numpy(np.require(array, NUMPY_TYPES[dtype], ["C", "W"])))
    else:
        parameter.set_data(Tensor(np.ascontiguousarray(array), dtype))


def to_float32(tensor: Tensor) -> np.ndarray:
    """The values of a float tensor of any type."""
    return LazyTensor.of(tensor.asnumpy()).cast("float32").read()


def write_weights(
    folder: Path,
    stem: str,
    tensors: Mapping[str, LazyTensor],
    variant: Optional[str] = None,
    max_shard_size: Optional[int] = None,
) -> None:
    """Writes safetensors: one file, or shards of at most ``max_shard_size`` bytes and their index."""
    from huggingface_hub import split_state_dict_into_shards_factory

    infix = f".{variant}" if variant else ""
    split = split_state_dict_into_shards_factory(
        tensors,
        get_storage_size=lambda tensor: tensor.nbytes,
        filename_pattern=f"{stem}{infix}{{suffix}}{READABLE}",
        max_shard_size=max_shard_size or sys.maxsize,
    )
    for file, names in split.filename_to_tensors.items():
        write_safetensors(folder / file, {name: tensors[name] for name in names})
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        write_json(folder / f"{stem}{READABLE}.index{infix}.json", index)


def size_in_bytes(size: Union[int, str, None]) -> Optional[int]:
    """The bytes of a size such as "500MB" or "2 GB"; a number is bytes, and None stays None."""
    if size is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(|KB|MB|GB)", str(size).upper())
    if not match or float(match.group(1)) <= 0:
        raise ValueError(f"{size!r} is no size, such as 500MB or 2GB")
    return int(float(match.group(1)) * UNITS[match.group(2)])
