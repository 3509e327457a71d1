"""Linear layers whose weights are an argument, so that one compiled block serves every layer of a network."""

from typing import Any

from mindspore import Tensor, nn, ops

# Tensors by name, nested as the cells are: weights["attn1"]["to_q"]["weight"].
Weights = dict[str, Any]


def layer_weights(layer: nn.Cell) -> Weights:
    """The weights of a ``Dense`` or ``Conv2d`` layer."""
    if layer.has_bias:
        return {"weight": layer.weight, "bias": layer.bias}
    return {"weight": layer.weight}


def linear(x: Tensor, weights: Weights) -> Tensor:
    """x: (..., in); weight: (out, in); bias, if there is one: (out,) -> (..., out)."""
    rows = ops.MatMul(transpose_b=True)(x.reshape(-1, x.shape[-1]), weights["weight"])
    if "bias" in weights:
        rows = ops.BiasAdd()(rows, weights["bias"])
    return rows.reshape(*x.shape[:-1], -1)
