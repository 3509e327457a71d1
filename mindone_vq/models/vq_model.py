"""VQModel: pictures <-> codes of a learned codebook (VQ-VAE, arXiv 1711.00937; VQGAN, arXiv 2012.09841)."""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import mindspore as ms
from mindspore import Tensor, nn, ops
from mindspore.common.initializer import Uniform

from mindone_vq.models.autoencoder import Decoder, Encoder
from mindone_vq.outputs import output, returns
from mindone_vq.weights.config import register_to_config
from mindone_vq.weights.pretrained import PretrainedCell


@output
class VQEncoderOutput(NamedTuple):
    """latents: (batch, vq_embed_dim, height / f, width / f), before quantisation."""

    latents: Tensor


@output
class DecoderOutput(NamedTuple):
    """sample: (batch, out_channels, height, width); commit_loss: scalar, or zeros of shape (batch,)."""

    sample: Tensor
    commit_loss: Tensor


class VectorQuantizer(nn.Cell):
    """Replaces every latent vector by the nearest entry of the codebook.

    The distance |z - e|^2 is taken as |e|^2 - 2 z.e (|z|^2 is the same for every e), one matrix product of
    (pixels, classes); nothing of shape (pixels, classes, channels) is ever made.

    Args:
        num_embeddings: entries of the codebook.
        embed_dim: size of each.
        beta: weight of the codebook term of the loss, as in the published checkpoints' code, which applied
            it there and not to the commitment term.
    """

    def __init__(self, num_embeddings: int, embed_dim: int, beta: float = 0.25) -> None:
        super().__init__()
        self.num_embeddings, self.embed_dim, self.beta = num_embeddings, embed_dim, beta
        self.embedding = nn.Embedding(num_embeddings, embed_dim, embedding_table=Uniform(1.0 / num_embeddings))

    def nearest(self, z: Tensor) -> Tensor:
        """z: (..., embed_dim) -> index of the nearest entry, (...) int32. Computed in float32."""
        codebook = self.embedding.embedding_table.astype(ms.float32)  # (classes, channels)
        flat = z.reshape(-1, self.embed_dim).astype(ms.float32)  # (pixels, channels)
        products = ops.MatMul(transpose_b=True)(flat, codebook)  # (pixels, classes)
        distances = (codebook * codebook).sum(-1) - 2.0 * products
        return ops.argmin(distances, axis=-1).astype(ms.int32).reshape(z.shape[:-1])

    def construct(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z: (batch, channels, h, w) -> quantised (same shape), commitment loss (scalar), indices (batch, h, w).

        The gradient passes the quantised latents straight through to z (VQ-VAE, section 3.2).
        """
        z = z.transpose(0, 2, 3, 1)  # (batch, h, w, channels)
        indices = self.nearest(z)
        quantized = self.embedding(indices).astype(z.dtype)
        difference = (quantized - z).astype(ms.float32)
        to_codebook = (ops.stop_gradient(quantized) - z).astype(ms.float32)
        from_codebook = (quantized - ops.stop_gradient(z)).astype(ms.float32)
        loss = (to_codebook * to_codebook).mean() + self.beta * (from_codebook * from_codebook).mean()
        quantized = z + ops.stop_gradient(difference).astype(z.dtype)
        return quantized.transpose(0, 3, 1, 2), loss, indices

    def get_codebook_entry(self, indices: Tensor, shape: Optional[Sequence[int]] = None) -> Tensor:
        """Codebook vectors of ``indices``.

        Args:
            indices: integers of any shape.
            shape: (batch, height, width, channels); the result is then (batch, channels, height, width).
        """
        vectors = self.embedding(indices)
        if shape is None:
            return vectors
        return vectors.reshape(tuple(shape)).transpose(0, 3, 1, 2)


class GumbelQuantizer(VectorQuantizer):
    """Chooses the entry by a linear map of the latents instead of by distance (VQGAN's GumbelVQ; arXiv 1611.00712).

    The draw of training is replaced by its mode, the largest logit.
    """

    def __init__(self, num_embeddings: int, embed_dim: int) -> None:
        super().__init__(num_embeddings, embed_dim)
        self.proj = nn.Conv2d(embed_dim, num_embeddings, 1, has_bias=True)

    def nearest(self, z: Tensor) -> Tensor:
        weight = self.proj.weight.astype(ms.float32).reshape(self.num_embeddings, self.embed_dim)
        flat = z.reshape(-1, self.embed_dim).astype(ms.float32)  # (pixels, channels)
        logits = ops.MatMul(transpose_b=True)(flat, weight) + self.proj.bias.astype(ms.float32)  # (pixels, classes)
        return ops.argmax(logits, dim=-1).astype(ms.int32).reshape(z.shape[:-1])


class VQModel(PretrainedCell):
    """The VQ-VAE: ``encode`` pictures to latents, ``decode`` latents or codes to pictures.

    Args:
        in_channels, out_channels: channels of the picture going in and coming out.
        down_block_types: per level "DownEncoderBlock2D" or "AttnDownEncoderBlock2D".
        up_block_types: per level, lowest resolution first, "UpDecoderBlock2D" or "AttnUpDecoderBlock2D".
        block_out_channels: channels of each level, highest resolution first.
        layers_per_block: resnets in a level of the encoder; the decoder has one more.
        act_fn: "silu", "swish", "mish", "gelu" or "relu", inside the resnets.
        latent_channels: channels between encoder and ``quant_conv``.
        sample_size: kept for the config; the network takes any size divisible by 2^(levels - 1).
        num_vq_embeddings: entries of the codebook.
        norm_num_groups: groups of the group norms.
        vq_embed_dim: size of a codebook entry; None: ``latent_channels``.
        scaling_factor: kept for the config; VQ-Diffusion works on codes and does not scale.
        norm_type: "group", or "spatial" for a decoder whose norms read the latents (MoVQ, arXiv 2209.09002).
        mid_block_add_attention: attention in the middle blocks.
        lookup_from_codebook: ``decode(..., force_not_quantize=True)`` takes codes instead of latents.
        force_upcast: keep this model in float32 when a smaller type is asked for.
    """

    quantizer_class = VectorQuantizer
    output_class = DecoderOutput

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: Sequence[str] = ("DownEncoderBlock2D",),
        up_block_types: Sequence[str] = ("UpDecoderBlock2D",),
        block_out_channels: Sequence[int] = (64,),
        layers_per_block: int = 1,
        act_fn: str = "silu",
        latent_channels: int = 3,
        sample_size: int = 32,
        num_vq_embeddings: int = 256,
        norm_num_groups: int = 32,
        vq_embed_dim: Optional[int] = None,
        scaling_factor: float = 0.18215,
        norm_type: str = "group",
        mid_block_add_attention: bool = True,
        lookup_from_codebook: bool = False,
        force_upcast: bool = False,
    ) -> None:
        super().__init__()
        levels = {len(down_block_types), len(up_block_types), len(block_out_channels)}
        if len(levels) != 1:
            raise ValueError(
                "down_block_types, up_block_types and block_out_channels describe the same levels, but have "
                f"{len(down_block_types)}, {len(up_block_types)} and {len(block_out_channels)} entries."
            )
        if norm_type not in ("group", "spatial"):
            raise ValueError(f"norm_type is {norm_type!r}; it must be 'group' or 'spatial'.")
        vq_embed_dim = latent_channels if vq_embed_dim is None else vq_embed_dim
        if norm_type == "spatial" and vq_embed_dim != latent_channels:
            raise ValueError(
                f"norm_type 'spatial' reads the codebook vectors where latent_channels ({latent_channels}) are "
                f"expected: vq_embed_dim ({vq_embed_dim}) must be equal to it."
            )
        self.downscale = 2 ** (len(block_out_channels) - 1)
        self.vq_embed_dim = vq_embed_dim
        self.spatial_norm = norm_type == "spatial"
        self.lookup_from_codebook = lookup_from_codebook
        shared = dict(
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            act_fn=act_fn,
            mid_block_add_attention=mid_block_add_attention,
        )
        self.encoder = Encoder(in_channels, latent_channels, down_block_types, **shared)
        self.quant_conv = nn.Conv2d(latent_channels, vq_embed_dim, 1, has_bias=True)
        self.quantize = self.quantizer_class(num_vq_embeddings, vq_embed_dim)
        self.post_quant_conv = nn.Conv2d(vq_embed_dim, latent_channels, 1, has_bias=True)
        self.decoder = Decoder(latent_channels, out_channels, up_block_types, spatial_norm=self.spatial_norm, **shared)

    @returns(VQEncoderOutput)
    def encode(self, x: Tensor, return_dict: bool = True) -> VQEncoderOutput:
        """x: (batch, in_channels, height, width) in [-1, 1] -> latents (batch, vq_embed_dim, h, w), not quantised.

        ``return_dict`` is accepted and changes nothing: see ``mindone_vq.outputs``.
        """
        return (self.quant_conv(self.encoder(x.astype(self.dtype))),)

    @returns(DecoderOutput)
    def decode(
        self,
        h: Tensor,
        force_not_quantize: bool = False,
        return_dict: bool = True,
        shape: Optional[Sequence[int]] = None,
    ) -> DecoderOutput:
        """Latents -> picture.

        Args:
            h: (batch, vq_embed_dim, height, width); codes where the model has ``lookup_from_codebook`` and
                ``force_not_quantize`` is set.
            force_not_quantize: take ``h`` as it is, already quantised.
            return_dict: accepted, and changes nothing: see ``mindone_vq.outputs``.
            shape: (batch, height, width, vq_embed_dim) of the codes, with ``lookup_from_codebook``.
        """
        if not force_not_quantize:
            quantized, commit_loss, _ = self.quantize(h.astype(self.dtype))
        else:
            if self.lookup_from_codebook:
                quantized = self.quantize.get_codebook_entry(h, shape)
            else:
                quantized = h.astype(self.dtype)
            commit_loss = ops.zeros((h.shape[0],), self.dtype)
        return self.decode_quantized(quantized), commit_loss

    def checkpointed_blocks(self) -> list[nn.Cell]:
        parts = (self.encoder.down_blocks, [self.encoder.mid_block, self.decoder.mid_block], self.decoder.up_blocks)
        return [block for part in parts for block in part]

    def decode_codes(self, codes: Tensor) -> Tensor:
        """codes: (batch, height, width) integers -> pictures (batch, out_channels, H, W) in [0, 1], float32."""
        quantized = self.quantize.embedding(codes).transpose(0, 3, 1, 2)  # (batch, channels, height, width)
        sample = self.decode_quantized(quantized).astype(ms.float32)
        return ops.clamp(sample / 2 + 0.5, 0.0, 1.0)

    def decode_quantized(self, quantized: Tensor) -> Tensor:
        """Codebook vectors (batch, vq_embed_dim, h, w) -> pictures (batch, out_channels, height, width) in [-1, 1]."""
        latents = self.post_quant_conv(quantized)
        return self.decoder(latents, quantized if self.spatial_norm else None)

    def construct(self, sample: Tensor, return_dict: bool = True) -> DecoderOutput:
        """Pictures (batch, in_channels, height, width) -> (reconstruction, commitment loss)."""
        return self.decode(self.encode(sample)[0])


class GumbelVQModel(VQModel):
    """A VQ-VAE with a ``GumbelQuantizer``: that of COCO, CUB and Conceptual Captions."""

    quantizer_class = GumbelQuantizer
