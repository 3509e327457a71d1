"""What tools/ascend/audit.py finds in graphs that do not belong on Ascend: the primitive, the place and the problem."""

import re
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Callable
from unittest import mock

import mindspore as ms
import numpy as np
import pytest
from audit import audit
from mindspore import Tensor, nn, ops
from mindspore.ops.operations.other_ops import PyFunc

from mindone_vq.nn.attention import ScaledDotProductAttention

SQUARE = np.eye(3, dtype=np.float32)
PICTURES = np.ones((2, 4, 8, 8), np.float32)


class Applied(nn.Cell):
    """One operation as a network."""

    def __init__(self, operation):
        super().__init__()
        self.operation = operation

    def construct(self, x):
        return self.operation(x)


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
HERE = r"\(tests/test_audit_sabotages_ascend.py:\d+ in"
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
        rf"FlashAttentionScore {HERE} in_another_layout, .*: the layout is BSH; documented: BSND",
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
