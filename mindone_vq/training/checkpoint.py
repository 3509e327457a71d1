"""Checkpoints of a training run: everything that changes from step to step, one safetensors file for each step kept.

A file gets its name when all of it is on the disk, so a run that is killed, or whose disk is full, continues from the
last whole one. It holds a checksum of every byte, names and state included, so what was damaged later is noticed.
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
# A file begins with eight bytes of length and this, so the checksum is always at the same place. It is that of the file
# with BLANK in its place.
OPENING = b'{"__metadata__": {"sha256": "'
BLANK = b"0" * 64
CHECKSUM = slice(8 + len(OPENING), 8 + len(OPENING) + len(BLANK))
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

    Only one process may write into a folder: what killed ones left half-written is removed.

    Args:
        folder: where the checkpoints of this run are; made if need be.
        step: how many steps were done.
        parameters: all that the training changes, each under a name of its own, in any type and shape.
        arrays: what is kept as numpy arrays, of booleans, integers or floats.
        state: what is kept as JSON: keys are strings, and tuples come back as lists.
        keep: how many checkpoints stay, this one and those of earlier steps. Those of later steps, of a run that went
            on from here before, stay too, with a warning.

    Returns:
        The file.

    Raises:
        ValueError: ``keep`` or ``step`` is out of range, a name is there twice, or a type cannot be stored.
        TypeError: ``state`` is not JSON.
        OSError: the disk is full, and so on; the earlier checkpoints are as they were.
    """
    if keep < 1 or step < 0:
        raise ValueError(f"keep is {keep} and step is {step}; at least 1 checkpoint is kept, of step 0 or later.")
    path = folder / f"step-{step:08d}.safetensors"
    tensors = {PARAMETER + name: _lazily(parameter) for name, parameter in _by_name(parameters).items()}
    tensors.update({ARRAY + name: _of_array(name, np.asarray(array)) for name, array in arrays.items()})
    header = encode_header(tensors, {"sha256": BLANK.decode(), "state": _as_json(state)})
    try:
        _remove([entry for entry in _entries(folder) if TEMPORARY_NAME.fullmatch(entry.name)])  # they take room
        with atomic_file(path) as file:
            _write(file, header, tensors)
        _write_names_to_disk(folder)
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
    """The checkpoint to continue from: the latest that is whole; a warning names each damaged one after it.

    Returns:
        The file; None: there is no checkpoint.

    Raises:
        ValueError: there are some, and all are damaged.
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
            "Continue with the networks, the optimiser and the settings that it was written with."
        )
    arrays = {key[len(ARRAY) :]: t.read_stored() for key, t in tensors.items() if key.startswith(ARRAY)}
    state = json.loads(read_metadata(path)["state"])
    for name, parameter in ours.items():
        # copy_, because a compiled graph that has run does not notice set_data and goes on with the old values. In
        # numpy's type of the same name, for bfloat16 MindSpore's own: by way of float32 a NaN would lose its bits.
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
    named: dict[str, Parameter] = {}
    twice = []
    for parameter in parameters:
        if parameter.name in named:
            twice.append(parameter.name)
        named[parameter.name] = parameter
    if twice:
        raise ValueError(f"Several parameters are called {', '.join(sorted(set(twice)))}: give each its own name.")
    return named


def _lazily(parameter: Parameter) -> LazyTensor:
    """A parameter that is copied from its device when it is written."""
    dtype = str(parameter.dtype).lower()
    return LazyTensor(tuple(parameter.shape), dtype, lambda: parameter.asnumpy().view(STORED_AS[dtype]))


def _of_array(name: str, array: np.ndarray) -> LazyTensor:
    if array.dtype.kind not in "biuf":
        raise ValueError(f"The array {name} is of type {array.dtype}; expected booleans, integers or floats.")
    return LazyTensor.of(array.astype(array.dtype.newbyteorder("="), copy=False))


def _as_json(state: Mapping[str, Any]) -> str:
    try:
        return json.dumps(dict(state))
    except TypeError as error:
        raise TypeError(
            f"The state of a checkpoint must be JSON: {error}. Give arrays among the arrays, and int(x) or float(x) "
            "for a number of numpy's."
        ) from error


def _write(file: BinaryIO, header: bytes, tensors: Mapping[str, LazyTensor]) -> None:
    """Writes a checkpoint with its checksum, one tensor at a time, and waits until the disk has it."""
    checksum = hashlib.sha256(header)
    file.write(header)
    for tensor in tensors.values():
        data = np.ascontiguousarray(tensor.read_stored()).reshape(-1).view(np.uint8).data
        checksum.update(data)
        file.write(data)
    file.seek(CHECKSUM.start)
    file.write(checksum.hexdigest().encode())
    file.flush()
    os.fsync(file.fileno())


def _damage(path: Path) -> Optional[str]:
    """What is wrong with a file; None: every byte is as it was written."""
    try:
        with open(path, "rb") as file:
            head = file.read(CHECKSUM.stop)
            checksum = hashlib.sha256(head[: CHECKSUM.start] + BLANK)
            while block := file.read(BLOCK):
                checksum.update(block)
    except OSError as error:
        if error.errno != errno.EIO:  # whatever else it is, such as permissions, can be put right
            raise
        return f"the disk does not give it back ({error.strerror})"
    if head[8 : CHECKSUM.start] != OPENING:
        return "it does not begin as a checkpoint does"
    if head[CHECKSUM] != checksum.hexdigest().encode():
        return f"its {path.stat().st_size} bytes are not those that were written"
    return None


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() else []


def _checkpoints(folder: Path) -> dict[int, Path]:
    """The checkpoints by step, the earliest first."""
    found = {}
    for entry in _entries(folder):
        match = NAME.fullmatch(entry.name)
        if match:
            found[int(match.group(1))] = entry
    return dict(sorted(found.items()))


def _remove_old(folder: Path, step: int, keep: int) -> None:
    """Leaves ``keep`` checkpoints up to ``step``.

    Were later ones counted, a run that went back to an earlier step would lose what it has just written.
    """
    checkpoints = _checkpoints(folder)
    later = [path.name for at, path in checkpoints.items() if at > step]
    if later:
        advice = "A restart would take them: remove them if this run is to replace them."
        logger.warning("%s holds checkpoints of later steps than %d: %s. %s", folder, step, ", ".join(later), advice)
    _remove([path for at, path in checkpoints.items() if at <= step][:-keep])


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            path.unlink()
        except OSError as error:  # no reason to end a training
            logger.warning("%s was not removed: %s.", path, error)


def _write_names_to_disk(folder: Path) -> None:
    """Waits until a new name in ``folder`` is on the disk, before older files are removed."""
    with contextlib.suppress(OSError):  # not every file system can; the file is there
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
