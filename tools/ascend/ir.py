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
    r"^  (?:%\w+(?:\([^)]*\))? = |(?=Return))(?:(?P<name>[A-Za-z_][\w:]*)\(|(?P<call>call @|@|%\w+[\[(]))(?P<rest>.*)"
)
TYPES = re.compile(r"^      : (?:\((?P<inputs>.*)\) -> )?\((?P<outputs>.*)\)$")
SCOPE = re.compile(r"^      # Fullname with scope: \((?P<scope>.*)\)$")
# "      # In file a.py:85, 17~42/        x = ops.exp(x)/", after a line of the function, "def construct(self, x):/"
SOURCE = re.compile(
    r"^      # In file (?P<file>.*?):(?P<line>\d+)(?:~\d+)?(?:, \d+~\d+)?/\s*(?:def (?P<function>\w+))?"
)
REPOSITORY, MINDSPORE = Path(__file__).parents[2], Path(ms.__file__).parent
# Parts of a scope that are no cells: the graph, its gradient, and what is computed again for that.
NO_CELLS = re.compile(r"^(?:Gradients/)?(?:recompute_)?Default/?|(?:^|/)Grad_\w+")
OPERAND = re.compile(r"<([^<>]*)>")
SHAPE = re.compile(r"Tensor\)?\[(\w+)\]\]?, \(([-\d, ]*)\)")  # "]]": of a parameter
TUPLE = re.compile(r"Tuple\[(.*)\], TupleShape\((\(.*\))\)")
Tensors = list[tuple[str, tuple[int, ...]]]  # type and shape of each
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
        scope: its place in the network, with the kind of each cell.
        source: the line of Python that it comes from, and the function; "" if MindSpore does not know it.
        text: its arguments and attributes, as MindSpore writes them.
    """

    primitive: str
    inputs: str = ""
    outputs: str = ""
    scope: str = ""
    source: str = ""
    text: str = ""

    @property
    def operands(self) -> list[Tensors]:
        """The tensors of each input: one, several of a tuple, or none of a number."""
        return operands(self.inputs)

    @property
    def cell(self) -> str:
        """The name of the cell, as parameters have it: "blocks.0.attn1.attend"."""
        cells = NO_CELLS.sub("", self.scope.rpartition("/")[0]).split("/")
        return ".".join(cell.rpartition("-")[0] for cell in cells if cell)

    @property
    def place(self) -> str:
        """Where it comes from, for messages."""
        cell = f"cell {self.cell}" if self.cell else "the outermost cell"
        return f"{self.source}, {cell}" if self.source else cell

    def argument(self, position: int) -> str:
        """An argument as MindSpore writes it: "I64(-1)", or "%3" of another node."""
        return _arguments(self.text)[position]

    def attribute(self, name: str) -> str:
        """An attribute of the primitive as MindSpore writes it; "" if it has no such attribute."""
        found = re.search(rf"[{{ ]{name}: ([^,}}]*)", self.text.partition(" primitive_attrs: ")[2])
        return found[1] if found else ""

    @property
    def dtypes(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The types of the input and of the output tensors, each once, in order."""
        return tuple(tuple(dict.fromkeys(DTYPE.findall(text))) for text in (self.inputs, self.outputs))

    @property
    def is_dynamic(self) -> bool:
        """Whether a tensor has a size that is unknown until the graph runs."""
        return bool(DYNAMIC.search(self.inputs) or DYNAMIC.search(self.outputs))


def operands(text: str) -> list[Tensors]:
    """The tensors of each input or output of a node, from their types and shapes as MindSpore writes them."""
    return [_tensors(each) for each in OPERAND.findall(text)]


def tensors(text: str) -> Tensors:
    """All tensors of ``operands``."""
    return [tensor for each in operands(text) for tensor in each]


def _tensors(operand: str) -> Tensors:
    if found := TUPLE.search(operand):
        repeated = re.findall(r"Tensor\[(\w+)\](?:\*(\d+))?", found[1])  # "Tensor[Float32]*3"
        names = [name for name, times in repeated for _ in range(int(times or 1))]
        return list(zip(names, map(numbers, re.findall(r"\(([-\d, ]*)\)", found[2]))))
    return [(name, numbers(shape)) for name, shape in SHAPE.findall(operand)]


def numbers(text: str) -> tuple[int, ...]:
    """The whole numbers in a shape."""
    return tuple(map(int, re.findall(r"-?\d+", text)))


def _arguments(text: str) -> list[str]:
    """ "%1, (I64(0), I64(1))) attributes" -> ["%1", "(I64(0), I64(1))"]."""
    arguments, depth, begin = [], 0, 0
    for at, character in enumerate(text):
        if depth == 0 and character in ",)":
            arguments.append(text[begin:at].strip())
            begin = at + 1
        if character in "([":
            depth += 1
        elif character in ")]":
            depth -= 1
        if depth < 0:
            break
    return arguments


def parse(text: str) -> list[Node]:
    """The nodes of a graph and of the graphs it calls, in the order of the text.

    Raises:
        ValueError: a line that must be a node has an unknown form, as another release of MindSpore may write it.
    """
    nodes: list[Node] = []
    function = ""  # the last one named
    for line in text.splitlines():
        if found := NODE.match(line):
            name = "call" if found["call"] else found["name"].removeprefix("PrimFunc_")
            nodes.append(Node(name, text=found["rest"]))
        elif line.startswith("  %"):  # other lines may continue the values of a constant
            raise ValueError(f"MindSpore {ms.__version__} wrote a node in an unknown form: {line.strip()}")
        elif nodes and not nodes[-1].outputs and (found := TYPES.match(line)):  # symbols of shapes may follow
            nodes[-1].inputs, nodes[-1].outputs = found["inputs"] or "", found["outputs"]
        elif nodes and (found := SCOPE.match(line)):
            nodes[-1].scope, function = found["scope"], ""
        elif nodes and (found := SOURCE.match(line)) and not Path(found["file"]).is_relative_to(MINDSPORE):
            function = found["function"] or function  # the lines go from the outermost call to the innermost
            nodes[-1].source = f"{_short(Path(found['file']))}:{found['line']}" + (
                f" in {function}" if function else ""
            )
        elif nodes and not nodes[-1].outputs:  # the values of a constant among the arguments
            nodes[-1].text += line
    return nodes


def _short(file: Path) -> Path:
    return file.relative_to(REPOSITORY) if file.is_relative_to(REPOSITORY) else Path(file.name)


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
        files = _written(folder, LAST_COMMON_PASS)
        graphs, begun = [parse(path.read_text()) for path in files], len(_written(folder, FIRST_PASS))
    if failed is not None:
        if not graphs or begun > len(graphs):
            raise failed
        print(f"  compiled, but does not run on this device ({type(failed).__name__})", file=sys.stderr)
    elif not graphs:
        raise RuntimeError("no graph was compiled.")
    return graphs


def last_outputs() -> Tensors:
    """Types and shapes of what the last graph inside ``compiled_graphs`` returns; none if it did not compile."""
    folder = ms.get_context("save_graphs_path")
    compiled, begun = _written(folder, LAST_COMMON_PASS), _written(folder, FIRST_PASS)
    if not compiled or len(begun) > len(compiled):
        return []
    return tensors(parse(compiled[-1].read_text())[-1].outputs)


def _written(folder: str, names: str) -> list[Path]:
    """The files of a pass, in the order of compilation."""
    return sorted(Path(folder).rglob(names), key=lambda path: int(path.stem.rpartition("_")[2]))
