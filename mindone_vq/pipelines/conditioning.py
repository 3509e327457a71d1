"""What the network reads at every step of a call: the contributions of the timesteps and of the condition."""

from dataclasses import dataclass

from mindspore import Tensor, mutable, nn, ops

from mindone_vq.nn.linear import Weights
from mindone_vq.nn.transformer_block import BasicTransformerBlock
from mindone_vq.pipelines.prepared import NOTHING, PreparedNetwork, modulation_table

Tensors = tuple[Tensor, ...]
# The modulations of the norms, a row for each timestep; and the context, each picture's first. ``NOTHING`` where a
# network has no such thing.
Contributions = tuple[Tensor, Tensor]


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


class Context(nn.Cell):
    """What the condition contributes to every block."""

    def __init__(self, prepared: PreparedNetwork) -> None:
        super().__init__(auto_prefix=False)
        self.blocks, self.layers = prepared.blocks, prepared.layers

    def construct(self, condition: Tensor) -> Tensor:
        """condition: as ``BasicTransformerBlock.context`` takes it -> (pictures, tensors of all layers, ...)."""
        context = ()
        for i, block in enumerate(self.blocks):
            own = block.context(condition, self.layers[i].weights())
            condition = ops.depend(condition, own)  # one after the other: on a CPU products side by side are slow
            context += own
        return stacked(context)


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
