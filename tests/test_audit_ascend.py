"""What tools/ascend/audit.py accepts, and what it reports."""

from pathlib import Path
from unittest import mock

import mindspore as ms
import numpy as np
import pytest
from audit import BEGIN, END, as_markdown, audit, main, write_between_markers
from constraints import CONSTRAINTS
from graphs import GRAPHS
from ir import INTERNAL, compiled_graphs
from mindspore import Tensor, nn, ops

from mindone_vq.nn.transformer_block import BasicTransformerBlock

SQUARE = np.eye(3, dtype=np.float32)
PAGE = Path(__file__).parents[1] / "docs/ascend.md"


class Applied(nn.Cell):
    """One operation as a network."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def construct(self, x):
        return self.operation(x)


def of(operation, fullgraph=True):
    """Compiles a graph of one operation."""
    return lambda dtype: ms.jit(Applied(operation), fullgraph=fullgraph)(Tensor(SQUARE, dtype))


def primitives(run):
    return [node.primitive for graph in compiled_graphs(run) for node in graph]


def audited(operation, fullgraph=True):
    """The table and the problems of one operation in float32."""
    return audit({"a graph": (of(operation, fullgraph), [ms.float32])})


def test_an_innocent_graph_passes():
    rows, wrong = audited(ops.softmax)
    assert wrong == []
    assert rows["Softmax"].cells() == (
        *("float32", "float32"),
        *("aclnn", "documented, dispatched, class, adapter"),
        *("CANN: SoftmaxV2", "1"),
    )


def test_a_graph_that_was_not_compiled_is_no_success():
    with pytest.raises(RuntimeError, match="no graph was compiled"):
        audit({"nothing": (lambda dtype: None, [ms.float32])})


@pytest.mark.parametrize("before", [False, True])
def test_an_error_in_building_a_graph_is_not_swallowed(before):
    """Nor after another graph that compiled."""

    def broken(x):
        raise ValueError("no such network")

    def compile_graphs(dtype):
        if before:
            of(ops.exp)(dtype)
        of(broken)(dtype)

    with pytest.raises(Exception, match="no such network"):
        audit({"a graph": (compile_graphs, [ms.float32])})


def test_a_graph_that_cannot_run_here_is_read(capsys):
    """Fused attention and its gradient have no kernel on a CPU."""
    x = Tensor(np.ones((1, 16, 32)), ms.float16)
    for cell in (FusedAttention(), ms.grad(Summed(FusedAttention()))):
        found = primitives(lambda cell=cell: ms.jit(cell, fullgraph=True)(x))
        assert any(name.startswith("FlashAttentionScore") for name in found)
    assert "FlashAttentionScoreGrad" in found
    assert capsys.readouterr().err.count("does not run on this device") == 2


class FusedAttention(nn.Cell):
    def construct(self, x):
        return ops.flash_attention_score(x, x, x, 2, input_layout="BSH")


class Summed(nn.Cell):
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def construct(self, x):
        return self.cell(x).astype(ms.float32).sum()


def test_every_kernel_of_the_table_has_a_constraint_and_every_constraint_a_kernel():
    """As the page has them: continuous integration writes the table again."""
    lines = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].split("|---|\n")[1].splitlines()
    primitives = {line.split("|")[1].strip() for line in lines if line.startswith("|")}
    without = {"GatherDGradV2"}  # from gradients, and not documented
    assert primitives - set(INTERNAL) - {each.primitive for each in CONSTRAINTS} == without
    assert {each.primitive for each in CONSTRAINTS} <= primitives


@pytest.mark.slow
def test_bfloat16_is_audited_where_a_cpu_cannot_run_it():
    """The context, whose output the step takes, and the step."""
    rows, wrong = audit({"a step": (GRAPHS["denoising step and conditioning, guided"][0], [ms.bfloat16])})
    assert wrong == []
    assert rows["FlashAttentionScore"].inputs == {"BFloat16"} and rows["CumSum"].inputs == {"Float32"}
    assert "Float16" not in {dtype for row in rows.values() for dtype in (*row.inputs, *row.outputs)}


@pytest.mark.slow
def test_a_finding_in_a_shipped_graph_names_the_graph_and_the_cell():
    name = "denoising step and conditioning, guided"
    with mock.patch("mindone_vq.nn.attention.FUSED_SIZE", 8):  # so heads of 24 are not padded
        _, wrong = audit({name: (GRAPHS[name][0], [ms.float16])})
    (finding,) = wrong
    assert finding.startswith(f"{name}, float16: FlashAttentionScore (mindone_vq/nn/attention.py:")
    assert " in attend, cell blocks.0.attn1.attend): the size of heads is 24; documented: 16 to 512" in finding


@pytest.mark.parametrize("method", ["context", "conditioned"])
def test_an_error_in_bfloat16_is_not_swallowed(method):
    """Of the first graph, and of the second after the first compiled."""

    def broken(*_):
        raise TypeError("no such method")

    step = GRAPHS["denoising step and conditioning, guided"][0]
    with mock.patch.object(BasicTransformerBlock, method, broken), pytest.raises(Exception, match="no such method"):
        audit({"a step": (step, [ms.bfloat16])})


def test_shipped_graphs_pass():
    """One of them here; continuous integration audits all."""
    rows, wrong = audit({"text encoder": (GRAPHS["text encoder"][0], [ms.float16])})
    assert wrong == []
    assert {"BatchMatMul", "LayerNorm", "Softmax", "Gather"} <= set(rows)
    assert all(row.evidence != "none" for row in rows.values())
    assert rows["MatMul"].cells()[2:5] == (
        "aclnn",
        "documented, dispatched, class, adapter",
        "CANN: MatMulV2, MindSpore: MatMul",
    )


def test_the_page_lists_the_graphs_that_are_audited():
    """Continuous integration writes the table again, which shows whether it is up to date."""
    listed = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split("| primitive |")[0]
    assert listed.strip().splitlines()[2:] == as_markdown({}, GRAPHS).split("| primitive |")[0].strip().splitlines()[2:]


def test_a_finding_is_an_exit_code(monkeypatch, capsys, tmp_path):
    page = tmp_path / "ascend.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr("audit.GRAPHS", {"a bad graph": (of(ops.cholesky), [ms.float32])})
    assert main(["--markdown", str(page)]) == 1
    assert "a bad graph, float32: Cholesky (tests/test_audit_ascend.py:" in capsys.readouterr().err
    assert page.read_text() == f"{BEGIN}\n{END}\n"


def test_the_table_goes_between_its_markers(tmp_path):
    page = tmp_path / "ascend.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    graphs = {"a graph": (of(ops.exp), [ms.float32])}
    write_between_markers(page, as_markdown(audit(graphs)[0], graphs))
    content = page.read_text()
    assert content.startswith(f"before\n{BEGIN}\n") and content.endswith(f"{END}\nafter\n") and "old" not in content
    assert (
        "| Exp | float32 | float32 | aclnn | documented, dispatched, class, adapter, AiCPU | CANN: Exp | 1 |" in content
    )
    page.write_text("no markers")
    with pytest.raises(ValueError, match="must hold"):
        write_between_markers(page, "table")
