"""Attention between tokens, and between the positions of a feature map."""

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindone_vq.nn.device import fused_attention
from mindone_vq.nn.linear import Linear, Weights, centred, joined, layer_weights, padded_inputs, padded_outputs, scaled
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
        width = query.shape[-1]
        query = query * (width // self.heads) ** -0.5
        if mask is not None:
            return self._written(*[self._heads_first(each) for each in (query, key, value)], mask)
        return self.without_zeros(self.attend(self.split(query), self.split(key), self.split(value)), width)

    def is_fused(self, width: int, dtype: ms.Type) -> bool:
        """Whether inputs without a mask go through the fused kernel; width: heads * head_dim."""
        return self.has_fused_kernel and dtype != ms.float32 and width <= self.heads * FUSED_LARGEST

    def missing(self, width: int, dtype: ms.Type) -> int:
        """How many zeros each head needs at its end, which change nothing."""
        return -(width // self.heads) % FUSED_SIZE if self.is_fused(width, dtype) else 0

    def split(self, x: Tensor) -> Tensor:
        """(batch, tokens, heads * head_dim) -> the heads as ``attend`` takes them."""
        if not self.is_fused(x.shape[-1], x.dtype):
            return self._heads_first(x)
        return self._with_zeros(self._heads(x))

    def split_qkv(self, qkv: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(batch, tokens, 3 * heads * head_dim) -> the heads of queries, keys and values."""
        batch, tokens, width = qkv.shape
        head_dim = width // 3 // self.heads
        if self.is_fused(width // 3, qkv.dtype):
            return ops.split(self._with_zeros(qkv.reshape(batch, tokens, 3 * self.heads, head_dim)), self.heads, 2)
        heads = qkv.reshape(batch, tokens, 3, self.heads, head_dim).transpose(2, 0, 3, 1, 4)
        query, key, value = ops.split(heads.reshape(3 * batch, self.heads, tokens, head_dim), batch, 0)
        return query, key, value

    def attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention without a mask.

        Args:
            query, key, value: from ``split`` or ``split_qkv``; the product of queries and keys is scaled before.

        Returns:
            (batch, queries, heads * head_dim).
        """
        if not self.is_fused(query.shape[-1] * self.heads, query.dtype):
            return self._written(query, key, value)
        output = ops.flash_attention_score(query, key, value, self.heads, input_layout="BSND")
        return output.reshape(*output.shape[:2], -1)

    def without_zeros(self, attended: Tensor, width: int) -> Tensor:
        """The output of ``attend``, of ``width`` where its inputs had no ``missing`` zeros."""
        if attended.shape[-1] == width:
            return attended
        return self._heads(attended)[..., : width // self.heads].reshape(*attended.shape[:2], width)

    def _with_zeros(self, heads: Tensor) -> Tensor:
        """(batch, tokens, heads, head_dim) -> with the ``missing`` zeros."""
        missing = self.missing(heads.shape[-1] * self.heads, heads.dtype)
        if not missing:
            return heads
        zeros = ops.zeros((*heads.shape[:3], missing), ms.float32)
        return ops.concat([heads, zeros.astype(heads.dtype)], -1)

    def _written(self, query: Tensor, key: Tensor, value: Tensor, mask: Optional[Tensor] = None) -> Tensor:
        """The heads are the second axis."""
        scores = ops.BatchMatMul(transpose_b=True)(query, key)  # (batch, heads, queries, keys)
        scores = scores.astype(ms.float32)
        if mask is not None:
            scores = scores + mask
        weights = ops.softmax(scores, axis=-1).astype(value.dtype)
        output = ops.BatchMatMul()(weights, value)  # (batch, heads, queries, head_dim)
        return output.transpose(0, 2, 1, 3).reshape(output.shape[0], output.shape[2], -1)

    def _heads(self, x: Tensor) -> Tensor:
        """(batch, tokens, heads * head_dim) -> (batch, tokens, heads, head_dim)."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1)

    def _heads_first(self, x: Tensor) -> Tensor:
        """(batch, tokens, heads * head_dim) -> (batch, heads, tokens, head_dim)."""
        return self._heads(x).transpose(0, 2, 1, 3)


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
        self.attend, self.is_self_attention = ScaledDotProductAttention(heads), cross_attention_dim is None
        context_dim = query_dim if cross_attention_dim is None else cross_attention_dim
        self.to_q = nn.Dense(query_dim, heads * dim_head, has_bias=bias)
        self.to_k = nn.Dense(context_dim, heads * dim_head, has_bias=bias)
        self.to_v = nn.Dense(context_dim, heads * dim_head, has_bias=bias)
        self.product = Linear()
        self.to_out = nn.CellList([nn.Dense(heads * dim_head, query_dim), nn.Dropout(p=dropout)])

    def weights(self) -> Weights:
        return {
            "to_q": layer_weights(self.to_q),
            "to_k": layer_weights(self.to_k),
            "to_v": layer_weights(self.to_v),
            "to_out": layer_weights(self.to_out[0]),
        }

    def prepared(self, weights: Weights, is_centred: bool) -> Weights:
        """The weights as a step takes them: the scale of the scores, and the zeros of the fused kernel, are in them.

        Args:
            weights: those of ``weights``.
            is_centred: whether the output shall have mean zero.

        Returns:
            For self-attention "to_qkv", all three as one layer, and "to_out"; else the same names as ``weights``.
        """
        heads, width = self.attend.heads, self.to_out[0].in_channels
        scale = (width // heads) ** -0.5
        query, key, value = weights["to_q"], weights["to_k"], weights["to_v"]
        out, missing = weights["to_out"], self.attend.missing(width, query["weight"].dtype)
        if missing:
            query, key, value = [padded_outputs(each, heads, missing) for each in (query, key, value)]
            out = padded_inputs(out, heads, missing)
        out = centred(out) if is_centred else out
        if self.is_self_attention:
            return {"to_qkv": joined((scaled(query, scale), key, value)), "to_out": out}
        return {"to_q": query, "to_k": scaled(key, scale), "to_v": value, "to_out": out}

    def output(self, attended: Tensor, weights: Weights) -> Tensor:
        """(batch, tokens, heads * head_dim) -> (batch, tokens, query_dim); weights: from ``prepared``.

        In mixed precision these are of float32 and have no zeros, which ``attended`` in half precision has.
        """
        attended = self.attend.without_zeros(attended, weights["to_out"]["weight"].shape[1])
        return self.to_out[1](self.product(attended, weights["to_out"]))


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
