"""What tools/ascend reads from graphs and from the installed MindSpore."""

from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from audit import problems
from ir import Node, compiled_graphs, parse
from mindspore import Tensor, ops
from support import Support, adapters, described, has_kernel_class, rewritten, support

from mindone_vq.device_check.comparison import Applied
from mindone_vq.nn.device import built_for, on_cpu
from mindone_vq.nn.normalization import GroupNorm, LayerNorm

SQUARE = np.eye(3, dtype=np.float32)


def run(operation):
    ms.jit(Applied(operation), fullgraph=True)(Tensor(SQUARE))


def primitives(run):
    return [node.primitive for graph in compiled_graphs(run) for node in graph]


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
    assert primitives(lambda: run(ops.exp)).count("Exp") == 1
    run(ops.sin)  # this graph is not saved
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
