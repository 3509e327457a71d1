"""Compiled graphs kept in files, so that the next process does not compile them again.

MindSpore's compile cache numbers its files by the order of compilation, and takes whatever lies under a number. So the
graphs are kept here by a fingerprint of everything that they are made of, which the values of parameters are not. The
folder that MindSpore sees, one for each process, holds only the graph that is wanted, under every number. Only graphs
of this package and of MindSpore are kept, and only on a CPU.

The environment variable MINDONE_VQ_GRAPHS is the folder, by default ~/.cache/mindone_vq/graphs; "off" keeps nothing.
"""

import atexit
import contextlib
import functools
import hashlib
import os
import shutil
import sys
import tempfile
import threading
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops
from mindspore.common import api

from mindone_vq.nn.configuration import configuration
from mindone_vq.nn.device import on_cpu
from mindone_vq.weights.files import write_atomically

VARIABLE = "MINDONE_VQ_GRAPHS"
OWN = ("mindone_vq", "mindspore")
NUMBERS = 256  # a process that compiles more graphs compiles the others itself
MOST = 256  # graphs kept
FILES = Path("rank_0", "graph_cache")
# What parameters began with; and seeds of dropout, which no graph of a pipeline has.
NOT_DESCRIBED = {"init_tensor", "weight_init", "bias_init", "seed0", "seed1", "Seed0", "Seed1"}


_lock = threading.RLock()


class Unknown(Exception):
    """A part of a cell whose description would not say everything."""


def folder() -> Optional[Path]:
    """Where graphs are kept; None: nowhere."""
    chosen = os.environ.get(VARIABLE)
    if chosen == "off" or not on_cpu() or ms.get_context("device_target") != "CPU":
        return None
    if os.environ.get("MS_COMPILER_CACHE_ENABLE") is not None or ms.get_context("enable_compile_cache"):
        return None  # MindSpore's own, as the user chose
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(chosen) if chosen else Path(cache, "mindone_vq", "graphs")


@contextlib.contextmanager
def kept(cell: nn.Cell, signature: Any) -> Iterator[None]:
    """What is compiled inside, ``cell`` for inputs of that signature, is read from its files or written to them.

    Nothing fails for want of a file or a folder.
    """
    place, own = folder(), None
    if place is not None:
        with contextlib.suppress(Unknown, OSError):
            own, cache = place / f"{fingerprint(cell, signature)}.mindir", _seen_by_mindspore()
    if own is None:
        yield
        return
    with _lock, _compile_cache(cache) as seen, _without_warning():
        is_kept = own.is_file()
        for number in range(NUMBERS if is_kept else 0):
            (seen / f"compile_cache_{number}.mindir").symlink_to(own)
        try:
            yield
            if not is_kept:
                with contextlib.suppress(OSError):
                    _keep(seen, own)
        finally:
            for file in seen.iterdir():  # not the folder: MindSpore makes it once
                file.unlink()


def _keep(seen: Path, own: Path) -> None:
    """Gives a graph that MindSpore wrote its place; whole or not at all."""
    own.parent.mkdir(parents=True, exist_ok=True)
    for graph in seen.glob("*.mindir"):
        write_atomically(own, graph.read_bytes())
    for old in sorted(own.parent.glob("*.mindir"), key=lambda each: each.stat().st_mtime)[:-MOST]:
        old.unlink()


@functools.cache
def _seen_by_mindspore() -> Path:
    """The folder of its compile cache, of which it takes one for a process."""
    place = Path(tempfile.mkdtemp(prefix="mindone_vq_graphs_"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    (place / FILES).mkdir(parents=True)
    return place


@contextlib.contextmanager
def _compile_cache(place: Path) -> Iterator[Path]:
    """MindSpore's compile cache is on, whatever files the program is made of; gives the folder of its graphs."""
    before = getattr(api, "entry_script_path", None)
    variables = {
        "MS_COMPILER_CACHE_ENABLE": "1",
        "MS_COMPILER_CACHE_PATH": str(place),
        "MS_DEV_FORCE_USE_COMPILE_CACHE": "1",
    }
    os.environ.update(variables)
    # MindSpore would look up what the program imports, and thereby makes sys anew, with other streams.
    api.entry_script_path = str(Path(__file__).parents[1] / "py.typed")  # an empty file
    try:
        yield place / FILES
    finally:
        api.entry_script_path = before
        for name in variables:
            del os.environ[name]


@contextlib.contextmanager
def _without_warning() -> Iterator[None]:
    """Lines that MindSpore writes to the standard error about its cache are left out; others follow at the end."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)
            os.close(real)
            held.seek(0)
            for line in held:
                if not any(place in line for place in (b"compile_cache_manager.cc", b"GetCompileCacheResource")):
                    os.write(2, line)


def fingerprint(cell: nn.Cell, signature: Any) -> str:
    """Of what ``description`` gives."""
    return hashlib.sha256(repr(description(cell, signature)).encode()).hexdigest()[:32]


def description(cell: nn.Cell, signature: Any) -> list:
    """The versions, the source code, the structure and settings of the cell, its parameters, and the inputs.

    Raises:
        Unknown: something in the cell cannot be described.
    """
    settings = [ms.get_context(name) for name in ("mode", "jit_syntax_level", "jit_config")]
    parts: list[Any] = [ms.__version__, _source(), _describe(settings), repr(configuration()), repr(signature)]
    for name, part in cell.cells_and_names():
        own = {key: value for key, value in vars(part).items() if key not in vars(_plain_cell())}
        parts.append((name, _named(type(part)), _describe(own)))
    return parts + [(each.name, each.shape, str(each.dtype), each.requires_grad) for each in cell.get_parameters()]


@functools.cache
def _plain_cell() -> nn.Cell:
    return nn.Cell()


@functools.cache
def _source() -> str:
    """Of every file of this package."""
    digest, root = hashlib.sha256(), Path(__file__).parents[1]
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def _named(thing: Any) -> str:
    """A class or a function, by its name."""
    if thing.__module__.split(".")[0] not in OWN or "<" in thing.__qualname__:
        raise Unknown(thing)
    return f"{thing.__module__}.{thing.__qualname__}"


def _describe(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str, ms.Type)):
        return repr(value)
    if isinstance(value, Mapping):
        items = {str(name): each for name, each in value.items() if name not in NOT_DESCRIBED}
        return [(name, _describe(items[name])) for name in sorted(items)]
    if isinstance(value, (tuple, list)):
        return [_describe(each) for each in value]
    if isinstance(value, nn.Cell):
        return _named(type(value))  # described as a cell of its own
    if isinstance(value, (Tensor, np.ndarray)):
        array = value.asnumpy() if isinstance(value, Tensor) else value
        return array.shape, str(array.dtype), hashlib.sha256(np.ascontiguousarray(array)).hexdigest()
    if isinstance(value, ops.Primitive):
        return _named(type(value)), value.name, _describe(value.attrs)
    if isinstance(value, (type, types.FunctionType)):
        return _named(value)
    raise Unknown(type(value))
