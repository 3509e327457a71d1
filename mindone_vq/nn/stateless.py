"""A transformer block as a function of its weights.

Compiled once, it serves every layer. On a CPU that saves compilation and memory: there every matrix product of a graph
keeps work buffers as large as its inputs for as long as the graph lives.
"""

from typing import Any, Callable, Union

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from mindone_vq.nn.attention import BasicTransformerBlock, ScaledDotProductAttention
from mindone_vq.nn.device import on_cpu
from mindone_vq.nn.normalization import LayerNorm, modulated_norm

Weights = tuple[Union[Parameter, Tensor], ...]
ADA_NORM_EPS = 1e-5


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x: (..., in); weight: (out, in); bias: (out,) -> (..., out)."""
    rows = ops.MatMul(transpose_b=True)(x.reshape(-1, x.shape[-1]), weight)
    return ops.BiasAdd()(rows, bias).reshape(*x.shape[:-1], -1)


def modulate(x: Tensor, timestep: Tensor, table: Tensor, by_hand: bool) -> Tensor:
    """The adaptive norm: x: (batch, tokens, dim); timestep: (1,) int32; table: (T, 2, dim) -> as x."""
    scale, shift = ops.gather(table, timestep, 0)[0]
    return modulated_norm(x.reshape(-1, x.shape[-1]), 1.0 + scale, shift, ADA_NORM_EPS, by_hand).reshape(x.shape)


class LayerConditioning(nn.Cell):
    """What the text and the timesteps say to one layer: the same at every step of a call, so it is computed once."""

    def construct(self, context: Tensor, timesteps: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
        """Keys and values of the cross-attention, and what modulates the two adaptive norms.

        Args:
            context: text embeddings, (batch, length, cross_attention_dim).
            timesteps: (T,) int32.
            weights: from ``conditioning_weights``.

        Returns:
            (batch, length, dim) twice; scale and shift of the first norm and of the second, (T, 2, dim) each.
        """
        to_k, bias_k, to_v, bias_v, emb_1, linear_1, bias_1, emb_2, linear_2, bias_2 = weights
        key, value = linear(context, to_k, bias_k), linear(context, to_v, bias_v)
        rows = (timesteps.shape[0], 2, -1)
        first = linear(ops.silu(ops.gather(emb_1, timesteps, 0)), linear_1, bias_1).reshape(rows)
        second = linear(ops.silu(ops.gather(emb_2, timesteps, 0)), linear_2, bias_2).reshape(rows)
        return key, value, first, second


class AttentionInputs(nn.Cell):
    """The first norm of a layer, and the queries, keys and values of its attention to the pixels."""

    def __init__(self) -> None:
        super().__init__(auto_prefix=False)
        self.by_hand = on_cpu()

    def construct(self, x: Tensor, timestep: Tensor, table: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """x: (batch, tokens, dim); timestep: (1,) int32; table: (T, 2, dim) -> each as x."""
        q, bias_q, k, bias_k, v, bias_v = weights
        normalized = modulate(x, timestep, table, self.by_hand)
        return linear(normalized, q, bias_q), linear(normalized, k, bias_k), linear(normalized, v, bias_v)


class HeadGroup(nn.Cell):
    """Attention of some of the heads.

    Args:
        heads: all.
        groups: of how many equal groups one attends.
    """

    def __init__(self, heads: int, groups: int) -> None:
        super().__init__(auto_prefix=False)
        self.groups, self.attend = groups, ScaledDotProductAttention(heads // groups)

    def construct(self, query: Tensor, key: Tensor, value: Tensor, group: Tensor) -> Tensor:
        """query, key, value: (batch, tokens, dim); group: (1,) int32, which -> (batch, tokens, dim / groups)."""
        parts = [self._part(each, group) for each in (query, key, value)]
        return self.attend(*parts)

    def _part(self, x: Tensor, group: Tensor) -> Tensor:
        batch, tokens, dim = x.shape
        if self.groups == 1:
            return x
        parts = x.reshape(batch * tokens, self.groups, dim // self.groups)
        return ops.gather(parts, group, 1).reshape(batch, tokens, dim // self.groups)


class AfterAttention(nn.Cell):
    """The rest of a layer.

    Args:
        block: one of the layers.
        groups: of heads, which attended to the pixels.
    """

    def __init__(self, block: BasicTransformerBlock, groups: int) -> None:
        super().__init__(auto_prefix=False)
        self.attend, self.activation = ScaledDotProductAttention(block.attn2.attend.heads), block.ff.net[0].activation
        self.groups, self.eps, self.by_hand = groups, block.norm3.eps, on_cpu()

    def construct(
        self, x: Tensor, timestep: Tensor, key: Tensor, value: Tensor, table: Tensor, *others: Tensor
    ) -> Tensor:
        """x: (batch, tokens, dim); others: (batch, tokens, dim / groups) of each group; then weights -> as x."""
        attended = ops.concat(others[: self.groups], -1)
        out_1, bias_out_1, q, bias_q, out_2, bias_out_2, scale, shift, up, bias_up, down, bias_down = others[
            self.groups :
        ]
        x = x + linear(attended, out_1, bias_out_1)
        query = linear(modulate(x, timestep, table, self.by_hand), q, bias_q)
        x = x + linear(self.attend(query, key, value), out_2, bias_out_2)
        normalized = modulated_norm(x.reshape(-1, x.shape[-1]), scale, shift, self.eps, self.by_hand)
        return x + linear(self.activation(linear(normalized, up, bias_up)), down, bias_down).reshape(x.shape)


def as_cell(kind: type, *arguments: Any, name: str) -> nn.Cell:
    """The parts of a layer as they are, for one graph of all."""
    return kind(*arguments)


class StatelessBlock(nn.Cell):
    """``BasicTransformerBlock`` with its weights, and what its conditions say to it, as arguments.

    Args:
        block: one of the layers; its sizes and its activation are those of all.
        groups: equal groups of heads that attend to the pixels one after the other.
        make: makes each part of the layer from its class, its arguments and a name. Parts that are graphs of their own
            make ``construct`` a function to be called from Python; it does nothing but call them.
    """

    def __init__(
        self, block: BasicTransformerBlock, groups: int = 1, make: Callable[..., Callable[..., Tensor]] = as_cell
    ) -> None:
        super().__init__(auto_prefix=False)
        self.groups = tuple(Tensor([group], ms.int32) for group in range(groups))
        self.before = make(AttentionInputs, name="queries, keys and values")
        self.attend = make(HeadGroup, block.attn1.attend.heads, groups, name="attention")
        self.after = make(AfterAttention, block, groups, name="rest of a layer")

    def construct(
        self,
        x: Tensor,
        timestep: Tensor,
        text_key: Tensor,
        text_value: Tensor,
        first: Tensor,
        second: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        """One layer.

        Args:
            x: (batch, tokens, dim).
            timestep: (1,) int32, the same for all pictures.
            text_key, text_value, first, second: what ``LayerConditioning`` gives.
            weights: from ``block_weights``.

        Returns:
            (batch, tokens, dim).
        """
        attended = self._by_groups(*self.before(x, timestep, first, *weights[:6]))
        return self.after(x, timestep, text_key, text_value, second, *attended, *weights[6:])

    def _by_groups(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        return [self.attend(query, key, value, group) for group in self.groups]


def conditioning_weights(block: BasicTransformerBlock) -> Weights:
    """What ``LayerConditioning`` takes; the block must have cross-attention."""
    norms = [(norm.emb.embedding_table, *_dense(norm.linear)) for norm in (block.norm1, block.norm2)]
    return (*_dense(block.attn2.to_k), *_dense(block.attn2.to_v), *norms[0], *norms[1])


def block_weights(block: BasicTransformerBlock) -> Weights:
    """What ``StatelessBlock`` takes; zeros and ones stand for what a config switches off."""
    own, cross, up, down = block.attn1, block.attn2, block.ff.net[0].proj, block.ff.net[2]
    layers = (own.to_q, own.to_k, own.to_v, own.to_out[0], cross.to_q, cross.to_out[0])
    weights = [each for layer in layers for each in _dense(layer)]
    return (*weights, *_scale_and_shift(block.norm3), *_dense(up), *_dense(down))


def _dense(layer: nn.Dense) -> Weights:
    if layer.has_bias:
        return layer.weight, layer.bias
    return layer.weight, ops.zeros((layer.weight.shape[0],), layer.weight.dtype)


def _scale_and_shift(norm: LayerNorm) -> Weights:
    if norm.affine:
        return norm.gamma, norm.beta
    return ops.ones((norm.dim,), ms.float32), ops.zeros((norm.dim,), ms.float32)
