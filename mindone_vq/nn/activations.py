"""Activation functions, under the names that configs use."""

from typing import Callable

from mindspore import Tensor, nn, ops

Activation = Callable[[Tensor], Tensor]
QUICK_GELU = 1.702


def gelu(x: Tensor) -> Tensor:
    """The Gaussian error linear unit (arXiv 1606.08415)."""
    return ops.gelu(x, approximate="none")


def tanh_gelu(x: Tensor) -> Tensor:
    """GELU, approximated by tanh."""
    return ops.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    """GELU, approximated by a sigmoid: ``x * sigmoid(1.702 x)`` (arXiv 1606.08415, section 2)."""
    return x * ops.sigmoid(QUICK_GELU * x)


def swish(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``, as two kernels: that which is one takes longer on a CPU."""
    return x * ops.sigmoid(x)


def geglu(x: Tensor) -> Tensor:
    """One half of the last axis gates the other by GELU (arXiv 2002.05202)."""
    x, gate = ops.chunk(x, 2, axis=-1)
    return x * gelu(gate)


# "geglu-approximate" has no gate, in spite of its name.
FEED_FORWARD = {"geglu": geglu, "geglu-approximate": quick_gelu, "gelu": gelu, "gelu-approximate": tanh_gelu}
CLIP = {"quick_gelu": quick_gelu, "gelu": gelu}
RESNET = {"silu": nn.SiLU, "swish": nn.SiLU, "mish": nn.Mish, "gelu": lambda: nn.GELU(False), "relu": nn.ReLU}


def get_activation(known: dict[str, Activation], name: str, argument: str) -> Activation:
    """The entry of one of the tables above.

    Raises:
        ValueError: the table has no such name; ``argument`` is the setting that names it.
    """
    if name not in known:
        raise ValueError(f"{argument} is {name!r}; it must be one of {sorted(known)}.")
    return known[name]
