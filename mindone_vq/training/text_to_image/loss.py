"""The loss of text to image: the variational bound and an auxiliary term, from captions and noisy codes."""

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindone_vq.diffusion.posterior import log_posterior
from mindone_vq.diffusion.schedule import CLEAN, ONE_HOT_FLOOR, TransitionSchedule
from mindone_vq.models.null_text import LearnedClassifierFreeSamplingEmbeddings
from mindone_vq.models.transformer import Transformer2DModel
from mindone_vq.nn.normalization import unit_length
from mindone_vq.text.clip import CLIPTextModel


class VariationalLoss(nn.Cell):
    """The bound of VQ-Diffusion (arXiv 2111.14822, equations 2 and 12) for one timestep of each image.

    For an image at timestep t it is KL(q(x_{t-1} | x_t, x_0) || p(x_{t-1} | x_t)), summed over the latent pixels; at
    t = 0 that is -log p(x_0 | x_1). Added to it is ``auxiliary_weight`` times KL(x_0 || p(x_0 | x_t)), which is
    -log p(x_0). Both are divided by the probability with which t was drawn, so that their mean estimates the sum over
    all timesteps.

    Args:
        schedule: the transition probabilities.
        mask_weight: of a latent pixel that is masked in x_t; one that is not has weight 1.
        auxiliary_weight: of the auxiliary term.
        adaptive: multiply the auxiliary term by 2 - t / T, so that it counts more at early timesteps.
    """

    def __init__(
        self,
        schedule: TransitionSchedule,
        mask_weight: float = 1.0,
        auxiliary_weight: float = 5e-4,
        adaptive: bool = True,
    ) -> None:
        super().__init__()
        self.classes, self.num_timesteps = schedule.num_classes, len(schedule.keep)
        self.mask_weight, self.auxiliary_weight, self.adaptive = mask_weight, auxiliary_weight, adaptive
        # s = t - 1, and the clean picture is what comes before t = 0
        coefficients = [schedule.transition_coefficients(t, max(t - 1, CLEAN)) for t in range(self.num_timesteps)]
        self.coefficients = Tensor(np.stack(coefficients))
        self.floor = Tensor(np.log(ONE_HOT_FLOOR), ms.float32)

    def construct(
        self, log_p_x_0: Tensor, x_0: Tensor, x_t: Tensor, timestep: Tensor, probability: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The loss of a batch.

        Args:
            log_p_x_0: what the network predicts, (batch, pixels, classes) float32.
            x_0, x_t: (batch, pixels) int32; the mask is class ``classes``.
            timestep: (batch,) int32.
            probability: with which each timestep was drawn, (batch,) float32.

        Returns:
            The loss in nats, a mean over images and pixels; and for each image its two terms before they are
            divided by the probability, summed over pixels, (batch,).
        """
        coefficients = ops.gather(self.coefficients, timestep, 0)  # (batch, 9)
        clean = ops.one_hot(x_0, self.classes, Tensor(0.0, ms.float32), self.floor)
        log_q = ops.stop_gradient(log_posterior(clean, x_t, coefficients))  # (batch, pixels, classes + 1)
        log_p = log_posterior(log_p_x_0, x_t, coefficients)
        q = ops.stop_gradient(ops.exp(log_q))
        divergence = (q * (log_q - log_p)).sum(-1)  # (batch, pixels)
        weights = ops.where(x_t == self.classes, self.mask_weight, 1.0)
        is_first = (timestep == 0).astype(ms.float32)
        kl = chosen(is_first, divergence.sum(-1), (divergence * weights).sum(-1))
        log_likelihood = log_likelihoods(log_p_x_0, x_0)
        auxiliary = chosen(is_first, kl, (-log_likelihood * weights).sum(-1))
        factor = Tensor(self.auxiliary_weight, ms.float32)
        if self.adaptive:
            factor = factor * (2.0 - timestep.astype(ms.float32) / self.num_timesteps)
        loss = ((kl + factor * auxiliary) / probability).mean() / x_0.shape[1]
        return loss, (ops.stop_gradient(kl), ops.stop_gradient(auxiliary))


class LikelihoodLoss(nn.Cell):
    """-log p(x_0 | x_t), a mean over the latent pixels: the loss of flows (arXiv 2407.15595)."""

    def construct(
        self, log_p_x_0: Tensor, x_0: Tensor, x_t: Tensor, timestep: Tensor, probability: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """As ``VariationalLoss``; for each image its loss, and the share of pixels where x_0 is the likeliest class."""
        log_likelihood = log_likelihoods(log_p_x_0, x_0)
        hits = (ops.stop_gradient(log_likelihood) >= ops.stop_gradient(log_p_x_0).max(-1)).astype(ms.float32)
        nats = -log_likelihood.mean(-1)
        return nats.mean(), (ops.stop_gradient(nats), hits.mean(-1))


def log_likelihoods(log_p_x_0: Tensor, x_0: Tensor) -> Tensor:
    """log p(x_0) of each pixel: (batch, pixels, classes) and (batch, pixels) -> (batch, pixels)."""
    return ops.gather_elements(log_p_x_0, 2, x_0.expand_dims(-1)).squeeze(-1)


def chosen(first: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a`` where ``first`` is 1, else ``b``; both finite. Ascend has no kernel for the gradient of ``where``."""
    return first * a + (1.0 - first) * b


class TextToImageLoss(nn.Cell):
    """Text encoder, null text, transformer and variational loss.

    Args:
        text_encoder: the transformer reads its last hidden state, every token scaled to length 1.
        null_text: replaces a dropped caption (Improved VQ-Diffusion, arXiv 2205.16007, section 3.1); without a learned
            embedding that is the empty caption.
        transformer: the denoiser.
        loss: of its output.
        train_text_encoder: whether the gradient continues into the text encoder.
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
        hidden = self.text_encoder(input_ids)[0]
        if not self.train_text_encoder:
            hidden = ops.stop_gradient(hidden)
        condition, null = unit_length(hidden, -1), self.null_text.embeddings
        if null is not None:
            is_dropped = dropped.astype(ms.float32).reshape(-1, 1, 1)
            condition = chosen(is_dropped, null.astype(ms.float32).expand_dims(0), condition)
        return condition.astype(self.transformer.dtype)

    def construct(
        self, x_0: Tensor, x_t: Tensor, timestep: Tensor, probability: Tensor, input_ids: Tensor, dropped: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The loss of a batch.

        Args:
            x_0, x_t, timestep, probability: as ``VariationalLoss`` takes them.
            input_ids: captions, (batch, length) int32; where there is no learned null text, those of the empty
                caption for an image whose caption is dropped.
            dropped: whether the null text replaces the caption, (batch,) bool.

        Returns:
            As ``VariationalLoss``.
        """
        log_p_x_0 = self.transformer.log_p_x_0(x_t, self.condition(input_ids, dropped), timestep)
        return self.loss(log_p_x_0, x_0, x_t, timestep, probability)
