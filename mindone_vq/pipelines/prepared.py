"""The weights of a network as its steps take them, kept from step to step."""

import mindspore as ms
from mindspore import Parameter, nn, ops

from mindone_vq.models.denoiser import DiscreteDenoiser
from mindone_vq.nn.device import centres_tokens, compute_dtype
from mindone_vq.nn.linear import Weights
from mindone_vq.nn.transformer_block import BasicTransformerBlock


class StoredWeights(nn.Cell):
    """Weights by name as parameters. Those that are parameters already are not copied.

    Args:
        weights: as they are now.
        prefix: of the names of the parameters.
    """

    def __init__(self, weights: Weights, prefix: str) -> None:
        super().__init__(auto_prefix=False)
        self.groups = tuple(name for name, value in weights.items() if isinstance(value, dict))
        self.leaves = tuple(name for name in weights if name not in self.groups)
        self.own = tuple(name for name in self.leaves if not isinstance(weights[name], Parameter))
        for name in self.groups:
            setattr(self, name, StoredWeights(weights[name], f"{prefix}{name}."))
        for name in self.leaves:
            value = weights[name]
            if name in self.own:
                value = Parameter(value, name=prefix + name, requires_grad=False)
            setattr(self, name, value)

    def weights(self) -> Weights:
        weights = {}
        for name in self.leaves:
            weights[name] = getattr(self, name)
        for name in self.groups:
            weights[name] = getattr(self, name).weights()
        return weights

    def assign(self, weights: Weights) -> None:
        """Takes over the values."""
        for name in self.own:
            ops.assign(getattr(self, name), weights[name])
        for name in self.groups:
            getattr(self, name).assign(weights[name])


class PreparedNetwork(nn.Cell):
    """The weights of every block of a network from ``BasicTransformerBlock.prepared``, as they are now.

    ``NetworkConditioning`` stores those of a later time.
    """

    def __init__(self, transformer: DiscreteDenoiser) -> None:
        super().__init__(auto_prefix=False)
        self.blocks = transformer.transformer_blocks
        self.dtype, self.is_centred = compute_dtype(transformer.dtype), centres_tokens()
        layers = [StoredWeights(self.prepared(block), f"prepared.{i}.") for i, block in enumerate(self.blocks)]
        self.layers = nn.CellList(layers, auto_prefix=False)

    def prepared(self, block: BasicTransformerBlock) -> Weights:
        return block.prepared(in_dtype(block.weights(), self.dtype), self.is_centred)


def in_dtype(weights: Weights, dtype: ms.Type) -> Weights:
    """The weights in that type; those that have it are not copied."""
    converted = {}
    for name, value in weights.items():
        if isinstance(value, dict):
            converted[name] = in_dtype(value, dtype)
        else:
            converted[name] = value if value.dtype == dtype else ops.cast(value, dtype)
    return converted
