"""The blocks of a network, run one after the other by graphs that serve them all."""

from collections.abc import Callable
from typing import Any

import mindspore as ms
from mindspore import Tensor, mutable, nn, ops

from mindone_vq.nn.device import centres_tokens, compute_dtype, groups_of_heads
from mindone_vq.nn.linear import Weights
from mindone_vq.nn.transformer_block import BasicTransformerBlock, HeadGroup
from mindone_vq.pipelines.compilation import GraphCache
from mindone_vq.pipelines.conditioning import Contributions, Tensors, at_timestep, unstacked


class Layer(nn.Cell):
    """One block with the weights of any block of the network."""

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__(auto_prefix=False)
        self.block, self.is_centred = block, centres_tokens()

    def construct(self, x: Tensor, timestep: Tensor, contributions: Contributions, weights: Weights) -> Tensor:
        """x: (batch, tokens, dim), from ``Embedding`` or the layer before; timestep: (1,) int32 -> as x."""
        modulations, context = contributions
        modulations, weights = at_timestep(modulations, timestep, x.shape[-1]), self.prepared(weights)
        return self.block.conditioned(x, modulations, unstacked(context), weights, self.is_centred)

    def prepared(self, weights: Weights) -> Weights:
        return self.block.prepared(weights, self.is_centred)


class AttentionInputs(Layer):
    """``Layer`` up to its self-attention."""

    def construct(self, x: Tensor, timestep: Tensor, contributions: Contributions, weights: Weights) -> Tensor:
        modulations = at_timestep(contributions[0], timestep, x.shape[-1])
        return self.block.attention_inputs(x, modulations, self.prepared(weights), self.is_centred)


class AfterAttention(Layer):
    """``Layer`` after its self-attention; ``attended``: (batch, tokens, dim / groups) of each group of heads."""

    def construct(
        self, x: Tensor, attended: Tensors, timestep: Tensor, contributions: Contributions, weights: Weights
    ) -> Tensor:
        modulations, context = contributions
        modulations, weights = at_timestep(modulations, timestep, x.shape[-1]), self.prepared(weights)
        inputs = x, ops.concat(attended, -1), modulations, unstacked(context), weights
        return self.block.after_attention(*inputs, self.is_centred)


class WidenedWeights:
    """Memory for the weights of one block in float32."""

    def __init__(self, block: BasicTransformerBlock) -> None:
        def tensors(weights: Weights) -> Weights:
            return {
                k: tensors(v) if isinstance(v, dict) else ops.zeros(v.shape, ms.float32) for k, v in weights.items()
            }

        self.weights = mutable(tensors(block.weights()))

    def filled(self, weights: Weights) -> Weights:
        """Its tensors with these values."""
        _copy(weights, self.weights)
        return self.weights


def _copy(weights: Weights, into: Weights) -> None:
    for name, value in weights.items():
        if isinstance(value, dict):
            _copy(value, into[name])
        else:
            into[name].copy_(value)


class Layers:
    """The blocks of a network.

    On a CPU weights of less than float32 are widened when their layer runs, into memory that all layers share.

    Args:
        blocks: of the same shape.
        dtype: of their weights.
        graphs: for the compiled ones.
    """

    def __init__(self, blocks: nn.CellList, dtype: ms.Type, graphs: GraphCache) -> None:
        self.blocks, self.graphs = blocks, graphs
        self.is_widened = compute_dtype(dtype) != dtype

    def weights(self, i: int) -> Weights:
        """Those of a block, as its graph takes them; where they are widened, until those of another are asked for."""
        own = self.blocks[i].weights()
        return self.graphs.hold(WidenedWeights, self.blocks[0]).filled(own) if self.is_widened else as_inputs(own)

    def __call__(self, x: Tensor, timestep: Tensor, contributions: tuple[Contributions, ...]) -> Tensor:
        """x: (batch, tokens, dim); contributions: those of each layer -> as x."""
        layer = self._layer(x)
        for i, own in enumerate(contributions):
            x = layer(x, timestep, own, self.weights(i))
        return x

    def _layer(self, x: Tensor) -> Callable[..., Tensor]:
        """The compiled block; three graphs where the scores of all heads together would take too much memory."""
        heads = self.blocks[0].attn1.attend.heads
        groups = groups_of_heads(heads, x.shape[0] * x.shape[1] ** 2)
        if groups == 1:
            return self.graphs.get(Layer, self.blocks[0], name="layer")
        queries_keys_values = self.graphs.get(AttentionInputs, self.blocks[0], name="queries, keys and values")
        attention = self.graphs.get(HeadGroup, heads, groups, name="attention")
        rest = self.graphs.get(AfterAttention, self.blocks[0], name="rest of a layer")

        def layer(x: Tensor, timestep: Tensor, contributions: Contributions, weights: Weights) -> Tensor:
            qkv = queries_keys_values(x, timestep, contributions, weights)
            attended = tuple(attention(qkv, Tensor([group], ms.int32)) for group in range(groups))
            return rest(x, mutable(attended), timestep, contributions, weights)

        return layer


def as_inputs(weights: Weights) -> Weights:
    """Tensors that share the memory of parameters: a graph takes those as inputs, and a Parameter as a constant."""

    def tensors(value: Any) -> Any:
        return {k: tensors(v) for k, v in value.items()} if isinstance(value, dict) else Tensor(value)

    return mutable(tensors(weights))
