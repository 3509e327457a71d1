"""A transformer block as a function of its weights.

Compiled once, it serves every layer. On a CPU that saves compilation and memory: there every matrix product of a graph
keeps work buffers as large as its inputs for as long as the graph lives.
"""

from typing import Union

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from mindone_vq.nn.attention import BasicTransformerBlock, scaled_dot_product_attention
from mindone_vq.nn.device import on_cpu
from mindone_vq.nn.normalization import LayerNorm, modulated_norm

Weights = tuple[Union[Parameter, Tensor], ...]
ADA_NORM_EPS = 1e-5


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x: (rows, in); weight: (out, in); bias: (out,) -> (rows, out)."""
    return ops.BiasAdd()(ops.MatMul(transpose_b=True)(x, weight), bias)


class LayerConditioning(nn.Cell):
    """What the text and the timesteps say to one layer: the same at every step of a call, so it is computed once."""

    def construct(self, context: Tensor, timesteps: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values of the cross-attention, and what modulates the two adaptive norms.

        Args:
            context: text embeddings, (batch, length, cross_attention_dim).
            timesteps: (T,) int32.
            weights: from ``conditioning_weights``.

        Returns:
            (batch, length, dim) twice; (T, 4, dim): scale and shift of the first norm and of the second.
        """
        to_k, bias_k, to_v, bias_v, emb_1, linear_1, bias_1, emb_2, linear_2, bias_2 = weights
        batch, length, size = context.shape
        rows = context.reshape(batch * length, size)
        key = linear(rows, to_k, bias_k).reshape(batch, length, -1)
        value = linear(rows, to_v, bias_v).reshape(batch, length, -1)
        first = linear(ops.silu(ops.gather(emb_1, timesteps, 0)), linear_1, bias_1)  # (T, 2 * dim)
        second = linear(ops.silu(ops.gather(emb_2, timesteps, 0)), linear_2, bias_2)
        rows = ops.concat((first, second), -1).reshape(timesteps.shape[0], 4, -1)
        return key, value, rows


class StatelessBlock(nn.Cell):
    """``BasicTransformerBlock`` with its weights, and what its conditions say to it, as arguments.

    Args:
        block: one of the layers; its sizes and its activation are those of all.
    """

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__(auto_prefix=False)
        self.heads, self.activation = block.attn1.heads, block.ff.net[0].activation
        self.eps, self.by_hand = block.norm3.eps, on_cpu()

    def construct(
        self, x: Tensor, timestep: Tensor, key: Tensor, value: Tensor, modulation: Tensor, *weights: Tensor
    ) -> Tensor:
        """One layer.

        Args:
            x: (batch, tokens, dim).
            timestep: (1,) int32, the same for all pictures.
            key, value, modulation: what ``LayerConditioning`` gives.
            weights: from ``block_weights``.

        Returns:
            (batch, tokens, dim).
        """
        q_1, bias_q_1, k_1, bias_k_1, v_1, bias_v_1, out_1, bias_out_1 = weights[:8]
        q_2, bias_q_2, out_2, bias_out_2, scale_3, shift_3, up, bias_up, down, bias_down = weights[8:]
        batch, tokens, dim = x.shape
        modulation = ops.gather(modulation, timestep, 0)[0]  # (4, dim)
        grid, rows = (batch, tokens, dim), x.reshape(batch * tokens, dim)
        normalized = modulated_norm(rows, 1.0 + modulation[0], modulation[1], ADA_NORM_EPS, self.by_hand)
        attended = scaled_dot_product_attention(
            linear(normalized, q_1, bias_q_1).reshape(grid),
            linear(normalized, k_1, bias_k_1).reshape(grid),
            linear(normalized, v_1, bias_v_1).reshape(grid),
            self.heads,
        )
        rows = rows + linear(attended.reshape(batch * tokens, dim), out_1, bias_out_1)
        normalized = modulated_norm(rows, 1.0 + modulation[2], modulation[3], ADA_NORM_EPS, self.by_hand)
        query = linear(normalized, q_2, bias_q_2).reshape(grid)
        attended = scaled_dot_product_attention(query, key, value, self.heads)
        rows = rows + linear(attended.reshape(batch * tokens, dim), out_2, bias_out_2)
        normalized = modulated_norm(rows, scale_3, shift_3, self.eps, self.by_hand)
        rows = rows + linear(self.activation(linear(normalized, up, bias_up)), down, bias_down)
        return rows.reshape(grid)


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
