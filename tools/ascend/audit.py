"""Whether Ascend has the primitives of our graphs, for their types and shapes, as far as this is known without an NPU.

    python tools/ascend/audit.py [--markdown docs/ascend.md]

Compiles every kind of graph (graphs.py), of small networks of the published structures in their form for Ascend, and
reads the nodes of each after the last pass that all devices have in common. Each primitive is looked up in the
documentation and in the Ascend libraries of the installed MindSpore (support.py says how strong this evidence is), and
each node in a table of documented constraints (constraints.py). The exit code is 1, and the graph, the primitive, the
line of Python and the cell are named, for

- a primitive that Ascend does not have, or without any evidence that it does;
- a type, rank, layout or size that is documented as not supported;
- a float64 tensor;
- a tensor whose shape is unknown until the graph runs;
- a call of Python from inside a graph.

Only an NPU can show that the documentation is right and complete, that the installed CANN has the operator, what the
passes for Ascend change, whether MindSpore compiles something else for Ascend, collective communication, and that the
numbers are right.
"""

import argparse
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import mindspore as ms
from constraints import of, violations
from graphs import GRAPHS, TYPES, Compile, built_for_ascend
from ir import INTERNAL, Node, compiled_graphs
from support import support

from mindone_vq.weights.files import write_atomically

PYTHON = ("PyExecute", "PyInterpret", "PyFunc")
BEGIN, END = "<!-- audit: begin -->", "<!-- audit: end -->"


@dataclass
class Row:
    """A primitive: its kernel and the evidence, types of input and output tensors, the numbers of its graphs."""

    primitive: str
    inputs: set[str] = field(default_factory=set)
    outputs: set[str] = field(default_factory=set)
    graphs: set[int] = field(default_factory=set)

    def cells(self) -> tuple[str, ...]:
        types = (", ".join(sorted(each)).lower() or "-" for each in (self.inputs, self.outputs))
        return (*types, self.kernel, self.evidence, self.constraints, ", ".join(map(str, sorted(self.graphs))))

    @property
    def kernel(self) -> str:
        return "internal" if self.primitive in INTERNAL else support(self.primitive).kernel

    @property
    def evidence(self) -> str:
        return INTERNAL.get(self.primitive) or support(self.primitive).evidence

    @property
    def constraints(self) -> str:
        """The sources of the constraints that the nodes meet; addresses as links."""
        sources = dict.fromkeys(each.source for each in of(self.primitive))
        links = (f"[{Path(each).stem}]({each})" if each.startswith("https:") else each for each in sources)
        return ", ".join(links) or "-"


def problems(nodes: Iterable[Node]) -> list[str]:
    """The problems of nodes, each once, with the primitive and where it comes from."""
    found = {}  # in order, without duplicates
    for node in nodes:
        at = f"{node.primitive} ({node.place})"
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
        found.update({f"{at}: {each}.": None for each in violations(node)})
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
                row = rows.setdefault(node.primitive, Row(node.primitive))
                row.inputs.update(node.dtypes[0])
                row.outputs.update(node.dtypes[1])
                row.graphs.add(number)
    return dict(sorted(rows.items())), wrong


def as_markdown(rows: dict[str, Row], graphs: Mapping[str, tuple[Compile, Iterable[ms.Type]]]) -> str:
    """The list of graphs and the table."""
    lines = [f"MindSpore {ms.__version__}. The graphs:", ""]
    for number, (name, (_, dtypes)) in enumerate(graphs.items(), 1):
        lines.append(f"{number}. {name} ({', '.join(TYPES[dtype] for dtype in dtypes)})")
    columns = ("primitive", "tensors in", "tensors out", "kernel", "evidence", "constraints", "graphs")
    lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
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
