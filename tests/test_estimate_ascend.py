"""What tools/estimate_ascend.py counts of a node."""

import numpy as np
import pytest
from ascend_ir import Node
from estimate_ascend import FUSED, fused, moved, node, operations, tensors, totals, written_out

HALF, PARAMETER = "<Tensor[Float16], (2, 3, 4)>", "<Ref[Tensor[Float32]], (4, 5), ref_key=w, is_parameter>"


def test_tensors_of_inputs_and_outputs():
    assert tensors(f"{HALF}, <Int64, NoShape>") == [("Float16", (2, 3, 4))]
    assert tensors(PARAMETER) == [("Float32", (4, 5))]
    assert tensors("<Tensor[Float32], (), value=...>") == [("Float32", ())]
    norm = (
        "<Tuple[Tensor[Float32]*2,Tensor[Int32]], TupleShape((2, 4), (2), ()), elements_use_flags={[const vector]{1}}>"
    )
    assert tensors(norm) == [("Float32", (2, 4)), ("Float32", (2,)), ("Int32", ())]


@pytest.mark.parametrize(
    "primitive, left, right, output, expected",
    [
        ("MatMul", "(6, 4)", "(4, 5)", "(6, 5)", 2 * 6 * 4 * 5),
        ("BatchMatMul", "(7, 6, 4)", "(7, 4, 5)", "(7, 6, 5)", 2 * 7 * 6 * 4 * 5),
        ("Add", "(6, 5)", "(6, 5)", "(6, 5)", 0),
    ],
)
def test_operations_of_a_matrix_product(primitive, left, right, output, expected):
    node = Node(primitive, f"<Tensor[Float16], {left}>, <Tensor[Float16], {right}>", f"<Tensor[Float16], {output}>")
    assert operations(node) == expected


def test_bytes_read_and_written():
    assert moved(Node("Cast", HALF, "<Tensor[Float32], (2, 3, 4)>")) == 24 * 2 + 24 * 4
    assert moved(Node("Reshape", HALF, "<Tensor[Float16], (6, 4)>")) == 0
    assert moved(Node("TupleGetItem", HALF, HALF)) == 0


@pytest.mark.parametrize("keys", [1024, 77])
def test_attention_counts_the_same_products_in_both_forms(keys):
    query, key = ("Float16", (2, 1024, 1408)), ("Float16", (2, keys, 1408))
    others = [node("Mul", [query], [query])]
    one_kernel = [*others, node(FUSED, [query, key, key], [query])]
    several = written_out(one_kernel)
    assert [each.primitive for each in several] == ["Mul", "BatchMatMul", "Cast", "Softmax", "Cast", "BatchMatMul"]
    operations_of_both, bytes_of_both, kernels = zip(totals(one_kernel), totals(several))
    assert operations_of_both == (4 * 2 * 1024 * keys * 1408,) * 2
    scores = 2 * 16 * 1024 * keys
    assert bytes_of_both[1] - bytes_of_both[0] == scores * (2 + 2 + 4 + 4 + 4 + 4 + 2 + 2)
    assert kernels == (2, 6)
    assert written_out(several) == several and fused(one_kernel) == one_kernel
    assert np.array_equal(totals(fused(several)), totals(one_kernel))
