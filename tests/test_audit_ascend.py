"""What tools/ascend/audit.py accepts, and what it reports."""

import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable
from unittest import mock

import mindspore as ms
import numpy as np
import pytest
from audit import BEGIN, END, as_markdown, audit, main, problems, write_between_markers
from constraints import CONSTRAINTS
from graphs import GRAPHS
from ir import INTERNAL, Node, compiled_graphs, parse
from mindspore import Tensor, nn, ops
from mindspore.ops.operations.other_ops import PyFunc
from support import Support, adapters, described, has_kernel_class, rewritten, support

from mindone_vq.nn.attention import ScaledDotProductAttention
from mindone_vq.nn.device import built_for, on_cpu
from mindone_vq.nn.normalization import GroupNorm, LayerNorm
from mindone_vq.nn.transformer_block import BasicTransformerBlock

SQUARE = np.eye(3, dtype=np.float32)
PICTURES = np.ones((2, 4, 8, 8), np.float32)
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


def in_float64(x):
    return x.astype(ms.float64) * 2


WIDE = Tensor(SQUARE.astype(np.float64))


def with_a_wide_constant(x):
    return x + WIDE


def with_python(x):
    return x + Tensor(np.float32(float(np.sum(x.asnumpy()))))


def with_a_function_of_python(x):
    return PYTHON_FUNCTION(x)[0]


PYTHON_FUNCTION = PyFunc(np.negative, [ms.float32], [(3, 3)], [ms.float32], [(3, 3)])


