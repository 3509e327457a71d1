"""Checkpoints of a training run: everything that changes from step to step, one safetensors file for each step kept.

A file gets its name when all of it is on the disk, so a run that is killed, or whose disk is full, continues from the
last whole one. Its last tensor is the SHA-256 of all bytes before it, so later damage is noticed.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Optional

import numpy as np
from mindspore import Parameter, Tensor

from mindone_vq.weights.files import atomic_file
from mindone_vq.weights.lazy import STORED_AS, LazyTensor
from mindone_vq.weights.safetensors_file import encode_header, read_metadata, read_safetensors

logger = logging.getLogger("mindone_vq")

NAME = re.compile(r"step-(\d{8}|[1-9]\d{8,})\.safetensors")
TEMPORARY_NAME = re.compile(r"\.step-\d{8,}\.safetensors\.[a-z0-9_]{8}")  # as atomic_file makes them
# Before the name of a tensor in the file: an array may be called what a parameter is called.
PARAMETER, ARRAY = "parameter:", "array:"
# The name of the last tensor. The version before had the checksum under this name among the metadata, in hexadecimal:
# that of the file with zeros in its place.
CHECKSUM = "sha256"
BLOCK = 1 << 20


def save_checkpoint(
    folder: Path,
    step: int,
    parameters: Iterable[Parameter],
    arrays: Mapping[str, np.ndarray],
    state: Mapping[str, Any],
    keep: int,
) -> Path:
    """Writes ``folder/step-<step>.safetensors``, whole or not at all; then removes the oldest.

    Only one process may write into a folder: files that killed ones left incomplete are removed.

    Args:
        folder: where the checkpoints of this run are; made if need be.
        step: how many steps were done.
        parameters: all that the training changes, each with a name of its own, in any type and shape.
        arrays: booleans, integers or floats.
        state: what is kept as JSON: keys are strings, and tuples come back as lists.
        keep: how many checkpoints stay, this one and those of earlier steps; later ones stay too, with a warning.

    Raises:
        ValueError: a name is there twice, or a type cannot be stored.
        TypeError: ``state`` is not JSON.
        OSError: the disk is full, and so on; the earlier checkpoints are as they were.
    """
    path = folder / f"step-{step:08d}.safetensors"
    tensors = {PARAMETER + name: _lazily(parameter) for name, parameter in _by_name(parameters).items()}
    tensors.update({ARRAY + name: _of_array(name, np.asarray(array)) for name, array in arrays.items()})
    try:
        metadata = {"state": json.dumps(dict(state))}
    except TypeError as error:
        raise TypeError(f"The state of a checkpoint must be JSON: {error}. Give arrays among the arrays.") from error
    checksum = hashlib.sha256()
    digest = LazyTensor((checksum.digest_size,), "uint8", lambda: np.frombuffer(checksum.digest(), np.uint8))
    header = encode_header({**tensors, CHECKSUM: digest}, metadata)
    try:
        _remove([entry for entry in folder.glob(".step-*") if TEMPORARY_NAME.fullmatch(entry.name)])  # they take space
        with atomic_file(path) as file:
            for data in (header, *map(_bytes, tensors.values())):
                checksum.update(data)
                file.write(data)
            file.write(_bytes(digest))
            file.flush()
            os.fsync(file.fileno())
        _sync_folder(folder)
    except OSError as error:
        reason = f"The checkpoint was not written: {error.strerror or error}. The earlier ones are intact; make room"
        raise OSError(error.errno, f"{reason} or another folder, and continue from the last", str(path)) from error
    except Exception as error:
        raise RuntimeError(f"{path} was not written, the earlier checkpoints are intact: {error}") from error
    _remove_old(folder, step, keep)
    return path


def latest_checkpoint(folder: Path) -> Optional[Path]:
    """The checkpoint of the latest step, whole or not; None: there is none."""
    return next(reversed(_checkpoints(folder).values()), None)


def find_checkpoint(folder: Path) -> Optional[Path]:
    """The latest checkpoint that is whole, None where there is none; a warning names each damaged one after it.

    Raises:
        ValueError: all are damaged.
    """
    damaged = []
    for path in reversed(_checkpoints(folder).values()):
        damage = _damage(path)
        if damage is None:
            return path
        logger.warning("%s is damaged: %s. The checkpoint before it is tried.", path, damage)
        damaged.append(path.name)
    if damaged:
        raise ValueError(
            f"Every checkpoint in {folder} is damaged: {', '.join(damaged)}. Remove them to begin from the start, "
            "or bring back a copy."
        )
    return None


def load_checkpoint(path: Path, parameters: Iterable[Parameter]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Gives every parameter the bits it had, in its place in memory, so that graphs compiled before use them, too.

    Args:
        path: a file that ``save_checkpoint`` wrote.
        parameters: those that were saved, by name, in any order.

    Returns:
        The arrays and the state.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged; or a parameter is missing, left over, or of another type or shape. All are
            named, and nothing was changed.
    """
    damage = _damage(path)
    if damage is not None:
        raise ValueError(f"{path} is damaged: {damage}. Continue from the checkpoint before it.")
    tensors = read_safetensors(path)
    stored = {key[len(PARAMETER) :]: tensor for key, tensor in tensors.items() if key.startswith(PARAMETER)}
    ours = _by_name(parameters)
    problems = _differences(stored, {name: _lazily(parameter) for name, parameter in ours.items()})
    if problems:
        raise ValueError(
            f"{path} does not fit this training:\n  " + "\n  ".join(problems) + "\n"
            "Continue with the networks, the optimizer and the settings that it was written with."
        )
    arrays = {key[len(ARRAY) :]: t.read_stored() for key, t in tensors.items() if key.startswith(ARRAY)}
    state = json.loads(read_metadata(path)["state"])
    for name, parameter in ours.items():
        # copy_, because compiled graphs do not notice set_data. In numpy's type of the same name, for bfloat16
        # MindSpore's own: by way of float32 a NaN would lose its bits.
        parameter.copy_(Tensor(stored[name].read_stored().view(parameter.asnumpy().dtype)))
    return arrays, state


