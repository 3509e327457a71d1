"""What tools/ascend/audit.py accepts, and what it reports."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from audit import BEGIN, END, as_markdown, audit, main, problems, write_between_markers
from graphs import GRAPHS
from ir import Node, compiled_graphs, parse
from mindspore import Tensor, nn, ops
from support import Support, adapters, described, kernels, rewritten, support

from mindone_vq.nn.device import built_for, on_cpu
from mindone_vq.nn.normalization import GroupNorm, LayerNorm

SQUARE = np.eye(3, dtype=np.float32)


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


def in_float64(x):
    return x.astype(ms.float64) * 2


def with_python(x):
    return x + Tensor(np.float32(float(np.sum(x.asnumpy()))))


@pytest.mark.parametrize(
    "operation, primitive, message",
    [
        (in_float64, "Cast", "float64"),
        (ops.cholesky, "Cholesky", "not known to be on Ascend"),
        (ops.nonzero, "NonZero", "shape is unknown"),
    ],
)
def test_what_does_not_belong_on_ascend_is_named(operation, primitive, message):
    _, wrong = audited(operation)
    assert any("a graph, float32" in each and primitive in each and message in each for each in wrong), wrong


def test_python_inside_a_graph_is_named():
    _, wrong = audited(with_python, fullgraph=False)
    assert any("calls Python" in each for each in wrong), wrong


def test_an_innocent_graph_passes():
    rows, wrong = audited(ops.softmax)
    assert wrong == []
    assert rows["Softmax"].cells()[:2] == ("float32", "float32") and rows["Softmax"].graphs == {1}


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


def test_graphs_take_the_form_of_ascend():
    """There a norm is one primitive; on a CPU it is decomposed."""
    found = {}
    for target in ("CPU", "Ascend"):
        with built_for(target):
            norms = Applied(LayerNorm(3)), Applied(GroupNorm(1, 3))
        inputs = Tensor(SQUARE), Tensor(SQUARE.reshape(1, 3, 3, 1))
        found[target] = {
            name
            for norm, x in zip(norms, inputs)
            for name in primitives(lambda norm=norm, x=x: ms.jit(norm, fullgraph=True)(x))
        }
    assert {"LayerNorm", "GroupNorm"} <= found["Ascend"]
    assert not {"LayerNorm", "GroupNorm"} & found["CPU"]


def test_both_forms_of_a_norm_agree():
    x = Tensor(np.random.default_rng(0).normal(2, 3, (2, 6, 4, 4)).astype(np.float32))
    outputs = []
    for target in ("CPU", "Ascend"):
        with built_for(target):
            cells = GroupNorm(3, 6), LayerNorm(4)
        outputs.append([cell(x).asnumpy() for cell in cells])
    np.testing.assert_allclose(outputs[0][0], outputs[1][0], atol=1e-5)
    np.testing.assert_allclose(outputs[0][1], outputs[1][1], atol=1e-5)


def test_the_target_is_what_it_was_afterwards():
    with pytest.raises(RuntimeError), built_for("Ascend"):
        assert not on_cpu()
        raise RuntimeError
    assert on_cpu()
    with pytest.raises(ValueError, match="GPU"), built_for("GPU"):
        pass


def test_saving_graphs_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    (tmp_path / "temporary").mkdir()
    assert primitives(lambda: of(ops.exp)(ms.float32)).count("Exp") == 1
    of(ops.sin)(ms.float32)  # this graph is not saved
    assert [path.name for path in tmp_path.rglob("*")] == ["temporary"]


def test_nodes_are_read_with_types_shapes_and_place():
    text = """subgraph @1_construct() {
  %0(y) = PrimFunc_Cast(%para1_x, I64(43)) cnode_attrs: {checkpoint: Bool(1)}
      : (<Tensor[Float16], (2, -1)>, <Int64, NoShape>) -> (<Tensor[Float32], (2, -1)>)
      : (S:[2, s1], <null>) -> (S:[2, s1])
      # Fullname with scope: (Default/d-Dense/Cast-op0)
  %1(CNode_2) = %4[@FuncUnion(@2_branch, @3_other)](%0)
      : (<Tensor[Float32], (2, 3)>) -> (<Tuple[Tensor[Float32],Tensor[Int32]], TupleShape((2, 3), (2, 3))>)
  Return(%1)
      : (<Tensor[Float32], (2, 3)>)
}"""
    cast, call, end = parse(text)
    assert (cast.primitive, cast.scope, cast.is_dynamic) == ("Cast", "Default/d-Dense/Cast-op0", True)
    assert cast.dtypes == (("Float16",), ("Float32",))
    assert (call.primitive, call.dtypes, call.is_dynamic) == ("call", (("Float32",), ("Float32", "Int32")), False)
    assert end.primitive == "Return"
    with pytest.raises(ValueError, match="unknown form"):
        parse("  %0 := Exp %1")
    assert problems([Node("Exp", "<Tensor[Float32], (-2)>", "<Tensor[Float32], (4)>, <Int64, NoShape, value=-1>")])


def test_the_libraries_are_read():
    assert {"softmax", "matmul", "groupnorm", "groupnormgrad", "reducesum", "gatherdgradv2"} <= kernels()
    assert {"conv2d", "layernormgrad", "matmulv2"} <= set(adapters())
    assert "Sort" in described() and "AdamWeightDecay" in rewritten()
    for names in (kernels(), adapters(), described(), rewritten()):
        assert not {"NoSuchPrimitive", "nosuchprimitive"} & set(names)


def test_documentation_outweighs_what_is_registered():
    assert support("Softmax").documented == ("Ascend", "GPU", "CPU")
    assert support("Cholesky").registered and not support("Cholesky").supported
    assert not Support(None, ()).supported and Support(None, ("aclnn",)).supported
    assert support("LayerNormGrad").evidence == "registered (CANN)"
    assert support("NoSuchPrimitive").evidence == "none"


def test_shipped_graphs_pass():
    """One of them here; continuous integration audits all."""
    rows, wrong = audit({"text encoder": (GRAPHS["text encoder"][0], [ms.float16])})
    assert wrong == []
    assert {"BatchMatMul", "LayerNorm", "Softmax", "Gather"} <= set(rows)
    assert all(row.evidence != "none" for row in rows.values())


def test_the_page_lists_the_graphs_that_are_audited():
    """Continuous integration writes the table again, which shows whether it is up to date."""
    page = Path(__file__).parents[1] / "docs/ascend.md"
    listed = page.read_text(encoding="utf-8").split(BEGIN)[1].split("| primitive |")[0]
    assert listed.strip().splitlines()[2:] == as_markdown({}, GRAPHS).split("| primitive |")[0].strip().splitlines()[2:]


def test_a_finding_is_an_exit_code(monkeypatch, capsys, tmp_path):
    page = tmp_path / "ascend.md"
    page.write_text(f"{BEGIN}\n{END}\n")
    monkeypatch.setattr("audit.GRAPHS", {"a bad graph": (of(ops.cholesky), [ms.float32])})
    assert main(["--markdown", str(page)]) == 1
    assert "a bad graph, float32: Cholesky" in capsys.readouterr().err
    assert page.read_text() == f"{BEGIN}\n{END}\n"


def test_the_table_goes_between_its_markers(tmp_path):
    page = tmp_path / "ascend.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    graphs = {"a graph": (of(ops.exp), [ms.float32])}
    write_between_markers(page, as_markdown(audit(graphs)[0], graphs))
    content = page.read_text()
    assert content.startswith(f"before\n{BEGIN}\n") and content.endswith(f"{END}\nafter\n") and "old" not in content
    assert "| Exp | float32 | float32 | documented and registered (aclnn, CANN, AiCPU) | 1 |" in content
    page.write_text("no markers")
    with pytest.raises(ValueError, match="must hold"):
        write_between_markers(page, "table")
