"""The feed-forward layer and its activations, under the names that checkpoints use."""

from mindspore import Tensor, nn, ops


class GELU(nn.Cell):
    """Linear, then the Gaussian error linear unit: exact, or its tanh approximation."""

    def __init__(self, dim: int, inner_dim: int, approximate: str = "none") -> None:
        super().__init__()
        self.proj = nn.Dense(dim, inner_dim)
        self.approximate = approximate

    def construct(self, x: Tensor) -> Tensor:
        return ops.gelu(self.proj(x), approximate=self.approximate)


class TanhGELU(GELU):
    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__(dim, inner_dim, approximate="tanh")


class GEGLU(nn.Cell):
    """Linear to twice the width; one half gates the other by GELU (arXiv 2002.05202)."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.proj = nn.Dense(dim, 2 * inner_dim)

    def construct(self, x: Tensor) -> Tensor:
        x, gate = ops.chunk(self.proj(x), 2, axis=-1)
        return x * ops.gelu(gate, approximate="none")


class ApproximateGELU(nn.Cell):
    """Linear, then ``x * sigmoid(1.702 x)`` (arXiv 1606.08415, section 2). No gate, whatever its config name."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.proj = nn.Dense(dim, inner_dim)

    def construct(self, x: Tensor) -> Tensor:
        x = self.proj(x)
        return x * ops.sigmoid(1.702 * x)


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
        grid = self.conv2(grid * ops.sigmoid(1.702 * grid))
        return self.dropout(grid.reshape(-1, self.dim, size * size).transpose(0, 2, 1))


ACTIVATIONS = {
    "geglu": GEGLU,
    "geglu-approximate": ApproximateGELU,
    "gelu": GELU,
    "gelu-approximate": TanhGELU,
}


class FeedForward(nn.Cell):
    """Activation to four times the width, dropout, and back: (batch, tokens, dim) -> the same shape."""

    def __init__(self, dim: int, activation_fn: str = "geglu", dropout: float = 0.0, mult: int = 4) -> None:
        super().__init__()
        if activation_fn not in ACTIVATIONS:
            raise ValueError(f"activation_fn is {activation_fn!r}; it must be one of {sorted(ACTIVATIONS)}.")
        self.net = nn.CellList(
            [ACTIVATIONS[activation_fn](dim, mult * dim), nn.Dropout(p=dropout), nn.Dense(mult * dim, dim)]
        )

    def construct(self, x: Tensor) -> Tensor:
        return self.net[2](self.net[1](self.net[0](x)))
