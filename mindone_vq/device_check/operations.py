"""The small functions and cells of MindSpore around the primitives that take more than tensors."""

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindone_vq.nn.attention import ScaledDotProductAttention


def three_added(x, y):
    return ops.addn([x, y, x])


def without_last(x):
    return x[..., :-1]


def joined(x, y):
    return ops.concat([x, y], 0)


def stacked(x, y):
    return ops.stack([x, y])


def gathered(x, index):
    return ops.gather_elements(x, 1, index)


def one_hot(index, depth):
    return ops.one_hot(index, depth, Tensor(1.0, ms.float32), Tensor(0.0, ms.float32))


def doubled(x):
    """Height and width."""
    return ops.interpolate(x, size=(2 * x.shape[2], 2 * x.shape[3]), mode="nearest")


def sorted_down(x):
    """The sorted values, and the values in the order of the indices."""
    values, order = ops.sort(x, -1, True)
    return values, ops.gather_elements(x, 1, order)


class Assigned(nn.Cell):
    """A parameter takes the values of an input."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.parameter = Parameter(Tensor(np.zeros(shape, np.float32)), name="parameter")

    def construct(self, x):
        ops.assign(self.parameter, x)
        return self.parameter * 3.0


class AssignedSum(Assigned):
    """An input is added to a parameter."""

    def construct(self, x):
        ops.assign_add(self.parameter, x)
        return self.parameter + 1.0


class AdamStep(nn.Cell):
    """The fused optimizer."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        zeros = np.zeros(shape, np.float32)
        self.weight, self.first, self.second = [Parameter(Tensor(zeros), name=each) for each in ("w", "m", "v")]
        self.adam = ops.AdamWeightDecay()

    def construct(self, x, first, second, gradient):
        ops.assign(self.weight, x)
        ops.assign(self.first, first)
        ops.assign(self.second, second)
        settings = Tensor(1e-2, ms.float32), Tensor(0.9, ms.float32), Tensor(0.96, ms.float32), 1e-8, 4.5e-2
        self.adam(self.weight, self.first, self.second, *settings, gradient)
        return self.weight * 1.0


class LayerNormalization(nn.Cell):
    def __init__(self) -> None:
        super().__init__()
        self.norm = ops.LayerNorm(-1, -1, 1e-5)

    def construct(self, x, gamma, beta):
        return self.norm(x, gamma, beta)[0]


class GroupNormalization(nn.Cell):
    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups

    def construct(self, x, gamma, beta):
        return ops.group_norm(x, self.groups, gamma, beta, 1e-6)


def attention(heads: int, is_fused: bool) -> ScaledDotProductAttention:
    """As one kernel, or decomposed, whatever the device has."""
    cell = ScaledDotProductAttention(heads)
    cell.has_fused_kernel = is_fused
    return cell
