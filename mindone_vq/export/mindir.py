"""One graph to one MINDIR file, with MindSpore left as it was."""

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mindspore as ms

from mindone_vq.export.graphs import MEANINGS, Graph

# MINDIR's name of an element type -> numpy's.
TYPE_NAMES = {"FLOAT": "float32", "FLOAT16": "float16", "INT32": "int32"}


def write_mindir(graph: Graph, folder: Path) -> dict[str, Any]:
    """Writes ``graph`` into ``folder``, which exists.

    A graph whose weights take more than a gigabyte becomes NAME_graph.mindir and the folder NAME_variables, which have
    to stay beside each other; the first names the second relatively.

    Returns:
        The name of the file, and what the graph in it takes and gives.

    Raises:
        RuntimeError: MindSpore gave the graph other inputs than it was asked to.
    """
    described: dict[str, Any] = {}
    with _context_kept(), _plain_name(folder) as plain:
        ms.export(
            graph.cell.set_train(False),
            *graph.inputs.values(),
            file_name=os.path.join(plain, graph.name),
            file_format="MINDIR",
            custom_func=lambda model: described.update(_description(model.graph, graph)),
        )
    _make_accessible(folder)
    name = next(name for name in (f"{graph.name}.mindir", f"{graph.name}_graph.mindir") if (folder / name).is_file())
    return {"file": name, **described}


def _description(written: Any, graph: Graph) -> dict[str, Any]:
    """Inputs and output as the file has them; ``written`` is its GraphProto."""
    names = [entry.name.rpartition(":")[2] for entry in written.input]
    if names != list(graph.inputs):
        raise RuntimeError(f"MindSpore exported {graph.name} with the inputs {names}, expected {list(graph.inputs)}.")
    inputs = [_entry(name, entry) for name, entry in zip(names, written.input)]
    return {"inputs": inputs, "output": _entry(graph.output, written.output[0])}


def _entry(name: str, value: Any) -> dict[str, Any]:
    tensor = value.tensor[0]
    dtype = TYPE_NAMES[tensor.DataType.Name(tensor.data_type)]
    return {"name": name, "shape": list(tensor.dims), "dtype": dtype, "meaning": MEANINGS[name]}


@contextmanager
def _context_kept() -> Iterator[None]:
    """ms.export sets the syntax level, and leaves it so when it fails."""
    before = ms.get_context("jit_syntax_level")
    try:
        yield
    finally:
        ms.set_context(jit_syntax_level=before)


@contextmanager
def _plain_name(folder: Path) -> Iterator[str]:
    """Another name for ``folder``: ms.export refuses one with a space or a letter that is not ASCII."""
    with tempfile.TemporaryDirectory(prefix="mindone_vq_") as place:
        link = os.path.join(place, "folder")
        os.symlink(folder.resolve(), link, target_is_directory=True)
        yield link


def _make_accessible(folder: Path) -> None:
    """Gives files and folders the usual rights: MindSpore makes them unwritable, and unreadable for others."""
    umask = os.umask(0)
    os.umask(umask)
    for path in folder.rglob("*"):
        usual = 0o777 if path.is_dir() else 0o666
        os.chmod(path, stat.S_IMODE(usual & ~umask))
