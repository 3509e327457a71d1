"""The loss of text to image as one cell: captions, noisy codes and timesteps in, a number out."""

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindone_vq.models.null_text import LearnedClassifierFreeSamplingEmbeddings
from mindone_vq.models.transformer import Transformer2DModel
from mindone_vq.text.clip import CLIPTextModel
from mindone_vq.training.diffusion_loss import VariationalLoss


class TextToImageLoss(nn.Cell):
    """Text encoder, null text, transformer and variational loss.

    Args:
        text_encoder: its last hidden state, every token scaled to length 1, is what the transformer reads.
        null_text: what stands in place of a dropped caption (Improved VQ-Diffusion, arXiv 2205.16007, section 3.1);
            without a learned embedding it is the empty caption.
        transformer: the denoiser.
        loss: of its output.
        train_text_encoder: whether the gradient goes on into the text encoder.
    """

    def __init__(
        self,
        text_encoder: CLIPTextModel,
        null_text: LearnedClassifierFreeSamplingEmbeddings,
        transformer: Transformer2DModel,
        loss: VariationalLoss,
        train_text_encoder: bool,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.text_encoder, self.null_text, self.transformer, self.loss = text_encoder, null_text, transformer, loss
        self.train_text_encoder = train_text_encoder

    def condition(self, input_ids: Tensor, dropped: Tensor) -> Tensor:
        """What the transformer reads: (batch, length, hidden_size)."""
        hidden = self.text_encoder(input_ids)[0].astype(ms.float32)
        if not self.train_text_encoder:
            hidden = ops.stop_gradient(hidden)
        condition = hidden * ops.rsqrt(ops.square(hidden).sum(-1, keepdims=True))
        null: Optional[Tensor] = self.null_text.embeddings
        if null is not None:
            condition = ops.where(dropped.reshape(-1, 1, 1), null.astype(ms.float32).expand_dims(0), condition)
        return condition.astype(self.transformer.dtype)

    def construct(
        self, x_0: Tensor, x_t: Tensor, timestep: Tensor, probability: Tensor, input_ids: Tensor, dropped: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The loss of a batch.

        Args:
            x_0, x_t, timestep, probability: as ``VariationalLoss`` takes them.
            input_ids: captions, (batch, length) int32; where there is no learned null text, those of the empty
                caption for an image whose caption is dropped.
            dropped: whether the null text takes the place of the caption, (batch,) bool.

        Returns:
            As ``VariationalLoss``.
        """
        log_p_x_0 = self.transformer.log_p_x_0(x_t, self.condition(input_ids, dropped), timestep)
        return self.loss(log_p_x_0, x_0, x_t, timestep, probability)