class Block(nn.Cell):
    """Attention without a mask, one cell below the outermost."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.attend = ScaledDotProductAttention(heads)

    def construct(self, x: Tensor) -> Tensor:
        return self.attend(x, x, x)


class Outer(nn.Cell):
    """Something whose attributes are cells."""

    def __init__(self, block: nn.Cell) -> None:
        super().__init__()
        self.block = block

    def construct(self, *inputs: Tensor) -> Tensor:
        return self.block(*inputs)


class Norm(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.norm = ops.LayerNorm(begin_norm_axis=1, begin_params_axis=0)
        self.scale = Tensor(SQUARE)

    def construct(self, x: Tensor) -> Tensor:
        return self.norm(x, self.scale, self.scale)[0]


def always(width: int, dtype: ms.Type) -> bool:
    return True


def no_zeros(width: int, dtype: ms.Type) -> int:
    return 0


def in_another_layout(x: Tensor) -> Tensor:
    return ops.flash_attention_score(x, x, x, 2, input_layout="BSH")


def in_groups(x: Tensor) -> Tensor:
    return ops.conv2d(x, x[:, :2], groups=2)


def tokens(width: int) -> np.ndarray:
    return np.ones((1, 16, width), np.float32)


@dataclass
class Sabotage:
    """A graph that does not belong on Ascend, and what the audit must say of it.

    Attributes:
        make: makes the cell in its form for Ascend, or is a function to compile.
        finding: a regular expression: the primitive, where it is, and the problem.
        inputs, dtype: what the cell takes.
        patches: what is replaced in the package.
        fullgraph: False: with parts of Python.
    """

    make: Callable[[], Any]
    finding: str
    inputs: np.ndarray = field(default_factory=SQUARE.copy)
    dtype: ms.Type = ms.float32
    patches: dict[str, Any] = field(default_factory=dict)
    fullgraph: bool = True

    def compile(self, dtype: ms.Type) -> None:
        ms.jit(self.make(), fullgraph=self.fullgraph)(Tensor(self.inputs, dtype))


ATTENTION = "mindone_vq.nn.attention.ScaledDotProductAttention"
FUSED = r"FlashAttentionScore \(mindone_vq/nn/attention.py:\d+ in attend, cell block.attend\)"
HERE = r"\(tests/test_audit_ascend.py:\d+ in"
SABOTAGES = {
    "a cast to float64": Sabotage(
        lambda: Applied(in_float64), rf"Cast {HERE} in_float64, the outermost cell\) has a float64 tensor"
    ),
    "a constant of float64": Sabotage(
        lambda: Applied(with_a_wide_constant), rf"Add {HERE} with_a_wide_constant, .*\) has a float64 tensor"
    ),
    "a primitive that Ascend does not have": Sabotage(
        lambda: Outer(Applied(ops.lgamma)), rf"Lgamma {HERE} construct, cell block\) is not known .*for GPU, CPU only"
    ),
    "PyExecute": Sabotage(
        lambda: Applied(with_python), rf"PyExecute {HERE} with_python, .*\) calls Python", fullgraph=False
    ),
    "PyFunc": Sabotage(
        lambda: Applied(with_a_function_of_python), rf"PyFunc {HERE} with_a_function_of_python, .*\) calls Python"
    ),
    "a shape that depends on values": Sabotage(
        lambda: Outer(Applied(ops.nonzero)), rf"NonZero {HERE} construct, cell block\) has .* shape is unknown"
    ),
    "fused attention in float32": Sabotage(
        lambda: Outer(Block(2)),
        FUSED + ": a type is float32; documented: float16, bfloat16",
        inputs=tokens(32),
        patches={f"{ATTENTION}.is_fused": always},
    ),
    "heads without padding": Sabotage(
        lambda: Outer(Block(2)),
        FUSED + ": the size of heads is 12; documented: 16 to 512, a multiple of 16",
        inputs=tokens(24),
        dtype=ms.float16,
        patches={f"{ATTENTION}.missing": no_zeros},
    ),
    "heads that are too large": Sabotage(
        lambda: Outer(Block(1)),
        FUSED + ": the size of heads is 528",
        inputs=tokens(528),
        dtype=ms.bfloat16,
        patches={"mindone_vq.nn.attention.FUSED_LARGEST": 1024},
    ),
    "fused attention in another layout": Sabotage(
        lambda: Applied(in_another_layout),
        rf"FlashAttentionScore {HERE} in_another_layout, .*: the layout is 0; documented: 3",
        inputs=tokens(32),
        dtype=ms.float16,
    ),
    "sorting along the first axis": Sabotage(
        lambda: Applied(ops.Sort(axis=0)), rf"Sort {HERE} construct, .*\): the axis, from the end, is -2"
    ),
    "a norm of other axes than its parameters": Sabotage(
        lambda: Outer(Norm()), rf"LayerNorm {HERE} construct, cell block\): begin_norm_axis - begin_params_axis is 1"
    ),
    "pooling in bfloat16": Sabotage(
        lambda: Outer(Applied(ops.MaxPool(2, 2))),
        rf"MaxPool {HERE} construct, cell block\): a type is bfloat16; documented: float16, float32",
        inputs=PICTURES,
        dtype=ms.bfloat16,
    ),
    "convolution in groups": Sabotage(
        lambda: Applied(in_groups),
        r"Conv2D \(.*\): the number of groups is I64\(2\); documented: I64\(1\) \(MindSpore: Conv2D\)",
        inputs=PICTURES,
    ),
}


@pytest.mark.parametrize("sabotage", SABOTAGES.values(), ids=SABOTAGES)
def test_what_does_not_belong_on_ascend_is_found_where_it_is(sabotage):
    with ExitStack() as patches:
        for name, value in sabotage.patches.items():
            patches.enter_context(mock.patch(name, value))
        _, wrong = audit({"a graph": (sabotage.compile, [sabotage.dtype])})
    assert any(re.match(f"a graph, b?float(16|32): {sabotage.finding}", each) for each in wrong), wrong


@pytest.mark.parametrize("width, dtype", [(24, ms.float16), (24, ms.float32), (528, ms.bfloat16), (32, ms.bfloat16)])
def test_attention_as_shipped_passes(width, dtype):
    compiled = Sabotage(lambda: Outer(Block(1 if width > 32 else 2)), "", inputs=tokens(width)).compile
    rows, wrong = audit({"attention": (compiled, [dtype])})
    assert wrong == []
    assert ("FlashAttentionScore" in rows) == (dtype != ms.float32 and width < 528)


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
      # Fullname with scope: (Gradients/recompute_Default/d-CellList/0-Dense/Grad_Cast/Cast-op0)
      # Corresponding forward node candidate:
      # In file REPOSITORY/mindone_vq/a.py:7~9, 4~18/    def construct(/
      # In file REPOSITORY/mindone_vq/a.py:8, 19~28/        return x.astype(ms.float32)/
      # In file MINDSPORE/ops/function.py:3, 1~4/    return cast_op(x)/
  %1(CNode_2) = %4[@FuncUnion(@2_branch, @3_other)](%0)
      : (<Tensor[Float32], (2, 3)>) -> (<Tuple[Tensor[Float32],Tensor[Int32]], TupleShape((2, 3), (2, 3))>)
  Return(%1)
      : (<Tensor[Float32], (2, 3)>)
}"""
    repository, mindspore = Path(__file__).parents[1], Path(ms.__file__).parent
    cast, call, end = parse(text.replace("REPOSITORY", str(repository)).replace("MINDSPORE", str(mindspore)))
    assert (cast.primitive, cast.place, cast.is_dynamic) == ("Cast", "mindone_vq/a.py:8 in construct, cell d.0", True)
    assert (cast.argument(-1), cast.attribute("checkpoint"), end.place) == ("I64(43)", "", "the outermost cell")
    assert cast.dtypes == (("Float16",), ("Float32",))
    assert (call.primitive, call.dtypes, call.is_dynamic) == ("call", (("Float32",), ("Float32", "Int32")), False)
    assert end.primitive == "Return"
    with pytest.raises(ValueError, match="unknown form"):
        parse("  %0 := Exp %1")
    assert problems([Node("Exp", "<Tensor[Float32], (-2)>", "<Tensor[Float32], (4)>, <Int64, NoShape, value=-1>")])


