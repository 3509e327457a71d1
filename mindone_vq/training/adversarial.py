"""A network that tells pictures from reconstructions, patch by patch, and what it teaches the VQ-VAE.

pix2pix (arXiv 1611.07004, section 3.2.2) has the network, VQGAN (arXiv 2012.09841, section 3.1) trains a VQ-VAE by it.
"""

import dataclasses
import logging
import math
from typing import Any

import numpy as np
from mindspore import Tensor, nn, ops

from mindone_vq.nn.normalization import GroupNorm
from mindone_vq.training.codec_loss import to_model_range
from mindone_vq.training.devices import Devices
from mindone_vq.training.updates import Update, Updates

logger = logging.getLogger("mindone_vq")

PREFIX = "discriminator."  # of what a checkpoint holds of it, beside what belongs to the VQ-VAE
MOST_GROUPS = 8  # of a norm
MOST_WIDTH = 8  # channels of the widest layers, as a multiple of those of the first
INITIAL_SPREAD = 0.02  # standard deviation of initial weights (pix2pix, appendix 6.2)
BETAS = 0.5, 0.9  # of AdamW, as in VQGAN's code


def smallest_picture(layers: int) -> int:
    """Side of the smallest picture that a discriminator of so many layers takes."""
    return 3 * 2**layers  # the two convolutions of stride 1 take a pixel each, and one has to be left


class PatchDiscriminator(nn.Cell):
    """Convolutions that give every patch of a picture a logit, above 0 for what looks real.

    pix2pix normalises by batch. Group norm (arXiv 1803.08494) is used instead: it has no running means, so that the
    logit of a picture depends on that picture alone, in training and after.

    Args:
        layers: convolutions of stride 2.
        channels: of the first; each further one has twice as many, at most eight times.
    """

    def __init__(self, layers: int = 3, channels: int = 64) -> None:
        super().__init__()
        widths = [channels * min(2**i, MOST_WIDTH) for i in range(layers + 1)]
        parts = [_convolution(3, widths[0], 2), nn.LeakyReLU(0.2)]
        for i in range(1, layers + 1):
            norm = GroupNorm(math.gcd(MOST_GROUPS, widths[i]), widths[i])
            parts += [_convolution(widths[i - 1], widths[i], 2 if i < layers else 1), norm, nn.LeakyReLU(0.2)]
        self.main = nn.SequentialCell([*parts, _convolution(widths[-1], 1, 1)])

    def construct(self, pictures: Tensor) -> Tensor:
        """(batch, 3, height, width) in [-1, 1] -> (batch, 1, height / 2^layers - 2, width / 2^layers - 2)."""
        return self.main(pictures)


def _convolution(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 4, stride, pad_mode="pad", padding=1, has_bias=True)


def initialize(discriminator: PatchDiscriminator, rng: np.random.Generator) -> None:
    """Weights from scratch: normal, no bias."""
    for _, part in discriminator.cells_and_names():
        if isinstance(part, nn.Conv2d):
            part.weight.set_data(Tensor(rng.normal(0, INITIAL_SPREAD, part.weight.shape).astype(np.float32)))
            part.bias.set_data(Tensor(np.zeros(part.bias.shape, np.float32)))


class AdversarialTerm(nn.Cell):
    """How far the reconstructions are from being taken for pictures: a term of ``CodecLoss``."""

    def __init__(self, discriminator: PatchDiscriminator) -> None:
        super().__init__(auto_prefix=False)
        self.discriminator = discriminator

    def construct(self, pictures: Tensor, reconstructions: Tensor) -> Tensor:
        """Both (batch, 3, height, width) in [-1, 1] -> minus the mean logit of the reconstructions, a scalar."""
        return -self.discriminator(reconstructions).mean()


class DiscriminatorLoss(nn.Cell):
    """Hinge loss (arXiv 1705.02894, equation 3): logits of pictures above 1, of reconstructions below -1."""

    def __init__(self, discriminator: PatchDiscriminator) -> None:
        super().__init__(auto_prefix=False)
        self.discriminator = discriminator

    def construct(self, pictures: Tensor, reconstructions: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The loss of a batch.

        Args:
            pictures: (batch, 3, height, width) uint8.
            reconstructions: the same in [-1, 1], float32.

        Returns:
            The mean of both halves; and the mean logits of pictures and of reconstructions.
        """
        real = self.discriminator(to_model_range(pictures))
        made = self.discriminator(ops.stop_gradient(reconstructions))
        loss = 0.5 * (ops.relu(1.0 - real).mean() + ops.relu(1.0 + made).mean())
        return loss, (real.mean(), made.mean())


class DiscriminatorUpdates(Updates):
    """A discriminator and what changes it: as ``Updates`` does the VQ-VAE, with moments and a loss scale of its own.

    A gradient that is not finite changes nothing and does not end the run: where it persists, the VQ-VAE's ends it.

    Args:
        settings: of the run, see ``mindone_vq.training.codec_training.CodecSettings``.
        devices: who shares the batch.
    """

    def __init__(self, settings: Any, devices: Devices) -> None:
        self.discriminator = PatchDiscriminator(settings.discriminator_layers, settings.discriminator_channels)
        initialize(self.discriminator, np.random.default_rng((settings.seed, 3)))
        self.discriminator.update_parameters_name(PREFIX)
        settings = dataclasses.replace(settings, beta1=BETAS[0], beta2=BETAS[1], weight_decay=0.0, ema_decay=0.0)
        loss = DiscriminatorLoss(self.discriminator)
        super().__init__(loss, self.discriminator.trainable_params(), settings, devices)
        for parameter in self.parameters():
            if PREFIX not in parameter.name:  # the count of steps, the loss scale
                parameter.name = PREFIX + parameter.name

    def _check(self, step: int, update: Update, scale: float) -> None:
        finite = bool(np.isfinite(update.norm))
        if self.scaler is not None:
            self.scaler.adjust(Tensor(finite))
        if not finite and scale <= 1:
            message = "Step %d: the norm of the discriminator's gradient is %s. It was not changed by this step."
            logger.warning(message, step + 1, update.norm)
