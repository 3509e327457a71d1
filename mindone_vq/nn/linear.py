"""Linear layers whose weights are an argument, so that one compiled block serves every layer of a network."""

from typing import Any

from mindspore import Tensor, nn, ops

from mindone_vq.nn.device import fused_linear

# Tensors by name, nested as the cells are: weights["attn1"]["to_q"]["weight"].
Weights = dict[str, Any]


def layer_weights(layer: nn.Cell) -> Weights:
    """The weights of a ``Dense`` or ``Conv2d`` layer."""
    if layer.has_bias:
        return {"weight": layer.weight, "bias": layer.bias}
    return {"weight": layer.weight}


class Linear(nn.Cell):
    """A linear layer without weights of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = fused_linear()

    def construct(self, x: Tensor, weights: Weights) -> Tensor:
        """See ``linear``."""
        if self.training and not self.fused and "bias" in weights:
            return linear(*bias_as_column(x, weights), self.fused)
        return linear(x, weights, self.fused)


def linear(x: Tensor, weights: Weights, fused: bool) -> Tensor:
    """A linear layer. Unlike a cell it can be called outside of graphs in MindSpore's graph mode too.

    Outside of graphs it must not use methods of tensors: mindnlp replaces them.

    Args:
        x: (..., in).
        weights: weight (out, in) and, if there is one, bias (out,), of any float type.
        fused: as one kernel.

    Returns:
        (..., out), the type of x.
    """
    rows, weight = ops.reshape(x, (-1, x.shape[-1])), ops.cast(weights["weight"], x.dtype)
    bias = ops.cast(weights["bias"], x.dtype) if "bias" in weights else None
    if fused:
        rows = ops.Dense()(rows, weight, bias)
    else:
        rows = ops.MatMul(transpose_b=True)(rows, weight)
        rows = rows if bias is None else ops.BiasAdd()(rows, bias)
    return ops.reshape(rows, (*x.shape[:-1], weight.shape[0]))


def bias_as_column(x: Tensor, weights: Weights) -> tuple[Tensor, Weights]:
    """The same layer with its bias as the weight of one more input, which is 1.

    The gradient of the bias is a part of the weight's then. MindSpore's own kernel for it is slow on a CPU.
    """
    ones, bias = ops.ones((*x.shape[:-1], 1), x.dtype), ops.expand_dims(weights["bias"], -1)
    return ops.concat((x, ones), -1), {"weight": ops.concat((weights["weight"], bias), -1)}


def joined(layers: tuple[Weights, ...]) -> Weights:
    """Several layers with the same input as one."""
    weights, biases = (), ()
    for layer in layers:
        weights += (layer["weight"],)
        if "bias" in layer:
            biases += (layer["bias"],)
    return {"weight": ops.concat(weights), "bias": ops.concat(biases)} if biases else {"weight": ops.concat(weights)}


def scaled(layer: Weights, factor: float) -> Weights:
    """The layer whose output is ``factor`` times that of ``layer``."""
    weight = ops.mul(layer["weight"], factor)
    return {"weight": weight, "bias": ops.mul(layer["bias"], factor)} if "bias" in layer else {"weight": weight}


def scaled_inputs(layer: Weights, factor: float) -> Weights:
    """The layer that scales its input by ``factor`` first."""
    weight = ops.mul(layer["weight"], factor)
    return {"weight": weight, "bias": layer["bias"]} if "bias" in layer else {"weight": weight}


def centred(layer: Weights) -> Weights:
    """The layer whose output is that of ``layer`` without its mean over the last axis."""
    weight = ops.sub(layer["weight"], ops.mean(layer["weight"], 0, True))
    if "bias" not in layer:
        return {"weight": weight}
    return {"weight": weight, "bias": ops.sub(layer["bias"], ops.mean(layer["bias"], 0, True))}


def padded_outputs(layer: Weights, parts: int, zeros: int) -> Weights:
    """The layer with ``zeros`` zeros after each of the ``parts`` equal parts of its output."""
    weight = ops.transpose(_padded(ops.transpose(layer["weight"], (1, 0)), parts, zeros), (1, 0))
    if "bias" not in layer:
        return {"weight": weight}
    return {"weight": weight, "bias": _padded(layer["bias"].reshape(1, -1), parts, zeros).reshape(-1)}


def padded_inputs(layer: Weights, parts: int, zeros: int) -> Weights:
    """The layer for such an output of another: it does not read the zeros."""
    weight = _padded(layer["weight"], parts, zeros)
    return {"weight": weight, "bias": layer["bias"]} if "bias" in layer else {"weight": weight}


def _padded(x: Tensor, parts: int, zeros: int) -> Tensor:
    """(rows, parts * size) -> (rows, parts * (size + zeros))."""
    rows = x.shape[0]
    return ops.pad(x.reshape(rows, parts, -1), (0, zeros)).reshape(rows, -1)
