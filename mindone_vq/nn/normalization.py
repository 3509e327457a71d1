"""Normalisation layers. Statistics are taken in float32 whatever the type of the weights."""

from typing import Optional

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops
from mindspore.common.initializer import initializer

from mindone_vq.nn.device import fused_linear, on_cpu
from mindone_vq.nn.linear import Weights, layer_weights, linear


def modulated_norm(
    x: Tensor, scale: Tensor, shift: Tensor, eps: float, decomposed: bool, is_centred: bool = False
) -> Tensor:
    """Layer normalisation over the last axis, then ``* scale + shift``, in float32.

    Args:
        x: (rows, dim) of any float type, which the result has too.
        scale, shift: (dim,).
        eps: added to the variance.
        decomposed: made of sums and products, for a CPU.
        is_centred: the rows have mean zero.
    """
    dim, dtype = x.shape[-1], x.dtype
    x, scale, shift = x.astype(ms.float32), scale.astype(ms.float32), shift.astype(ms.float32)
    if not decomposed:
        return ops.LayerNorm(-1, -1, eps)(x, scale, shift)[0].astype(dtype)
    if not is_centred:
        x = centred_tokens(x)
    deviation = ops.rsqrt((x * x).mean(-1, keep_dims=True) + eps)
    return ops.BiasAdd()(x * ops.MatMul()(deviation, scale.reshape(1, dim)), shift).astype(dtype)


def centred_tokens(x: Tensor) -> Tensor:
    """(..., dim) without the mean over the last axis."""
    rows = x.reshape(-1, x.shape[-1])
    return (rows - repeated(rows.mean(-1, keep_dims=True), x.shape[-1])).reshape(x.shape)


def unit_length(vectors: Tensor, axis: int = -1, eps: float = 0.0) -> Tensor:
    """Scales the vectors along an axis to Euclidean length 1, in float32; ``eps`` is added to the squared length.

    VQ-Diffusion does this to text embeddings; CLIP itself normalises only its pooled output.
    """
    vectors = vectors.astype(ms.float32)
    squares = ops.square(vectors).sum(axis, keepdims=True)
    return vectors * ops.rsqrt(squares + eps if eps > 0 else squares)


def repeated(column: Tensor, times: int) -> Tensor:
    """(rows, 1) -> (rows, times), by a product: operands of different shapes are slow on a CPU, and take memory."""
    return ops.MatMul()(column, ops.ones((1, times), column.dtype))


class LayerNorm(nn.Cell):
    """Layer normalisation over the last axis, with PyTorch's defaults.

    Args:
        dim: size of the last axis.
        eps: added to the variance.
        elementwise_affine: whether there is a learned scale (``gamma``) and shift (``beta``).
    """

    def __init__(self, dim: int, eps: float = 1e-5, elementwise_affine: bool = True) -> None:
        super().__init__()
        self.affine = elementwise_affine
        if elementwise_affine:
            self.gamma = Parameter(initializer("ones", (dim,)), name="gamma")
            self.beta = Parameter(initializer("zeros", (dim,)), name="beta")
        else:
            self.unit_scale = ops.ones((dim,), ms.float32)
            self.zero_shift = ops.zeros((dim,), ms.float32)
        self.dim, self.eps, self.decomposed = dim, eps, on_cpu()

    def weights(self) -> Weights:
        if self.affine:
            return {"gamma": self.gamma, "beta": self.beta}
        return {"gamma": self.unit_scale, "beta": self.zero_shift}

    def construct(self, x: Tensor, weights: Optional[Weights] = None, is_centred: bool = False) -> Tensor:
        """Normalises.

        Args:
            x: (..., dim).
            weights: those of ``weights``; its own where None.
            is_centred: every token has mean zero.

        Returns:
            The same shape and type.
        """
        if weights is None:
            weights = self.weights()
        affine = weights["gamma"], weights["beta"]
        return modulated_norm(x.reshape(-1, self.dim), *affine, self.eps, self.decomposed, is_centred).reshape(x.shape)


