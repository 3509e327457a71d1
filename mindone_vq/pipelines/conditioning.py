"""What the network reads at every step of a call: the contributions of the timesteps and of the condition."""

from dataclasses import dataclass

import mindspore as ms
from mindspore import Tensor, mutable, nn, ops

from mindone_vq.nn.linear import Weights
from mindone_vq.nn.transformer_block import BasicTransformerBlock
from mindone_vq.pipelines.prepared import PreparedNetwork

Tensors = tuple[Tensor, ...]
# The modulations of the norms, a row for each timestep, and the context, each picture's first; each a tuple of one
# tensor or, where a network has no such thing, of none.
Contributions = tuple[Tensors, Tensors]


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
            mutable((modulations, tuple(Tensor(each.asnumpy()[-self.batch :]) for each in context)))
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
        return contributions(self.block.modulations(timesteps, weights), self.block.context(condition, weights))


class NetworkConditioning(nn.Cell):
    """The contributions to all blocks."""

    def __init__(self, prepared: PreparedNetwork) -> None:
        super().__init__(auto_prefix=False)
        self.blocks, self.layers = prepared.blocks, prepared.layers

    def construct(self, condition: Tensor, timesteps: Tensor) -> Contributions:
        modulations, context = (), ()
        for i, block in enumerate(self.blocks):
            weights = self.layers[i].weights()
            modulations += block.modulations(timesteps, weights)
            context += block.context(condition, weights)
        return contributions(modulations, context)


def contributions(modulations: Tensors, context: Tensors) -> Contributions:
    """Tensors of one shape each -> all in one; the modulations in float32, as norms use them."""
    return (
        (ops.concat(modulations, -1).astype(ms.float32),) if len(modulations) else (),
        (ops.stack(context, 1),) if len(context) else (),
    )


def at_timestep(modulations: Tensors, timestep: Tensor, dim: int) -> Tensors:
    """The modulations at a timestep, (1,) int32, of which each is (1, dim)."""
    return ops.split(ops.gather(modulations[0], timestep, 0), dim, 1) if len(modulations) else ()


def unstacked(context: Tensors) -> Tensors:
    """The tensors that are one in ``context``."""
    result = ()
    if len(context):
        for each in ops.split(context[0], 1, 1):
            result += (each.reshape(each.shape[0], *each.shape[2:]),)
    return result