def _differences(stored: Mapping[str, LazyTensor], ours: Mapping[str, LazyTensor]) -> list[str]:
    """What in the file is not as in the training, a line for each name."""
    lines = [f"missing: {name}, {t.dtype} {t.shape}" for name, t in ours.items() if name not in stored]
    lines += [f"left over: {name}, {t.dtype} {t.shape}" for name, t in stored.items() if name not in ours]
    for name in ours.keys() & stored.keys():
        there, here = stored[name], ours[name]
        if (there.dtype, there.shape) != (here.dtype, here.shape):
            lines.append(f"{name} is {there.dtype} {there.shape} in the file, {here.dtype} {here.shape} here")
    return sorted(lines)


def _by_name(parameters: Iterable[Parameter]) -> dict[str, Parameter]:
    listed = list(parameters)
    named = {parameter.name: parameter for parameter in listed}
    if len(named) < len(listed):
        twice = sorted(name for name in named if sum(each.name == name for each in listed) > 1)
        raise ValueError(f"Several parameters are called {', '.join(twice)}: give each its own name.")
    return named


def _lazily(parameter: Parameter) -> LazyTensor:
    """A parameter that is copied from its device when it is written."""
    dtype = str(parameter.dtype).lower()
    return LazyTensor(tuple(parameter.shape), dtype, lambda: parameter.asnumpy().view(STORED_AS[dtype]))


def _of_array(name: str, array: np.ndarray) -> LazyTensor:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"The array {name} is of type {array.dtype}; expected booleans, integers or floats.")
    return LazyTensor.of(array.astype(array.dtype.newbyteorder("="), copy=False))


def _bytes(tensor: LazyTensor) -> memoryview:
    return np.ascontiguousarray(tensor.read_stored()).reshape(-1).view(np.uint8).data


def _damage(path: Path) -> Optional[str]:
    """What is wrong with a file; None: every byte is as it was written."""
    try:
        checksum, old = read_safetensors(path).get(CHECKSUM), read_metadata(path).get(CHECKSUM, "")
        with open(path, "rb") as file:
            found = _digest(file, path.stat().st_size - (checksum.size if checksum else 0), old.encode())
        expected = checksum.read_stored().tobytes().hex() if checksum else old
    except ValueError:
        return f"its {path.stat().st_size} bytes are not a whole safetensors file"
    except OSError as error:
        if error.errno != errno.EIO:  # whatever else it is, such as permissions, can be put right
            raise
        return f"the disk does not give it back ({error.strerror})"
    if not expected:
        return "it has no checksum, which every checkpoint has"
    return None if found == expected else f"its {path.stat().st_size} bytes are not those that were written"


def _digest(file: BinaryIO, size: int, old: bytes) -> str:
    """The checksum of the first ``size`` bytes; ``old``: a checksum in the header, which counts as zeros."""
    start = file.read(8)
    header = start + file.read(int.from_bytes(start, "little"))
    digest, left = hashlib.sha256(header.replace(old, b"0" * len(old), 1)), size - len(header)
    while left > 0 and (block := file.read(min(BLOCK, left))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()


def _checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints by step, the earliest first."""
    matches = ((NAME.fullmatch(entry.name), entry) for entry in folder.glob("step-*"))
    return dict(sorted((int(match.group(1)), entry) for match, entry in matches if match))


def _remove_old(folder: Path, step: int, keep: int) -> None:
    """Leaves ``keep`` checkpoints up to ``step``.

    Were later ones counted, a run that went back to an earlier step would lose what it has just written.
    """
    checkpoints = _checkpoints(folder)
    later = [path.name for at, path in checkpoints.items() if at > step]
    if later:
        advice = "A restart would continue from them: remove them if this run is to replace them."
        logger.warning("%s holds checkpoints of later steps than %d: %s. %s", folder, step, ", ".join(later), advice)
    _remove([path for at, path in checkpoints.items() if at <= step][:-keep])


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink()
        except OSError as error:  # no reason to end a training
            logger.warning("%s was not removed: %s.", path, error)


def _sync_folder(folder: Path) -> None:
    """Waits until a new name in ``folder`` is on the disk, before older files are removed."""
    with contextlib.suppress(OSError):  # not every file system can; the file is there
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