class GroupNorm(nn.GroupNorm):
    """``nn.GroupNorm`` computed in float32: (batch, channels, height, width) -> the same shape and type."""

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-6) -> None:
        if num_channels % num_groups:
            raise ValueError(
                f"{num_channels} channels cannot be split into {num_groups} groups of equal size: "
                "choose norm_num_groups that divides every entry of block_out_channels."
            )
        super().__init__(num_groups, num_channels, eps=eps)
        self.by_batch_norm = on_cpu()
        self.statistics = ops.BatchNorm(is_training=True, epsilon=eps, momentum=0.0)
        self.affine = ops.BatchNorm(is_training=False, epsilon=1e-12)

    def construct(self, x: Tensor) -> Tensor:
        values, gamma, beta = x.astype(ms.float32), self.gamma.astype(ms.float32), self.beta.astype(ms.float32)
        if self.by_batch_norm:
            normalized = self._normalize(values, gamma, beta)
        else:
            normalized = ops.group_norm(values, self.num_groups, gamma, beta, self.eps)
        return normalized.astype(x.dtype)

    def _normalize(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """By batch normalisation, which is fast on a CPU: of one picture whose channels are all groups, by their own
        statistics; and then with gamma and beta alone, by statistics that change nothing.
        """
        groups, channels = x.shape[0] * self.num_groups, x.shape[1]
        zeros, ones = ops.zeros((groups,), x.dtype), ops.ones((groups,), x.dtype)
        normalized = self.statistics(x.reshape(1, groups, -1, x.shape[3]), ones, zeros, zeros, ones)[0]
        zeros, ones = ops.zeros((channels,), x.dtype), ops.ones((channels,), x.dtype)
        return self.affine(normalized.reshape(x.shape), gamma, beta, zeros, ones)[0]


class AdaLayerNorm(nn.Cell):
    """Layer normalisation whose scale and shift come from the timestep or the class (VQ-Diffusion, section 4.2).

    ``y = LayerNorm(x) * (1 + scale) + shift`` with ``(scale, shift) = Linear(SiLU(Embedding(index)))``.

    Args:
        dim: size of the last axis.
        num_embeddings: timesteps or classes.
    """

    def __init__(self, dim: int, num_embeddings: int) -> None:
        super().__init__()
        self.emb = nn.Embedding(num_embeddings, dim)
        self.linear = nn.Dense(dim, 2 * dim)
        self.norm = LayerNorm(dim, elementwise_affine=False)
        self.fused, self.decomposed = fused_linear(), on_cpu()

    def weights(self) -> Weights:
        return {"emb": self.emb.embedding_table, "linear": layer_weights(self.linear)}

    def modulation(self, index: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
        """index: (n,) integers -> ``1 + scale`` and ``shift`` of each, (n, dim)."""
        rows = linear(ops.silu(ops.gather(weights["emb"], index, 0)), weights["linear"], self.fused)
        scale, shift = ops.chunk(rows, 2, axis=-1)
        return ops.add(scale, 1.0), shift

    def construct(self, x: Tensor, factor: Tensor, shift: Tensor, is_centred: bool = False) -> Tensor:
        """Normalises.

        Args:
            x: (batch, tokens, dim).
            factor, shift: from ``modulation``, (batch, dim), or (1, dim) for all.
            is_centred: every token has mean zero.

        Returns:
            As x.
        """
        if factor.shape[0] == 1:
            rows = x.reshape(-1, x.shape[-1])
            affine = factor.reshape(-1), shift.reshape(-1)
            return modulated_norm(rows, *affine, self.norm.eps, self.decomposed, is_centred).reshape(x.shape)
        factor, shift = factor.expand_dims(1), shift.expand_dims(1)  # (batch, 1, dim)
        if self.decomposed:  # repeated by a product, whose gradient is a product and not a slow sum
            tokens = ops.ones((x.shape[0], x.shape[1], 1), x.dtype)
            factor, shift = ops.BatchMatMul()(tokens, factor), ops.BatchMatMul()(tokens, shift)
        return self.norm(x, is_centred=is_centred) * factor + shift


class SpatialNorm(nn.Cell):
    """Group normalisation modulated by the quantised latents at every position (MoVQ, arXiv 2209.09002)."""

    NUM_GROUPS = 32  # in every published MoVQ decoder, independent of norm_num_groups

    def __init__(self, num_channels: int, latent_channels: int) -> None:
        super().__init__()
        self.norm_layer = GroupNorm(self.NUM_GROUPS, num_channels)
        self.conv_y = nn.Conv2d(latent_channels, num_channels, 1, has_bias=True)
        self.conv_b = nn.Conv2d(latent_channels, num_channels, 1, has_bias=True)

    def construct(self, x: Tensor, latents: Tensor) -> Tensor:
        """x: (batch, channels, height, width); latents: (batch, latent_channels, h, w), h and w any size."""
        latents = ops.interpolate(latents.astype(ms.float32), size=x.shape[-2:], mode="nearest").astype(x.dtype)
        return self.norm_layer(x) * self.conv_y(latents) + self.conv_b(latents)
