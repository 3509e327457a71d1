"""The loss of the VQ-VAE: reconstruction, and the distance between latents and codebook."""

from collections.abc import Sequence

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindone_vq.models.vq_model import VQModel
from mindone_vq.pictures import to_model_range


class VQVAELoss(nn.Cell):
    """L1 and L2 between picture and reconstruction, and the codebook's terms (VQ-VAE, arXiv 1711.00937, equation 3).

    Args:
        model: what is trained.
        l1_weight, l2_weight: of mean absolute and mean squared error; pictures are in [-1, 1].
        commitment_weight: of the term that draws latents to their code.
        codebook_weight: of the term that draws codes to their latents; 0: the codebook learns otherwise.
        terms: further ones; cells that make a scalar of pictures and reconstructions, both in [-1, 1].
        report_reconstructions: whether they are among what is reported.
    """

    def __init__(
        self,
        model: VQModel,
        l1_weight: float = 1.0,
        l2_weight: float = 1.0,
        commitment_weight: float = 0.25,
        codebook_weight: float = 1.0,
        terms: Sequence[nn.Cell] = (),
        report_reconstructions: bool = False,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.model = model
        self.l1_weight, self.l2_weight = l1_weight, l2_weight
        self.commitment_weight, self.codebook_weight = commitment_weight, codebook_weight
        self.terms = nn.CellList(list(terms), auto_prefix=False)
        self.report_reconstructions = report_reconstructions

    def construct(self, pictures: Tensor, quantized: Tensor, *weights: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss of a batch.

        Args:
            pictures: (batch, channels, height, width) uint8.
            quantized: scalar; 1: the decoder reads codes; 0: it reads the latents, for a start without a codebook.
            weights: of ``terms``, a scalar for each.

        Returns:
            The loss; and L1, L2, commitment, each of ``terms`` (scalars), the latents (pixels, vq_embed_dim), their
            codes (pixels,), and if wanted the reconstructions (batch, channels, height, width) in [-1, 1].
        """
        pictures = to_model_range(pictures)
        grid = self.model.encode(pictures)[0].astype(ms.float32)  # (batch, channels, h, w)
        batch, channels, height, width = grid.shape
        latents = grid.transpose(0, 2, 3, 1).reshape(-1, channels)  # (pixels, channels)
        codes = self.model.quantize.nearest(ops.stop_gradient(latents))
        entries = ops.gather(self.model.quantize.embedding.embedding_table, codes, 0).astype(ms.float32)
        commitment = ops.square(latents - ops.stop_gradient(entries)).mean() * quantized
        decoded = latents + ops.stop_gradient(entries - latents) * quantized  # straight through (section 3.2)
        decoded = decoded.reshape(batch, height, width, channels).transpose(0, 3, 1, 2)
        reconstructions = self.model.decode_quantized(decoded).astype(ms.float32)
        difference = reconstructions - pictures
        l1, l2 = ops.abs(difference).mean(), ops.square(difference).mean()
        loss = self.l1_weight * l1 + self.l2_weight * l2 + self.commitment_weight * commitment
        if self.codebook_weight > 0:
            to_latents = ops.square(ops.stop_gradient(latents) - entries).mean() * quantized
            loss = loss + self.codebook_weight * to_latents
        values = ()
        for i in range(len(weights)):
            value = self.terms[i](pictures, reconstructions)
            loss, values = loss + weights[i] * value, (*values, value)
        report = (l1, l2, commitment, *values, ops.stop_gradient(latents), codes)
        return loss, (*report, ops.stop_gradient(reconstructions)) if self.report_reconstructions else report
