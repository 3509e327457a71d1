"""Every audited primitive is compared, and a wrong one is found."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from ir import INTERNAL, compiled_graphs
from mindspore import Tensor, ops

from mindone_vq.device_check import comparison, primitives
from mindone_vq.device_check.comparison import Case, normal, rounded
from mindone_vq.device_check.primitives import TABLES
from mindone_vq.device_check.sizes import Sizes
from mindone_vq.findings import run_check
from mindone_vq.nn.device import built_for
from mindone_vq.weights.pretrained import FLOAT_TYPES

SMALL = Sizes(
    batch=2,
    pixels=16,
    heads=2,
    head_dim=12,
    classes=24,
    tokens=5,
    channels=8,
    picture=8,
    deep_channels=16,
    grid=4,
    groups=4,
)
PAGE = Path(__file__).parents[2] / "docs/ascend.md"


def cases(device="Ascend"):
    with built_for(device):
        return [case for table in TABLES for case in table(SMALL)]


def audited():
    """The primitives of the page's table that are kernels."""
    rows = re.findall(
        r"^\| (\w+) \|.*$", PAGE.read_text(encoding="utf-8").split("<!-- audit: begin -->")[1], re.MULTILINE
    )
    return {row for row in rows if row != "primitive" and row not in INTERNAL}


def test_every_audited_primitive_has_a_case_and_no_other():
    assert len(audited()) > 80
    assert audited() == {case.primitive for case in cases()}


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_the_graph_of_a_case_has_its_primitive(case):
    found = {node.primitive for graph in compiled_graphs(lambda: list(case.findings(case.types[0]))) for node in graph}
    assert case.primitive in found


@pytest.mark.slow
def test_everything_is_right_on_a_cpu():
    findings = [finding for check, _ in primitives.checks("CPU", SMALL).values() for finding in check()]
    assert len(findings) > 120
    assert [finding for finding in findings if finding.advice] == []


def drifted(x):
    return ops.softmax(x, -1) * 1.0001


SOFTMAX = next(case for case in cases() if case.primitive == "Softmax")
ONE_HOT = next(case for case in cases() if case.primitive == "OneHot")
SORT = next(case for case in cases() if case.primitive == "Sort")
CUMSUM = next(case for case in cases() if case.primitive == "CumSum")
SILU_GRAD = next(case for case in cases() if case.primitive == "SiLUGrad")


def wrapped(index, depth):
    """As a kernel that takes an index that is out of range for another."""
    return ops.one_hot(index % depth, depth, Tensor(1.0, ms.float32), Tensor(0.0, ms.float32))


def unsorted_order(x):
    values, order = ops.sort(x, -1, True)
    return values, ops.gather_elements(x, 1, ops.flip(order, (1,)))


def in_float16(x, axis):
    return ops.cumsum(x.astype(ms.float16), axis).astype(ms.float32)


def with_nan(x):
    return ops.softmax(x, -1) / (x - x)


FAULTS = {
    "wrong primitive": replace(SOFTMAX, function=ops.LogSoftmax(-1)),
    "drifted number": replace(SOFTMAX, function=drifted),
    "not a number": replace(SOFTMAX, function=with_nan),
    "one-hot of the mask": replace(ONE_HOT, function=wrapped),
    "order of a sort": replace(SORT, function=unsorted_order),
    "lower precision": replace(CUMSUM, function=in_float16),
    "wrong gradient": replace(SILU_GRAD, function=ops.Sigmoid()),
    "other shape": replace(SOFTMAX, function=ops.Transpose(), constants=((1, 0),)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found(fault):
    case = FAULTS[fault]
    (finding,) = run_check(case.name, partial(case.findings, "float32"), comparison.ADVICE)
    assert finding.status == "WRONG"


def test_a_code_of_probability_zero_is_found(monkeypatch):
    assert [finding.status for finding in primitives.no_impossible_code(SMALL)] == ["ok", "ok"]
    monkeypatch.setattr(primitives, "draw", one_further)
    assert [finding.status for finding in primitives.no_impossible_code(SMALL)] == ["ok", "WRONG"]


def one_further(p, rest, uniforms):
    """A draw that counts one class too many."""
    return (ops.cumsum(p, -1) <= uniforms.expand_dims(-1)).astype(ms.int32).sum(-1) + 1


@pytest.mark.parametrize("dtype, bits", [("float32", 24), ("float16", 11), ("bfloat16", 8)])
def test_inputs_are_rounded_as_mindspore_rounds_them(dtype, bits):
    x = np.random.default_rng(0).normal(size=1000)
    ours = rounded(x, dtype)
    theirs = Tensor(x.astype(np.float32), FLOAT_TYPES[dtype]).astype(ms.float32).asnumpy()
    np.testing.assert_array_equal(ours, theirs)
    assert 2.0 ** -(bits + 2) < np.abs(ours / x - 1).max() <= 2.0**-bits


def test_gradients_are_compared_by_every_input():
    """One wrong input of two is found."""

    def reference(x, y):
        return x * y + 0.1 * y

    wrong = Case("Mul", ops.Mul(), reference, (normal(4, 5), normal(4, 5)), types=("float32",), gradient=True)
    right = replace(wrong, reference=np.multiply)
    assert [next(case.findings("float32")).status for case in (wrong, right)] == ["WRONG", "ok"]
