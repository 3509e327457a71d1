"""MindSpore's graphs as text: writing them while a graph compiles, and reading the nodes from them.

A graph goes through passes that are the same for every device, the last of which is called "validate", and then
through those of the device it will run on. Its text after "validate" is what is read here: the last that a CPU and an
NPU have in common.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mindspore as ms

FIRST_PASS, LAST_COMMON_PASS = "*_bootstrap_*.ir", "*_validate_*.ir"
# "  %3(x) = PrimFunc_MatMul(%1, ...", and below it "      : (<types of inputs>) -> (<types of outputs>)"
NODE = re.compile(
    r"^  (?:%\w+(?:\([^)]*\))? = |(?=Return))(?:(?P<name>[A-Za-z_][\w:]*)\(|(?P<call>call @|@|%\w+[\[(]))"
)
TYPES = re.compile(r"^      : (?:\((?P<inputs>.*)\) -> )?\((?P<outputs>.*)\)$")
SCOPE = re.compile(r"^      # Fullname with scope: \((?P<scope>.*)\)$")
DTYPE = re.compile(r"Tensor\)?\[(\w+)\]")  # "Any(Tensor)[Float64]" comes from Python
DYNAMIC = re.compile(r"\((?:\d+, )*-[12][,)]")  # -1: unknown size; -2: unknown rank


@dataclass
class Node:
    """One call of a primitive.

    Attributes:
        primitive: its name, as kernels are registered under.
        inputs, outputs: their types and shapes, as MindSpore writes them.
        scope: where in the network it is.
    """

    primitive: str
    inputs: str = ""
    outputs: str = ""
    scope: str = ""

    @property
    def dtypes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The types of the tensors that go in and that come out, each once, in order."""
        return tuple(tuple(dict.fromkeys(DTYPE.findall(text))) for text in (self.inputs, self.outputs))

    @property
    def is_dynamic(self) -> bool:
        """Whether the size of a tensor is known only when the graph runs."""
        return bool(DYNAMIC.search(self.inputs) or DYNAMIC.search(self.outputs))


def parse(text: str) -> list[Node]:
    """The nodes of a graph and of the graphs it calls, in the order they are written.

    Raises:
        ValueError: a line that must be a node is of another form: another release of MindSpore.
    """
    nodes: list[Node] = []
    for line in text.splitlines():
        if found := NODE.match(line):
            nodes.append(Node("call" if found["call"] else found["name"].removeprefix("PrimFunc_")))
        elif line.startswith("  %"):  # other lines may go on with the numbers of a constant
            raise ValueError(f"This is no node as MindSpore {ms.__version__} was known to write them: {line.strip()}")
        elif nodes and not nodes[-1].outputs and (found := TYPES.match(line)):  # symbols of shapes may follow
            nodes[-1].inputs, nodes[-1].outputs = found["inputs"] or "", found["outputs"]
        elif nodes and (found := SCOPE.match(line)):
            nodes[-1].scope = found["scope"]
    return nodes


class GraphTexts:
    """The texts of the graphs that were compiled while they were being saved.

    Attributes:
        texts: of those that came through the last common pass.
        begun: how many there were.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.begun = 0

    def nodes(self) -> list[Node]:
        """The nodes of all of them."""
        return [node for text in self.texts for node in parse(text)]


@contextlib.contextmanager
def saved_graphs() -> Iterator[GraphTexts]:
    """Collects the graphs that are compiled inside; what they hold is there after the with statement.

    MindSpore writes some sixty files for a graph; they go to a temporary folder that is removed, whatever happens.
    """
    collected, before = GraphTexts(), ms.get_context("save_graphs")
    with tempfile.TemporaryDirectory(prefix="mindone_vq_graphs_") as folder:
        ms.set_context(save_graphs=1, save_graphs_path=folder)
        try:
            yield collected
        finally:
            ms.set_context(save_graphs=before, save_graphs_path=".")
            collected.begun = len(list(Path(folder).rglob(FIRST_PASS)))
            collected.texts = [path.read_text() for path in sorted(Path(folder).rglob(LAST_COMMON_PASS))]
