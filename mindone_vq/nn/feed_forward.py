"""The feed-forward layer and its activations, under the names that checkpoints use."""

from mindspore import Tensor, nn, ops


def gelu(x: Tensor) -> Tensor:
    """The Gaussian error linear unit (arXiv 1606.08415)."""
    return ops.gelu(x, approximate="none")


def tanh_gelu(x: Tensor) -> Tensor:
    """Its approximation by tanh."""
    return ops.gelu(x, approximate="tanh")


def sigmoid_gelu(x: Tensor) -> Tensor:
    """Its approximation by a sigmoid, ``x * sigmoid(1.702 x)`` (section 2)."""
    return x * ops.sigmoid(1.702 * x)


def geglu(x: Tensor) -> Tensor:
    """One half gates the other by GELU (arXiv 2002.05202)."""
    x, gate = ops.chunk(x, 2, axis=-1)
    return x * gelu(gate)


# By the names that configs have; "geglu-approximate" has no gate, whatever its name.
ACTIVATIONS = {"geglu": geglu, "geglu-approximate": sigmoid_gelu, "gelu": gelu, "gelu-approximate": tanh_gelu}


class ActivatedProjection(nn.Cell):
    """Linear, then an activation, which halves the width if it is a gate."""

    def __init__(self, dim: int, inner_dim: int, activation_fn: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation_fn]
        self.proj = nn.Dense(dim, 2 * inner_dim if self.activation is geglu else inner_dim)

    def construct(self, x: Tensor) -> Tensor:
        return self.activation(self.proj(x))


class ConvFeedForward(nn.Cell):
    """Two 3 x 3 convolutions over the grid of tokens, ``x * sigmoid(1.702 x)`` between them, dropout after.

    Microsoft's class-conditional and unconditional models have it in place of a feed-forward layer ("conv_mlp").
    """

    def __init__(self, dim: int, inner_dim: int, sample_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim, self.sample_size = dim, sample_size
        self.conv1 = nn.Conv2d(dim, inner_dim, 3, pad_mode="pad", padding=1, has_bias=True)
        self.conv2 = nn.Conv2d(inner_dim, dim, 3, pad_mode="pad", padding=1, has_bias=True)
        self.dropout = nn.Dropout(p=dropout)

    def construct(self, x: Tensor) -> Tensor:
        """(batch, sample_size^2, dim) -> the same shape."""
        size = self.sample_size
        grid = x.transpose(0, 2, 1).reshape(-1, self.dim, size, size)  # (batch, dim, rows, columns)
        grid = self.conv1(grid)
        grid = self.conv2(sigmoid_gelu(grid))
        return self.dropout(grid.reshape(-1, self.dim, size * size).transpose(0, 2, 1))


class FeedForward(nn.Cell):
    """Activation to four times the width, dropout, and back: (batch, tokens, dim) -> the same shape."""

    def __init__(self, dim: int, activation_fn: str = "geglu", dropout: float = 0.0, mult: int = 4) -> None:
        super().__init__()
        if activation_fn not in ACTIVATIONS:
            raise ValueError(f"activation_fn is {activation_fn!r}; it must be one of {sorted(ACTIVATIONS)}.")
        self.net = nn.CellList(
            [ActivatedProjection(dim, mult * dim, activation_fn), nn.Dropout(p=dropout), nn.Dense(mult * dim, dim)]
        )

    def construct(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[1](self.net[0](x)))
