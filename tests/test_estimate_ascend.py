"""The counts of tools/ascend/estimate.py."""

import numpy as np
import pytest
from estimate import PEAK_BYTES, PEAK_OPERATIONS, bounds, compiled, moved, of_all_layers, operations
from ir import Node, tensors

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
        ("Dense", "(6, 4)", "(5, 4)", "(6, 5)", 2 * 6 * 4 * 5),
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


def test_tensors_keep_the_order_of_the_inputs():
    norm = f"{HALF}, <Tuple[Tensor[Int32]*2], TupleShape((1), (2, -1))>, <Int64, NoShape>, {PARAMETER}"
    found = Node("Concat", norm).operands
    assert found == [[("Float16", (2, 3, 4))], [("Int32", (1,)), ("Int32", (2, -1))], [], [("Float32", (4, 5))]]


@pytest.mark.parametrize("keys", [1024, 77])
def test_operations_of_a_fused_attention_are_those_of_its_two_products(keys):
    query, key = "<Tensor[Float16], (2, 1024, 16, 96)>", f"<Tensor[Float16], (2, {keys}, 16, 96)>"
    node = Node("FlashAttentionScore", f"{query}, {key}, {key}", query)
    assert operations(node) == 2 * (2 * 2 * 16 * 1024 * keys * 96)
    assert moved(node) == 2 * (2 * 2 * 16 * 96 * (1024 + keys))


def test_a_step_takes_at_least_the_longest_of_three_times_and_at_most_their_sum():
    in_10_ms = {"products": 0.01 * PEAK_OPERATIONS, "bytes": 0.01 * PEAK_BYTES, "kernels": 1000}
    assert bounds(np.array([in_10_ms["products"], in_10_ms["bytes"], in_10_ms["kernels"], 7])) == (10, 10 + 10 + 20)
    assert bounds(np.array([0, 0, 1000, 0])) == (5, 20)


def small(monkeypatch):
    for name, value in dict(PIXELS=16, CLASSES=9, HEADS=2, HEAD_WIDTH=8, TEXT_WIDTH=16, TIMESTEPS=3).items():
        monkeypatch.setattr(f"estimate.{name}", value)


@pytest.mark.slow
def test_a_step_of_the_published_model_has_few_kernels(monkeypatch):
    """An NPU starts each; those without an aclnn class are compiled when first used. Sizes do not change the number."""
    small(monkeypatch)
    _, _, kernels, not_aclnn = of_all_layers(compiled(1, True).step, compiled(2, True).step)
    assert (kernels, not_aclnn) == (1218, 158)


@pytest.mark.parametrize("fused", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_attention_is_counted(fused, monkeypatch):
    small(monkeypatch)
    found = compiled(1, fused)
    step = [node.primitive for node in found.step]
    assert (step.count("FlashAttentionScore"), step.count("BatchMatMul")) == ((2, 0) if fused else (0, 4))
    assert found.parameters > 0 and "CumSum" in step
    width = 2 * (16 if fused else 8)  # the fused kernel takes heads of a multiple of 16
    queries_keys_values, feed_forward = 3 * width * (16 + 1), 64 * (16 + 1) + 16 * 64
    # of cross-attention the keys, with the scale; where heads are padded, all, and the outputs
    cross = 3 * width * (16 + 1) + 2 * 16 * width if fused else width * (16 + 1)
    stored = queries_keys_values + cross + feed_forward
    assert found.stored == 2 * stored
    assert found.modulations == 4 * 3 * 2 * 2 * 16  # float32, at three timesteps: factor and shift of two norms
    assert sum(map(operations, found.once)) == 2 * (2 * 77) * 16 * width * 2  # keys and values
