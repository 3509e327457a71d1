"""Every primitive of the audited graphs (docs/ascend.md) at the shapes of the published model: tables of cases."""

from functools import partial

import mindspore as ms
import numpy as np
from mindspore import ops
from mindspore.ops.auto_generate import gen_ops_prim
from scipy import special

from mindone_vq.device_check import operations, references
from mindone_vq.device_check.comparison import (
    EXACT,
    FLOAT16,
    FLOAT32,
    SUMMED,
    Case,
    Input,
    booleans,
    integers,
    normal,
    positive,
    whole,
)
from mindone_vq.device_check.sizes import Sizes


def elementwise(s: Sizes) -> list[Case]:
    """Of the hidden states."""
    x, above, wide, few, mask = (each(*s.hidden) for each in (normal, positive, _wide, whole, booleans))
    below, g, only, exact = positive(*s.hidden, scale=-0.45), gen_ops_prim, dict(types=FLOAT32), dict(limits=EXACT)
    return [
        Case("Abs", ops.Abs(), np.abs, (x,)),
        Case("Exp", ops.Exp(), np.exp, (x,)),
        Case("Log", ops.Log(), np.log, (above,)),
        Case("Neg", ops.Neg(), np.negative, (x,)),
        Case("ReLU", ops.ReLU(), partial(np.maximum, 0), (x,)),
        Case("Rsqrt", ops.Rsqrt(), lambda x: x**-0.5, (above,)),
        Case("Sigmoid", ops.Sigmoid(), special.expit, (wide,)),
        Case("SiLU", g.SiLU(), lambda x: x * special.expit(x), (wide,)),
        Case("Sqrt", ops.Sqrt(), np.sqrt, (above,)),
        Case("Square", ops.Square(), np.square, (x,)),
        Case("Add", ops.Add(), np.add, (x, x)),
        Case("AddN", operations.three_added, lambda x, y: x + y + x, (x, x), limits=SUMMED),
        Case("Sub", ops.Sub(), np.subtract, (x, x)),
        Case("Mul", ops.Mul(), np.multiply, (x, x)),
        Case("Div", ops.Div(), np.divide, (x, above)),
        Case("RealDiv", ops.RealDiv(), np.divide, (x, above)),
        Case("Maximum", ops.Maximum(), np.maximum, (x, x)),
        Case("Minimum", ops.Minimum(), np.minimum, (x, x)),
        Case("BiasAdd", ops.BiasAdd(), np.add, (normal(s.rows, s.width), normal(s.width))),
        Case("Pow", ops.Pow(), np.power, (above, above), **only),
        # these two carry the posterior of training
        Case("Expm1", ops.Expm1(), np.expm1, (below,), **only),
        Case("Log1p", ops.Log1p(), np.log1p, (below,), **only),
        Case("Muls", g.Muls(), lambda x: x * 0.3, (x,), (0.3,), **only),
        Case("AddScalar", g.AddScalar(), lambda x: x + 1.5, (x,), (1.5,), **only),
        Case("PowTensorScalar", g.PowTensorScalar(), np.square, (x,), (2.0,), **only),
        Case("ClampScalar", g.ClampScalar(), lambda x: x.clip(0, 1), (x,), (0.0, 1.0), **only),
        Case("Floor", ops.Floor(), np.floor, (wide,), **only, **exact),
        Case("Sign", ops.Sign(), np.sign, (few,), **only, **exact),
        Case("IsFinite", ops.IsFinite(), np.isfinite, (_not_all_finite(*s.hidden),), **only, **exact),
        Case("Equal", ops.Equal(), np.equal, (few, few), **only, **exact),
        Case("Greater", ops.Greater(), np.greater, (few, few), **only, **exact),
        Case("GreaterEqual", ops.GreaterEqual(), np.greater_equal, (few, few), **only, **exact),
        Case("Less", ops.Less(), np.less, (few, few), **only, **exact),
        Case("LessEqual", ops.LessEqual(), np.less_equal, (few, few), **only, **exact),
        Case("LogicalAnd", ops.LogicalAnd(), np.logical_and, (mask, mask), **only, **exact),
        Case("LogicalOr", ops.LogicalOr(), np.logical_or, (mask, mask), **only, **exact),
        Case("LogicalNot", ops.LogicalNot(), np.logical_not, (mask,), **only, **exact),
        Case("Select", ops.Select(), np.where, (mask, x, x), **only, **exact),
    ]


