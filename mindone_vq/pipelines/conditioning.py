"""What the network reads at every step of a call: the contributions of the timesteps and of the condition."""

from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, mutable, nn, ops

from mindone_vq.nn.linear import Weights
from mindone_vq.nn.transformer_block import BasicTransformerBlock
from mindone_vq.pipelines.prepared import PreparedNetwork

Tensors = tuple[Tensor, ...]
# The modulations of the norms, a row for each timestep; and the context, each picture's first. ``NOTHING`` where a
# network has no such thing: a loop in a graph takes no empty tuple.
Contributions = tuple[Tensor, Tensor]
NOTHING = Tensor([0.0], ms.float32)


@dataclass(frozen=True)
class Conditioning:
    """The contributions, computed once a call.

    Attributes:
        contributions: to the whole network, or to one layer after the other; each ``mutable``, a graph's input.
        weights: of the conditions in guidance; empty where there is no guidance. With guidance the null condition comes
            first.
        batch: pictures.
    """

    contributions: tuple[Contributions, ...]
    weights: tuple[float, ...]
    batch: int

    @property
    def conditions(self) -> int:
        """How many each picture has, the null condition among them."""
        return len(self.weights) + 1

    def unguided(self) -> "Conditioning":
        """That of a step without guidance."""
        own = tuple(
            mutable((modulations, Tensor(context.asnumpy()[-self.batch :])))
            for modulations, context in self.contributions
        )
        return Conditioning(own, (), self.batch)


class LayerConditioning(nn.Cell):
    """The contributions to one block, with the weights of any block of the network."""

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__(auto_prefix=False)
        self.block = block

    def construct(self, condition: Tensor, timesteps: Tensor, weights: Weights) -> Contributions:
        """condition: as ``context`` of the block takes it; timesteps: (T,)."""
        weights = self.block.prepared(weights)
        modulations, context = self.block.modulations(timesteps, weights), self.block.context(condition, weights)
        return modulation_table(modulations), stacked(context)


class NetworkConditioning(nn.Cell):
    """The contributions to every block; and stores the weights as steps take them, because they may have changed."""

    def __init__(self, network: PreparedNetwork) -> None:
        super().__init__(auto_prefix=False)
        self.network, self.blocks, self.layers = network, network.blocks, network.layers

    def construct(self, condition: Tensor, timesteps: Tensor) -> Contributions:
        """As in ``LayerConditioning``."""
        modulations, context = (), ()
        for i, block in enumerate(self.blocks):
            weights = self.network.prepared(block)
            self.layers[i].assign(weights)
            own = block.modulations(timesteps, weights)
            condition = ops.depend(condition, own)
            modulations += own
            own = block.context(condition, weights)
            timesteps = ops.depend(timesteps, own)
            context += own
        return modulation_table(modulations), stacked(context)


def modulation_table(modulations: Tensors) -> Tensor:
    """(T, dim) each -> one of (T, dim of all), in float32, as norms use them."""
    return ops.concat(modulations, -1).astype(ms.float32) if len(modulations) else NOTHING


def at_timestep(table: Tensor, timestep: Tensor, dim: int) -> Tensors:
    """The modulations at a timestep, (1,) int32, of which each is (1, dim)."""
    return ops.split(ops.gather(table, timestep, 0), dim, 1) if table.ndim > 1 else ()


def stacked(context: Tensors) -> Tensor:
    """(batch, ...) each -> one of (batch, tensors, ...)."""
    return ops.stack(context, 1) if len(context) else NOTHING


def unstacked(context: Tensor) -> Tensors:
    """The tensors that ``stacked`` made one of."""
    tensors = ()
    if context.ndim > 1:
        for each in ops.split(context, 1, 1):
            tensors += (each.reshape(each.shape[0], *each.shape[2:]),)
    return tensors
