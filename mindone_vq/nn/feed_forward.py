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
