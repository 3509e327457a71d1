"""The weights of a network as its steps take them, kept from step to step."""

from typing import Any

import mindspore as ms
from mindspore import Parameter, nn, ops

from mindone_vq.models.denoiser import DiscreteDenoiser
from mindone_vq.nn.device import compute_dtype
from mindone_vq.nn.linear import Weights


class StoredWeights(nn.Cell):
    """Weights by name as parameters. Those that are parameters already are not copied."""

    def __init__(self, prefix: str) -> None:
        super().__init__(auto_prefix=False)
        self.prefix, self.leaves, self.groups = prefix, (), ()

    def weights(self) -> Weights:
        weights = {}
        for name in self.leaves:
            weights[name] = getattr(self, name)
        for name in self.groups:
            weights[name] = getattr(self, name).weights()
        return weights

    def update(self, weights: Weights) -> None:
        """Takes over the values."""
        self.groups = tuple(name for name, value in weights.items() if isinstance(value, dict))
        self.leaves = tuple(name for name in weights if name not in self.groups)
        for name in self.groups:
            if not hasattr(self, name):
                setattr(self, name, StoredWeights(f"{self.prefix}{name}."))
            getattr(self, name).update(weights[name])
        for name in self.leaves:
            self._store(name, weights[name])

    def _store(self, name: str, value: Any) -> None:
        held, own_name = getattr(self, name, None), self.prefix + name
        if isinstance(value, Parameter):
            if held is not value:
                setattr(self, name, value)
        elif held is None or (held.name, held.shape, held.dtype) != (own_name, value.shape, value.dtype):
            setattr(self, name, Parameter(value, name=own_name, requires_grad=False))
        else:
            held.copy_(value)


class PreparedNetwork(nn.Cell):
    """The weights of every block of a network from ``BasicTransformerBlock.prepared``."""

    def __init__(self, transformer: DiscreteDenoiser) -> None:
        super().__init__(auto_prefix=False)
        self.transformer, self.blocks = transformer, transformer.transformer_blocks
        self.layers = nn.CellList([StoredWeights(f"prepared.{i}.") for i in range(len(self.blocks))], auto_prefix=False)
        self.refresh()

    def refresh(self) -> None:
        """Reads the network's weights, which may have changed."""
        for block, stored in zip(self.blocks, self.layers):
            stored.update(block.prepared(in_dtype(block.weights(), compute_dtype(self.transformer.dtype))))


def in_dtype(weights: Weights, dtype: ms.Type) -> Weights:
    """The weights in that type; those that have it are not copied."""
    converted = {}
    for name, value in weights.items():
        if isinstance(value, dict):
            converted[name] = in_dtype(value, dtype)
        else:
            converted[name] = value if value.dtype == dtype else ops.cast(value, dtype)
    return converted