def test_arguments_and_attributes_are_read():
    (node,) = parse('  %1(y) = Sort(%0, (I64(0), I64(-1)), None) primitive_attrs: {y: [a, b], axis: I64(-1), s: "N"}')
    assert [node.argument(i) for i in range(3)] == ["%0", "(I64(0), I64(-1))", "None"]
    assert (node.attribute("axis"), node.attribute("s"), node.attribute("xis")) == ("I64(-1)", '"N"', "")


def test_the_libraries_are_read():
    assert all(map(has_kernel_class, ("Softmax", "MatMul", "GroupNorm", "BatchMatMul", "GatherDGradV2", "ArgMaxExt")))
    assert {"conv2d", "layernormgrad", "matmulv2"} <= set(adapters())
    assert "Sort" in described() and "AdamWeightDecay" in rewritten()
    assert not has_kernel_class("NoSuchPrimitive")
    for names in (adapters(), described(), rewritten()):
        assert not {"NoSuchPrimitive", "nosuchprimitive"} & set(names)


@pytest.mark.parametrize(
    "primitive, kernel, evidence",
    [
        ("Softmax", "aclnn", "documented, dispatched, class, adapter"),
        ("Cast", "aclnn", "documented, dispatched, class, adapter, AiCPU"),
        # "ArgMaxAscend" is the class of ArgMaxExt: names match in the same case
        ("Argmax", "aclop (ArgMaxV2)", "documented, adapter, AiCPU"),
        ("Argmin", "aclop (ArgMin)", "documented, adapter, AiCPU"),
        ("ArgMaxExt", "aclnn", "dispatched, class"),
        # there is a class, but the operator's yaml does not enable it
        ("RealDiv", "aclop (RealDiv)", "documented, class, adapter, AiCPU"),
        ("Stack", "aclop (Pack)", "documented, adapter, AiCPU"),
        ("LayerNormGrad", "aclop (LayerNormGrad)", "adapter"),
        ("FillV2", "AiCPU", "documented, AiCPU"),
        ("AdamWeightDecay", "rewritten", "documented, pass"),
        ("ZerosLikeExt", "none found", "documented, dispatched"),
        ("NoSuchPrimitive", "none found", "none"),
    ],
)
def test_which_kernel_is_selected_and_how_that_is_known(primitive, kernel, evidence):
    assert (support(primitive).kernel, support(primitive).evidence) == (kernel, evidence)


def test_documentation_outweighs_what_is_registered():
    assert support("Softmax").documented == ("Ascend", "GPU", "CPU")
    assert support("Cholesky").is_described and not support("Cholesky").supported
    assert not Support().supported and Support(dispatched=True, has_class=True).supported


def test_every_kernel_of_the_table_has_a_constraint_and_every_constraint_a_kernel():
    """As the page has them: continuous integration writes the table again."""
    lines = PAGE.read_text(encoding="utf-8").split(BEGIN)[1].split(END)[0].split("|---|\n")[1].splitlines()
    primitives = {line.split("|")[1].strip() for line in lines if line.startswith("|")}
    without = {"GatherDGradV2", "ZerosLikeExt"}  # from gradients, and not documented
    assert primitives - set(INTERNAL) - {each.primitive for each in CONSTRAINTS} == without
    assert {each.primitive for each in CONSTRAINTS} <= primitives


def test_bfloat16_is_audited_where_a_cpu_cannot_run_it():
    """The context, whose output the step takes, and the step."""
    rows, wrong = audit({"a step": (GRAPHS["denoising step and conditioning, guided"][0], [ms.bfloat16])})
    assert wrong == []
    assert rows["FlashAttentionScore"].inputs == {"BFloat16"} and rows["CumSum"].inputs == {"Float32"}
    assert "Float16" not in {dtype for row in rows.values() for dtype in (*row.inputs, *row.outputs)}


def test_an_error_in_bfloat16_is_not_swallowed():
    def broken(*_):
        raise TypeError("no such context")

    step = GRAPHS["denoising step and conditioning, guided"][0]
    with mock.patch.object(BasicTransformerBlock, "context", broken), pytest.raises(Exception, match="no such context"):
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
