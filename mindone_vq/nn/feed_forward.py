"""The feed-forward layers of the transformer block."""

from mindspore import Tensor, nn, ops

from mindone_vq.nn.activations import FEED_FORWARD, QUICK_GELU, geglu, get_activation, quick_gelu, swish
from mindone_vq.nn.device import on_cpu
from mindone_vq.nn.linear import Linear, Weights, centred, layer_weights, scaled, scaled_inputs


class ActivatedProjection(nn.Cell):
    """Holds the first linear layer, under the name that checkpoints have for it."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.proj = nn.Dense(dim, inner_dim)


class FeedForward(nn.Cell):
    """Linear to ``mult`` times the width, activation, dropout, linear back.

    Args:
        dim: size of a token.
        activation_fn: "geglu", "gelu", "gelu-approximate" or "geglu-approximate".
        dropout: in training.
        mult: width between the layers, as a multiple of ``dim``.
    """

    def __init__(self, dim: int, activation_fn: str = "geglu", dropout: float = 0.0, mult: int = 4) -> None:
        super().__init__()
        activation = get_activation(FEED_FORWARD, activation_fn, "activation_fn")
        inner_dim = 2 * mult * dim if activation is geglu else mult * dim  # a gate halves the width
        self.is_quick_gelu, self.product = activation is quick_gelu, Linear()
        if self.is_quick_gelu:  # by weights with its factors, see ``prepared``
            activation = swish if on_cpu() else ops.silu
        self.activation = activation
        self.net = nn.CellList([ActivatedProjection(dim, inner_dim), nn.Dropout(p=dropout), nn.Dense(mult * dim, dim)])

    def weights(self) -> Weights:
        return {"up": layer_weights(self.net[0].proj), "down": layer_weights(self.net[2])}

    def prepared(self, weights: Weights, is_centred: bool) -> Weights:
        """The weights as a step takes them: the factors of ``quick_gelu`` are in them, and ``swish`` does the rest.

        Args:
            weights: those of ``weights``.
            is_centred: whether the output shall have mean zero.
        """
        up, down = weights["up"], weights["down"]
        if self.is_quick_gelu:
            up, down = scaled(up, QUICK_GELU), scaled_inputs(down, 1 / QUICK_GELU)
        return {"up": up, "down": centred(down) if is_centred else down}

    def construct(self, x: Tensor, weights: Weights) -> Tensor:
        """x: (batch, tokens, dim); weights: from ``prepared`` -> the same shape."""
        inner = self.net[1](self.activation(self.product(x, weights["up"])))
        return self.product(inner, weights["down"])


class ConvFeedForward(nn.Cell):
    """Two 3 x 3 convolutions over the grid of tokens, ``quick_gelu`` between them, dropout after.

    Microsoft's class-conditional and unconditional models have it in place of ``FeedForward`` ("conv_mlp").
    """

    def __init__(self, dim: int, inner_dim: int, sample_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dim, self.sample_size = dim, sample_size
        self.conv1 = nn.Conv2d(dim, inner_dim, 3, pad_mode="pad", padding=1, has_bias=True)
        self.conv2 = nn.Conv2d(inner_dim, dim, 3, pad_mode="pad", padding=1, has_bias=True)
        self.dropout = nn.Dropout(p=dropout)

    def weights(self) -> Weights:
        return {"conv1": layer_weights(self.conv1), "conv2": layer_weights(self.conv2)}

    def prepared(self, weights: Weights, is_centred: bool) -> Weights:
        """As in ``FeedForward``."""
        return {"conv1": weights["conv1"], "conv2": centred(weights["conv2"])} if is_centred else weights

    def construct(self, x: Tensor, weights: Weights) -> Tensor:
        """x: (batch, sample_size^2, dim); weights: from ``prepared`` -> the same shape."""
        size, first, second = self.sample_size, weights["conv1"], weights["conv2"]
        grid = x.transpose(0, 2, 1).reshape(-1, self.dim, size, size)  # (batch, dim, rows, columns)
        grid = ops.BiasAdd()(self.conv1.conv2d(grid, first["weight"]), first["bias"])
        grid = ops.BiasAdd()(self.conv2.conv2d(quick_gelu(grid), second["weight"]), second["bias"])
        return self.dropout(grid.reshape(-1, self.dim, size * size).transpose(0, 2, 1))
