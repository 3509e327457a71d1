"""Attention between tokens, and between the positions of a feature map."""

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindone_vq.nn.device import fused_attention
from mindone_vq.nn.linear import Weights, layer_weights, linear
from mindone_vq.nn.normalization import GroupNorm, SpatialNorm

FUSED_SIZE, FUSED_LARGEST = 16, 512  # heads that the fused kernel takes are multiples of the first up to the second


class ScaledDotProductAttention(nn.Cell):
    """Multi-head attention; the one place every attention of this package goes through.

    On a device with a fused kernel, which does not store the scores (arXiv 2205.14135), that is used for inputs without
    a mask, of a type and size that it supports.

    Args:
        heads: number of heads.
    """

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.heads, self.has_fused_kernel = heads, fused_attention()

    def construct(self, query: Tensor, key: Tensor, value: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """The softmax is taken in float32.

        Args:
            query: (batch, queries, heads * head_dim).
            key, value: (batch, keys, heads * head_dim).
            mask: added to the scores, broadcastable to (batch, heads, queries, keys).

        Returns:
            (batch, queries, heads * head_dim), the type of ``value``.
        """
        fits = value.dtype != ms.float32 and query.shape[-1] <= self.heads * FUSED_LARGEST
        if self.has_fused_kernel and mask is None and fits:
            return self._fused(query, key, value)
        batch, queries, width = query.shape
        head_dim = width // self.heads
        query, key, value = [self._heads(each).transpose(0, 2, 1, 3) for each in (query, key, value)]
        scores = ops.BatchMatMul(transpose_b=True)(query * head_dim**-0.5, key)  # (batch, heads, queries, keys)
        scores = scores.astype(ms.float32)
        if mask is not None:
            scores = scores + mask
        weights = ops.softmax(scores, axis=-1).astype(value.dtype)
        output = ops.BatchMatMul()(weights, value)  # (batch, heads, queries, head_dim)
        return output.transpose(0, 2, 1, 3).reshape(batch, queries, width)

    def _fused(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The kernel takes heads of a multiple of ``FUSED_SIZE``; zeros at their ends change nothing."""
        head_dim = query.shape[-1] // self.heads
        missing = -head_dim % FUSED_SIZE
        query, key, value = [ops.pad(self._heads(each), (0, missing)) for each in (query, key, value)]
        output = ops.flash_attention_score(
            query, key, value, self.heads, scalar_value=head_dim**-0.5, input_layout="BSND"
        )
        return output[..., :head_dim].reshape(*output.shape[:2], -1)

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, tokens, heads * head_dim) -> (batch, tokens, heads, head_dim)."""
        batch, tokens, width = x.shape
        return x.reshape(batch, tokens, self.heads, width // self.heads)


class Attention(nn.Cell):
    """The projections of self-attention, or of cross-attention where ``cross_attention_dim`` is given.

    Args:
        query_dim: size of the tokens that ask, and of the output.
        heads, dim_head: the heads and the size of each.
        cross_attention_dim: size of the tokens attended to; None: the tokens themselves.
        bias: whether the three input projections have a bias (the output projection always has).
        dropout: on the output.
    """

    def __init__(
        self,
        query_dim: int,
        heads: int,
        dim_head: int,
        cross_attention_dim: Optional[int] = None,
        bias: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.attend = ScaledDotProductAttention(heads)
        context_dim = query_dim if cross_attention_dim is None else cross_attention_dim
        self.to_q = nn.Dense(query_dim, heads * dim_head, has_bias=bias)
        self.to_k = nn.Dense(context_dim, heads * dim_head, has_bias=bias)
        self.to_v = nn.Dense(context_dim, heads * dim_head, has_bias=bias)
        self.to_out = nn.CellList([nn.Dense(heads * dim_head, query_dim), nn.Dropout(p=dropout)])

    def weights(self) -> Weights:
        return {
            "to_q": layer_weights(self.to_q),
            "to_k": layer_weights(self.to_k),
            "to_v": layer_weights(self.to_v),
            "to_out": layer_weights(self.to_out[0]),
        }

    def output(self, attended: Tensor, weights: Weights) -> Tensor:
        """(batch, tokens, heads * dim_head) -> (batch, tokens, query_dim)."""
        return self.to_out[1](linear(attended, weights["to_out"]))


class SpatialAttention(Attention):
    """One-head self-attention between the positions of a feature map, with its norm and a residual."""

    def __init__(self, channels: int, norm_num_groups: int, norm_latent_channels: Optional[int] = None) -> None:
        super().__init__(channels, heads=1, dim_head=channels, bias=True)
        self.modulated = norm_latent_channels is not None
        if self.modulated:
            self.spatial_norm = SpatialNorm(channels, norm_latent_channels)
        else:
            self.group_norm = GroupNorm(norm_num_groups, channels)

    def construct(self, x: Tensor, latents: Optional[Tensor] = None) -> Tensor:
        """x: (batch, channels, height, width); latents: what a modulated norm reads."""
        batch, channels, height, width = x.shape
        normalized = self.spatial_norm(x, latents) if self.modulated else self.group_norm(x)
        tokens = normalized.reshape(batch, channels, height * width).transpose(0, 2, 1)  # (batch, positions, channels)
        output = self.attend(self.to_q(tokens), self.to_k(tokens), self.to_v(tokens))
        output = self.to_out[0](output)
        return x + output.transpose(0, 2, 1).reshape(batch, channels, height, width)