def layouts(s: Sizes) -> list[Case]:
    """What moves numbers and must change none."""
    x, column, heads = normal(*s.hidden), normal(s.rows, 1), normal(s.batch, s.pixels, s.heads, s.head_dim)
    table, codes, third = normal(s.classes + 1, s.width), integers(s.classes + 1, s.batch, s.pixels), s.width // 3
    maps, only, exact = normal(1, s.deep_channels, s.grid, s.grid), dict(types=FLOAT32), dict(limits=EXACT)
    g = gen_ops_prim
    return [
        Case("Cast", ops.Cast(), lambda x: x, (codes,), (ms.float32,), **only, **exact),
        Case("Cast", ops.Cast(), lambda x: x, (x,), (ms.float32,), FLOAT16, EXACT, note="to float32"),
        Case("ExpandDims", ops.ExpandDims(), lambda x: x[:, None], (x,), (1,), **exact),
        Case("Reshape", ops.Reshape(), lambda x: x.reshape(-1, s.width), (x,), ((-1, s.width),), **exact),
        Case("Squeeze", ops.Squeeze(-1), lambda x: x[:, 0], (column,), **exact),
        Case("Transpose", ops.Transpose(), lambda x: x.transpose(0, 2, 1, 3), (heads,), ((0, 2, 1, 3),), **exact),
        Case("StridedSlice", operations.without_last, lambda x: x[..., :-1], (heads,), **exact),
        Case("Concat", operations.joined, lambda x, y: np.concatenate((x, y)), (x, x), **exact),
        Case("Stack", operations.stacked, lambda x, y: np.stack((x, y)), (x, x), **exact),
        Case("Split", ops.Split(2, 2), lambda x: np.split(x, 2, 2), (x,), **exact),
        Case(
            *("SplitWithSize", g.SplitWithSize(), lambda x: np.split(x, [third], 2), (x,)),
            constants=((third, s.width - third), 2),
            **exact,
        ),
        Case("Tile", ops.Tile(), lambda x: np.tile(x, (1, s.classes)), (column,), ((1, s.classes),), **exact),
        Case("BroadcastTo", ops.BroadcastTo((s.rows, s.width)), lambda x: x.repeat(s.width, 1), (column,), **exact),
        Case("Gather", ops.Gather(), lambda x, i: x[i], (table, codes), (0,), **exact),
        Case(
            *("GatherD", operations.gathered, lambda x, i: np.take_along_axis(x, i, 1)),
            (normal(s.rows, s.classes), integers(s.classes, s.rows, 1)),
            **only,
            **exact,
        ),
        Case(
            *("ResizeNearestNeighborV2", operations.doubled, lambda x: x.repeat(2, 2).repeat(2, 3), (maps,)),
            **only,
            **exact,
        ),
        Case("Assign", operations.Assigned(s.hidden), lambda x: 3 * x, (x,), **only),
        Case("AssignAdd", operations.AssignedSum(s.hidden), lambda x: x + 1, (x,), **only),
        # the mask is one class more than there are, and its row must be all off
        Case(
            "OneHot",
            operations.one_hot,
            partial(references.one_hot, s.classes),
            (codes,),
            (s.classes,),
            **only,
            **exact,
        ),
    ]


def reductions(s: Sizes) -> list[Case]:
    """Over hidden states, classes and pixels."""
    x, classes, only = normal(*s.hidden), normal(s.rows, s.classes), dict(types=FLOAT32)
    segments, g = integers(s.classes, s.rows), gen_ops_prim
    return [
        Case("ReduceMean", ops.ReduceMean(), lambda x: x.mean(-1), (x,), (-1,), **only),
        Case("SumExt", g.SumExt(), lambda x: x.sum(-1), (x,), (-1,), limits=SUMMED),
        # the norm of gradients, to which they are clipped; a CPU adds the squares one after the other
        Case("L2Loss", ops.L2Loss(), lambda x: (x**2).sum() / 2, (x,), **only, limits={"float32": 1e-2}),
        Case("ArgMaxWithValue", ops.ArgMaxWithValue(-1), _largest, (classes,), **only),
        Case("Argmax", ops.Argmax(-1, ms.int64), lambda x: x.argmax(-1), (classes,), **only, limits=EXACT),
        Case("Argmin", ops.Argmin(-1), lambda x: x.argmin(-1), (classes,), **only, limits=EXACT),
        Case("CumSum", ops.CumSum(), lambda x: x.cumsum(-1), (positive(s.rows, s.classes),), (-1,), **only),
        Case("Softmax", ops.Softmax(-1), lambda x: special.softmax(x, -1), (classes,), **only),
        Case("LogSoftmax", ops.LogSoftmax(-1), lambda x: special.log_softmax(x, -1), (classes,), **only),
        Case(
            *("UnsortedSegmentSum", ops.UnsortedSegmentSum(), partial(references.segment_sums, s.classes)),
            (normal(s.rows, s.width), segments),
            (s.classes,),
            **only,
        ),
        # samplers sort scores, and put pixels that have their codes behind all others by -1e30
        Case(
            "Sort", operations.sorted_down, references.sorted_down, (_scores(s.batch, s.pixels),), **only, limits=EXACT
        ),
    ]


