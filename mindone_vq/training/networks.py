"""Initial weights of networks to train."""

from typing import Callable, Optional

import numpy as np
from mindspore import Tensor, nn


def initialize(cell: nn.Cell, rng: np.random.Generator, deviation: Callable[[str, nn.Cell], Optional[float]]) -> None:
    """Weights to train from: normal in convolutions, linear layers and embeddings, 0 in biases.

    Args:
        cell: its parameters are set, in the order of its parts.
        rng: what the weights are drawn from.
        deviation: the standard deviation of a part's weights, from its name and the part; None: leave it as it is.
    """
    for name, part in cell.cells_and_names():
        if not isinstance(part, (nn.Conv2d, nn.Dense, nn.Embedding)):
            continue
        spread = deviation(name, part)
        if spread is None:
            continue
        weight = part.embedding_table if isinstance(part, nn.Embedding) else part.weight
        weight.set_data(Tensor(rng.normal(0, spread, weight.shape).astype(np.float32)))
        if getattr(part, "has_bias", False):
            part.bias.set_data(Tensor(np.zeros(part.bias.shape, np.float32)))
