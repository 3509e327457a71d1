"""Whether Ascend has the primitives of our graphs, as far as this can be known without an NPU.

    python tools/ascend/audit.py [--markdown docs/ascend.md]

Compiles every kind of graph (graphs.py), of small networks of the published structures in their form for Ascend, and
reads the nodes of each after the last pass that all devices have in common. Each primitive is looked up in the
documentation and in the Ascend libraries of the installed MindSpore (support.py says how strong this evidence is). The
exit code is 1, and the graph and the primitive are named, for

- a primitive that Ascend does not have, or without any evidence that it does;
- a float64 tensor;
- a tensor whose shape is unknown until the graph runs;
- a call of Python from inside a graph.

Only an NPU can show that a kernel takes the types and shapes it is given, that the installed CANN has the operator,
what the passes for Ascend change, whether MindSpore compiles something else for Ascend, collective communication, and
that the numbers are right.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import mindspore as ms
from graphs import GRAPHS, TYPES, Compile, built_for_ascend
from ir import INTERNAL, Node, compiled_graphs
from support import support

from mindone_vq.weights.files import write_atomically

PYTHON = ("PyExecute", "PyInterpret", "PyFunc")
BEGIN, END = "<!-- audit: begin -->", "<!-- audit: end -->"


@dataclass
class Row:
    """A primitive: the evidence for it, the types of its input and output tensors, the numbers of its graphs."""

    evidence: str
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    graphs: set[int] = field(default_factory=set)

    def cells(self) -> tuple[str, ...]:
        types = (", ".join(sorted(each)).lower() or "-" for each in (self.inputs, self.outputs))
        return (*types, self.evidence, ", ".join(map(str, sorted(self.graphs))))


def problems(nodes: Iterable[Node]) -> list[str]:
    """The problems of nodes, each once and with the name of the primitive."""
    found = {}  # in order, without duplicates
    for node in nodes:
        at = f"{node.primitive} (at {node.scope})" if node.scope else node.primitive
        if node.primitive.startswith(PYTHON):
            found[f"{at} calls Python from inside the graph."] = None
            continue
        if "Float64" in (*node.dtypes[0], *node.dtypes[1]):
            found[f"{at} has a float64 tensor."] = None
        if node.is_dynamic:
            found[f"{at} has a tensor whose shape is unknown until the graph runs."] = None
        if node.primitive not in INTERNAL and not support(node.primitive).supported:
            evidence = support(node.primitive).evidence
            found[f"{at} is not known to be on Ascend: {evidence}."] = None
    return list(found)


def audit(graphs: Mapping[str, tuple[Compile, Iterable[ms.Type]]]) -> tuple[dict[str, Row], list[str]]:
    """The rows of the table by primitive, and the problems of all graphs, with the name and type of the graph."""
    rows: dict[str, Row] = {}
    wrong: list[str] = []
    for number, (name, (compile_graphs, dtypes)) in enumerate(graphs.items(), 1):
        for dtype in dtypes:
            print(f"Compiling: {name}, {TYPES[dtype]}.", file=sys.stderr, flush=True)
            with built_for_ascend():
                nodes = [node for graph in compiled_graphs(partial(compile_graphs, dtype)) for node in graph]
            wrong += [f"{name}, {TYPES[dtype]}: {each}" for each in problems(nodes)]
            for node in nodes:
                row = rows.setdefault(node.primitive, Row(_evidence(node.primitive)))
                row.inputs.update(node.dtypes[0])
                row.outputs.update(node.dtypes[1])
                row.graphs.add(number)
    return dict(sorted(rows.items())), wrong


def _evidence(primitive: str) -> str:
    return f"internal: {INTERNAL[primitive]}" if primitive in INTERNAL else support(primitive).evidence


def as_markdown(rows: dict[str, Row], graphs: Mapping[str, tuple[Compile, Iterable[ms.Type]]]) -> str:
    """The list of graphs and the table."""
    lines = [f"MindSpore {ms.__version__}. The graphs:", ""]
    for number, (name, (_, dtypes)) in enumerate(graphs.items(), 1):
        lines.append(f"{number}. {name} ({', '.join(TYPES[dtype] for dtype in dtypes)})")
    lines += ["", "| primitive | tensors in | tensors out | evidence | graphs |", "|---|---|---|---|---|"]
    lines += [f"| {primitive} | {' | '.join(row.cells())} |" for primitive, row in rows.items()]
    return "\n".join(lines)


def write_between_markers(path: Path, text: str) -> None:
    """Replaces the text between the two markers in a file."""
    content = path.read_text(encoding="utf-8")
    if content.count(BEGIN) != 1 or content.count(END) != 1:
        raise ValueError(f"{path} must hold {BEGIN} and {END} once each, where the table goes.")
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    write_atomically(path, pattern.sub(lambda _: f"{BEGIN}\n{text}\n{END}", content).encode())


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="write the table between the markers in this file"
    )
    options = parser.parse_args(arguments)
    rows, wrong = audit(GRAPHS)
    table = as_markdown(rows, GRAPHS)
    print(table)
    if wrong:
        print("\nNot fit for Ascend:", *wrong, sep="\n", file=sys.stderr)
        return 1
    print(f"\n{len(rows)} primitives in {len(GRAPHS)} graphs: no problems found. Nothing ran on an NPU.")
    if options.markdown:
        write_between_markers(options.markdown, table)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