def products(s: Sizes) -> list[Case]:
    """Matrix products and attention."""
    x, weight, g = normal(*s.hidden), normal(s.width, s.width), gen_ops_prim
    query = normal(s.batch, s.heads, s.pixels, s.head_dim)
    key, attention = normal(s.batch, s.heads, s.tokens, s.head_dim), partial(references.attention, s.heads)
    fused, written = (operations.attention(s.heads, each) for each in (True, False))
    return [
        Case("MatMul", ops.MatMul(), np.matmul, (normal(s.rows, s.width), weight)),
        Case("BatchMatMul", ops.BatchMatMul(False, True), lambda x, y: x @ y.swapaxes(-1, -2), (query, key)),
        Case("Dense", g.Dense(), references.dense, (x, weight, normal(s.width))),
        Case("BatchMatMul", written, attention, (x, x, x), limits=SUMMED, note="decomposed attention"),
        Case(
            *("FlashAttentionScore", fused, attention, (x, x, x)),
            types=FLOAT16,
            limits=SUMMED,
            note=f"heads of {s.head_dim}",
            only_on="Ascend",
        ),
    ]


def convolutions(s: Sizes) -> list[Case]:
    """The largest of the VQ-VAE."""
    wide, deep = normal(1, s.channels, s.picture, s.picture), normal(1, s.deep_channels, s.grid, s.grid)
    small, kernel = (normal(c, c, 3, 3) for c in (s.channels, s.deep_channels))
    same, types = partial(references.convolution, 1, (1, 1)), dict(types=("float32", "float16"))
    padded = dict(pad_mode="pad", pad=1)
    half = ops.Conv2D(s.channels, 3, pad_mode="pad", pad=(0, 1, 0, 1), stride=2)
    one = partial(references.convolution, 1, (0, 0))
    return [
        Case("Conv2D", ops.Conv2D(s.channels, 3, **padded), same, (wide, small), note="3x3 of pictures", **types),
        Case("Conv2D", ops.Conv2D(s.deep_channels, 3, **padded), same, (deep, kernel), note="3x3 of codes", **types),
        Case("Conv2D", half, partial(references.convolution, 2, (0, 1)), (wide, small), note="stride 2", **types),
        Case(
            "Conv2D",
            ops.Conv2D(s.classes, 1),
            one,
            (deep, normal(s.classes, s.deep_channels, 1, 1)),
            note="1x1",
            **types,
        ),
    ]


def norms(s: Sizes) -> list[Case]:
    """Of values far from zero; and pooling."""
    affine, channels = (normal(s.width), normal(s.width)), (normal(s.deep_channels), normal(s.deep_channels))
    x, maps = normal(*s.hidden, mean=3.0), normal(1, s.deep_channels, s.grid, s.grid, mean=3.0)
    group, only = partial(references.group_norm, s.groups), dict(types=FLOAT32)
    return [
        Case("LayerNorm", operations.LayerNormalization(), references.layer_norm, (x, *affine), **only),
        Case("GroupNorm", operations.GroupNormalization(s.groups), group, (maps, *channels), **only),
        Case("MaxPool", ops.MaxPool(2, 2), references.max_pool, (maps,), **only, limits=EXACT),
    ]


def _wide(*shape: int) -> Input:
    return normal(*shape, spread=8.0)


def _not_all_finite(*shape: int) -> Input:
    return lambda rng: rng.choice([1.0, -np.inf, np.inf, np.nan], shape)


def _scores(*shape: int) -> Input:
    """Distinct in float32, half of them moved far down."""
    return lambda rng: np.where(
        rng.random(shape) < 0.5, -1e30, rng.permuted(np.arange(np.prod(shape))).reshape(shape) / 64
    )


def _largest(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return x.argmax(-1), x.max(-1)
