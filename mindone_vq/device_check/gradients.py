"""The gradients of training, and the optimizer: tables of cases."""

from functools import partial

import numpy as np
from mindspore import ops
from mindspore.ops.auto_generate import gen_ops_prim
from scipy import special

from mindone_vq.device_check import operations, references
from mindone_vq.device_check.comparison import FLOAT16, Case, integers, normal, positive
from mindone_vq.device_check.sizes import Sizes


def gradients(s: Sizes) -> list[Case]:
    """By the inputs and the weights of one picture."""
    x, classes, above = normal(s.pixels, s.width), normal(s.pixels, s.classes), positive(s.pixels, s.width)
    maps, kernel = normal(1, s.deep_channels, s.grid, s.grid), normal(s.channels, s.deep_channels, 3, 3)
    tokens, g = normal(1, s.pixels, s.width), gen_ops_prim
    affine, channels = (normal(s.width), normal(s.width)), (normal(s.deep_channels), normal(s.deep_channels))
    convolution, padded = partial(references.convolution, 1, (1, 1)), dict(pad_mode="pad", pad=1)
    half = ops.Conv2D(s.channels, 3, pad_mode="pad", pad=(0, 1, 0, 1), stride=2)
    picked = integers(s.classes, s.pixels, 1)
    of = dict(types=("float32",), gradient=True)
    return [
        Case("BiasAddGrad", ops.BiasAdd(), np.add, (x, normal(s.width)), **of),
        Case("Conv2DBackpropInput", ops.Conv2D(s.channels, 3, **padded), convolution, (maps, kernel), **of),
        Case("Conv2DBackpropFilter", half, partial(references.convolution, 2, (0, 1)), (maps, kernel), **of),
        Case("GatherDGradV2", operations.gathered, lambda x, i: np.take_along_axis(x, i, 1), (classes, picked), **of),
        Case("GroupNormGrad", *_group_norm(s), (maps, *channels), **of),
        Case("LayerNormGrad", operations.LayerNormalization(), references.layer_norm, (x, *affine), **of),
        Case("LogSoftmaxGrad", ops.LogSoftmax(-1), lambda x: special.log_softmax(x, -1), (classes,), **of),
        Case("MaxPoolGrad", ops.MaxPool(2, 2), references.max_pool, (maps,), **of),
        Case("ReluGrad", ops.ReLU(), lambda x: x.clip(0), (x,), **of),
        Case("RsqrtGrad", ops.Rsqrt(), lambda x: x**-0.5, (above,), **of),
        Case("SiLUGrad", g.SiLU(), lambda x: x * special.expit(x), (x,), **of),
        Case("SigmoidGrad", ops.Sigmoid(), special.expit, (x,), **of),
        Case("SoftmaxBackward", ops.Softmax(-1), lambda x: special.softmax(x, -1), (classes,), **of),
        Case("StridedSliceGrad", operations.without_last, lambda x: x[..., :-1], (x,), **of),
        Case(
            *("FlashAttentionScoreGrad", operations.attention(s.heads, True), partial(references.attention, s.heads)),
            (tokens, tokens, tokens),
            types=FLOAT16,
            gradient=True,
            only_on="Ascend",
        ),
        Case(
            *("AdamWeightDecay", operations.AdamStep((s.width, s.width)), references.adam),
            (normal(s.width, s.width), normal(s.width, s.width), positive(s.width, s.width), normal(s.width, s.width)),
            types=("float32",),
        ),
    ]


def _group_norm(s: Sizes) -> tuple:
    return operations.GroupNormalization(s.groups), partial(references.group_norm, s.groups)
