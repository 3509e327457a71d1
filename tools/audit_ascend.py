"""Whether Ascend has what our graphs are made of, as far as it can be seen without an NPU.

    python tools/audit_ascend.py

Builds small networks of every published structure in the form they have on Ascend (mindone_vq/nn/device.py), compiles
every kind of graph, and reads the nodes of each after the last pass that all devices have in
common. Each primitive is looked up in what the installed MindSpore documents and in what its Ascend libraries hold
(tools/ascend_support.py says what that is worth). Ends with exit code 1, and the graph and primitive by name, on

- a primitive that Ascend does not have, or of which nothing says that it does;
- a float64 tensor;
- a tensor whose shape is not known before the graph runs;
- a call of Python from inside a graph.

What this cannot show: that a kernel takes the types and shapes it is given, that CANN has the operator in the version
that is installed, what passes for Ascend make of a graph, where MindSpore itself compiles for a CPU what it compiles
differently for Ascend, collective communication, and that any number is right. Only an NPU can.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import mindspore as ms
from ascend_graphs import GRAPHS, TYPES, Build, Run
from ascend_ir import Node, saved_graphs
from ascend_support import support

from mindone_vq.nn.device import built_for
from mindone_vq.weights.files import write_atomically

PYTHON = ("PyExecute", "PyInterpret", "PyFunc")
# No kernel computes these: they are how MindSpore writes a graph down. Name -> what it stands for.
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
BEGIN, END = "<!-- audit: begin -->", "<!-- audit: end -->"


@dataclass
class Row:
    """What is known of a primitive: types of the tensors in and out, numbers of the graphs it is in, evidence."""

    evidence: str
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    graphs: set[int] = field(default_factory=set)

    def cells(self) -> tuple[str, ...]:
        types = (", ".join(sorted(each)).lower() or "-" for each in (self.inputs, self.outputs))
        return (*types, self.evidence, ", ".join(map(str, sorted(self.graphs))))


def compiled_nodes(name: str, build: Build, dtype: ms.Type) -> list[Node]:
    """The nodes of the graphs that ``build`` makes, in their form for Ascend.

    A graph that a CPU cannot run is read, too, as long as it was compiled up to the last pass that all devices have.

    Raises:
        Exception: what MindSpore raised, where a graph was not compiled so far.
    """
    nodes: list[Node] = []
    with built_for("Ascend"):
        for run in build(dtype):
            nodes += _nodes_of(name, run)
    return nodes


def _nodes_of(name: str, run: Run) -> list[Node]:
    failed = None
    with saved_graphs() as saved:
        try:
            run()
        except Exception as error:
            failed = error
    if failed is not None:
        if not saved.texts or saved.begun > len(saved.texts):
            raise failed
        print(f"{name}: compiled, but does not run on this device ({type(failed).__name__})", file=sys.stderr)
    elif not saved.texts:
        raise RuntimeError(f"{name}: no graph was compiled.")
    return saved.nodes()


def problems(nodes: Iterable[Node]) -> list[str]:
    """What is wrong with the nodes of a graph, each primitive by name; empty where nothing is."""
    found = {}  # in order, and each once
    for node in nodes:
        at = f"{node.primitive} (at {node.scope})" if node.scope else node.primitive
        if node.primitive.startswith(PYTHON):
            found[f"{at} calls Python from inside the graph."] = None
            continue
        if "Float64" in (*node.dtypes[0], *node.dtypes[1]):
            found[f"{at} has a float64 tensor."] = None
        if node.is_dynamic:
            found[f"{at} has a tensor whose shape is not known before the graph runs."] = None
        if node.primitive not in INTERNAL and not support(node.primitive).supported:
            evidence = support(node.primitive).evidence
            found[f"{at} is not known to be on Ascend: {evidence}."] = None
    return list(found)


def audit(graphs: Mapping[str, tuple[Build, Iterable[ms.Type]]]) -> tuple[dict[str, Row], list[str]]:
    """The table, by primitive, and the problems of all graphs, with the graph's name and type."""
    rows: dict[str, Row] = {}
    wrong: list[str] = []
    for number, (name, (build, dtypes)) in enumerate(graphs.items(), 1):
        for dtype in dtypes:
            print(f"Compiling: {name}, {TYPES[dtype]}.", file=sys.stderr, flush=True)
            nodes = compiled_nodes(name, build, dtype)
            wrong += [f"{name}, {TYPES[dtype]}: {each}" for each in problems(nodes)]
            for node in nodes:
                row = rows.setdefault(node.primitive, Row(_evidence(node.primitive)))
                row.inputs.update(node.dtypes[0])
                row.outputs.update(node.dtypes[1])
                row.graphs.add(number)
    return dict(sorted(rows.items())), wrong


def _evidence(primitive: str) -> str:
    return f"internal: {INTERNAL[primitive]}" if primitive in INTERNAL else support(primitive).evidence


def as_markdown(rows: dict[str, Row], graphs: Mapping[str, tuple[Build, Iterable[ms.Type]]]) -> str:
    """The table, after what its numbers of graphs mean."""
    lines = [f"MindSpore {ms.__version__}. The graphs:", ""]
    for number, (name, (_, dtypes)) in enumerate(graphs.items(), 1):
        lines.append(f"{number}. {name} ({', '.join(TYPES[dtype] for dtype in dtypes)})")
    lines += ["", "| primitive | tensors in | tensors out | evidence | graphs |", "|---|---|---|---|---|"]
    lines += [f"| {primitive} | {' | '.join(row.cells())} |" for primitive, row in rows.items()]
    return "\n".join(lines)


def write_between_markers(path: Path, text: str) -> None:
    """Puts ``text`` in place of what is between the two markers in a file, which stays as it is otherwise."""
    content = path.read_text(encoding="utf-8")
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise ValueError(f"{path} must hold {BEGIN} and {END} once each, where the table goes.")
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    write_atomically(path, pattern.sub(lambda _: f"{BEGIN}\n{text}\n{END}", content).encode())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table into it, between its markers")
    options = parser.parse_args(arguments)
    rows, wrong = audit(GRAPHS)
    table = as_markdown(rows, GRAPHS)
    print(table)
    if wrong:
        print("\nNot fit for Ascend:", *wrong, sep="\n", file=sys.stderr)
        return 1
    print(f"\n{len(rows)} primitives in {len(GRAPHS)} graphs: nothing found. No NPU was asked.")
    if options.markdown:
        write_between_markers(options.markdown, table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
