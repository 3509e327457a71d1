"""MindSpore's graphs as text: saves them while they compile, and reads the nodes from them.

A graph goes through passes that are the same for every device, the last of which is called "validate", and then
through those of the device that runs it. The text after "validate" is read here: the last one that a CPU and an NPU
have in common.
"""

import os
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Callable
from unittest import mock

import mindspore as ms

from mindone_vq.pipelines import graph_files

FIRST_PASS, LAST_COMMON_PASS = "*_bootstrap_*.ir", "*_validate_*.ir"
# "  %3(x) = PrimFunc_MatMul(%1, ...", and below it "      : (<types of inputs>) -> (<types of outputs>)"
NODE = re.compile(
    r"^  (?:%\w+(?:\([^)]*\))? = |(?=Return))(?:(?P<name>[A-Za-z_][\w:]*)\(|(?P<call>call @|@|%\w+[\[(]))"
)
TYPES = re.compile(r"^      : (?:\((?P<inputs>.*)\) -> )?\((?P<outputs>.*)\)$")
SCOPE = re.compile(r"^      # Fullname with scope: \((?P<scope>.*)\)$")
DTYPE = re.compile(r"Tensor\)?\[(\w+)\]")  # "Any(Tensor)[Float64]" comes from Python
DYNAMIC = re.compile(r"\((?:\d+, )*-[12][,)]")  # -1: unknown size; -2: unknown rank
# Primitives that no kernel computes: the notation of MindSpore's graphs. Name -> its meaning.
INTERNAL = {
    "Return": "the end of a graph",
    "MakeTuple": "several values as one",
    "TupleGetItem": "one of several values",
    "Depend": "order",
    "UpdateState": "order of side effects",
    "Load": "reading a parameter",
    "Switch": "a branch, chosen while the graph runs",
    "Partial": "a branch with its arguments",
    "call": "another graph of the same compilation",
}


@dataclass
class Node:
    """One call of a primitive.

    Attributes:
        primitive: its name, under which kernels are registered.
        inputs, outputs: their types and shapes, as MindSpore writes them.
        scope: its place in the network.
    """

    primitive: str
    inputs: str = ""
    outputs: str = ""
    scope: str = ""

    @property
    def dtypes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The types of the input and of the output tensors, each once, in order."""
        return tuple(tuple(dict.fromkeys(DTYPE.findall(text))) for text in (self.inputs, self.outputs))

    @property
    def is_dynamic(self) -> bool:
        """Whether a tensor has a size that is unknown until the graph runs."""
        return bool(DYNAMIC.search(self.inputs) or DYNAMIC.search(self.outputs))


def parse(text: str) -> list[Node]:
    """The nodes of a graph and of the graphs it calls, in the order of the text.

    Raises:
        ValueError: a line that must be a node has an unknown form, as another release of MindSpore may write it.
    """
    nodes: list[Node] = []
    for line in text.splitlines():
        if found := NODE.match(line):
            nodes.append(Node("call" if found["call"] else found["name"].removeprefix("PrimFunc_")))
        elif line.startswith("  %"):  # other lines may continue the values of a constant
            raise ValueError(f"MindSpore {ms.__version__} wrote a node in an unknown form: {line.strip()}")
        elif nodes and not nodes[-1].outputs and (found := TYPES.match(line)):  # symbols of shapes may follow
            nodes[-1].inputs, nodes[-1].outputs = found["inputs"] or "", found["outputs"]
        elif nodes and (found := SCOPE.match(line)):
            nodes[-1].scope = found["scope"]
    return nodes


def compiled_graphs(run: Callable[[], object]) -> list[list[Node]]:
    """The nodes of each graph that ``run()`` compiles, in the order of compilation.

    If ``run`` fails because this device cannot run a graph, that graph is the last one. MindSpore writes about sixty
    files for a graph; they go to a temporary folder.

    Raises:
        Exception: the error of ``run``, if a graph did not pass the last common pass.
        RuntimeError: no graph was compiled.
    """
    failed, before = None, ms.get_context("save_graphs")
    nothing_kept = mock.patch.dict(os.environ, {graph_files.VARIABLE: "off"})  # a graph from a file skips the passes
    with nothing_kept, tempfile.TemporaryDirectory(prefix="mindone_vq_graphs_") as folder:
        ms.set_context(save_graphs=1, save_graphs_path=folder)
        try:
            run()
        except Exception as error:
            failed = error
        finally:
            ms.set_context(save_graphs=before, save_graphs_path=".")
        files = sorted(Path(folder).rglob(LAST_COMMON_PASS), key=lambda path: int(path.stem.rpartition("_")[2]))
        graphs, begun = [parse(path.read_text()) for path in files], len(list(Path(folder).rglob(FIRST_PASS)))
    if failed is not None:
        if not graphs or begun > len(graphs):
            raise failed
        print(f"  compiled, but does not run on this device ({type(failed).__name__})", file=sys.stderr)
    elif not graphs:
        raise RuntimeError("no graph was compiled.")
    return graphs
