"""The weights of a network as its steps take them, kept from step to step."""

import zlib
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindone_vq.models.denoiser import DiscreteDenoiser
from mindone_vq.nn.device import centres_tokens, compute_dtype, on_cpu
from mindone_vq.nn.linear import Weights
from mindone_vq.nn.transformer_block import BasicTransformerBlock

# What a network has not: a loop in a graph takes no empty tuple.
NOTHING = Tensor([0.0], ms.float32)


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

    def update(self, weights: Weights) -> None:
        """Takes over the values."""
        for name in self.own:
            ops.assign(getattr(self, name), weights[name])
        for name in self.groups:
            getattr(self, name).update(weights[name])


class PreparedNetwork(nn.Cell):
    """What the steps of every call read of a network's blocks.

    Attributes:
        blocks: of the network.
        layers: their weights from ``BasicTransformerBlock.prepared``.
        modulations: of the norms, a row for each timestep, from ``modulation_table``.
    """

    def __init__(self, transformer: DiscreteDenoiser) -> None:
        super().__init__(auto_prefix=False)
        self.blocks = transformer.transformer_blocks
        self.dtype, self.is_centred = compute_dtype(transformer.dtype), centres_tokens()
        self.timesteps = Tensor(np.arange(transformer.num_timesteps or 1), ms.int32)
        layers = [StoredWeights(self._prepared(block), f"prepared.{i}.") for i, block in enumerate(self.blocks)]
        self.layers = nn.CellList(layers, auto_prefix=False)
        self.modulations, self.checksum = self._modulations(), self._checksum()

    def refresh(self) -> None:
        """Takes over the network's weights where they have changed."""
        checksum = self._checksum()
        if checksum is not None and checksum == self.checksum:
            return
        for block, stored in zip(self.blocks, self.layers):
            stored.update(self._prepared(block))
        self.modulations, self.checksum = self._modulations(), checksum

    def _prepared(self, block: BasicTransformerBlock) -> Weights:
        return block.prepared(in_dtype(block.weights(), self.dtype), self.is_centred)

    def _modulations(self) -> Tensor:
        modulations = ()
        for block, stored in zip(self.blocks, self.layers):
            modulations += block.modulations(self.timesteps, stored.weights())
        return modulation_table(modulations)

    def _checksum(self) -> Optional[int]:
        """Of the blocks' weights; None where reading them takes longer than preparing them."""
        if not on_cpu():
            return None
        checksum = 0
        for parameter in self.blocks.get_parameters():
            checksum = zlib.crc32(parameter.asnumpy(), checksum)
        return checksum


def modulation_table(modulations: tuple[Tensor, ...]) -> Tensor:
    """(T, dim) each -> one of (T, dim of all), in float32, as norms use them."""
    return ops.cast(ops.concat(modulations, -1), ms.float32) if len(modulations) else NOTHING


def in_dtype(weights: Weights, dtype: ms.Type) -> Weights:
    """The weights in that type; those that have it are not copied."""
    converted = {}
    for name, value in weights.items():
        if isinstance(value, dict):
            converted[name] = in_dtype(value, dtype)
        else:
            converted[name] = value if value.dtype == dtype else ops.cast(value, dtype)
    return converted
