"""A network that tells pictures from reconstructions, patch by patch, and the losses of both sides.

pix2pix (arXiv 1611.07004, section 3.2.2) has the network, VQGAN (arXiv 2012.09841, section 3.1) trains a VQ-VAE by it.
"""

import dataclasses
import math

import numpy as np
from mindspore import Tensor, nn, ops

from mindone_vq.nn.normalization import GroupNorm
from mindone_vq.pictures import to_model_range
from mindone_vq.training.devices import Devices
from mindone_vq.training.networks import initialize
from mindone_vq.training.run_settings import RunSettings
from mindone_vq.training.update.updates import Updates

PREFIX = "discriminator."  # of its entries in a checkpoint, which has those of the VQ-VAE, too
MOST_GROUPS = 8  # of a norm
MOST_WIDTH = 8  # channels of the widest layers, as a multiple of those of the first
INITIAL_DEVIATION = 0.02  # of initial weights (pix2pix, appendix 6.2)
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
        parts = [_convolution(3, widths[0], 2), LeakyReLU()]
        for i in range(1, layers + 1):
            norm = GroupNorm(math.gcd(MOST_GROUPS, widths[i]), widths[i])
            parts += [_convolution(widths[i - 1], widths[i], 2 if i < layers else 1), norm, LeakyReLU()]
        self.main = nn.SequentialCell([*parts, _convolution(widths[-1], 1, 1)])
        self.update_parameters_name(PREFIX)

    def construct(self, pictures: Tensor) -> Tensor:
        """(batch, 3, height, width) in [-1, 1] -> (batch, 1, height / 2^layers - 2, width / 2^layers - 2)."""
        return self.main(pictures)


class LeakyReLU(nn.Cell):
    """max(x, 0.2 x). MindSpore's is made of that, for whose gradient Ascend has no kernel."""

    def construct(self, x: Tensor) -> Tensor:
        return ops.relu(x) - 0.2 * ops.relu(-x)


def _convolution(in_channels: int, out_channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 4, stride, pad_mode="pad", padding=1, has_bias=True)


class AdversarialTerm(nn.Cell):
    """How far the discriminator is from taking the reconstructions for pictures: a term of ``VQVAELoss``."""

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


def make_discriminator(layers: int, channels: int, seed: int) -> PatchDiscriminator:
    """A discriminator with the weights of a seed."""
    discriminator = PatchDiscriminator(layers, channels)
    initialize(discriminator, np.random.default_rng((seed, 3)), lambda name, part: INITIAL_DEVIATION)
    return discriminator


def discriminator_updates(discriminator: PatchDiscriminator, settings: RunSettings, devices: Devices) -> Updates:
    """What changes a discriminator, with moments and a loss scale of its own, in a run with these settings."""
    settings = dataclasses.replace(settings, beta1=BETAS[0], beta2=BETAS[1], weight_decay=0.0, ema_decay=0.0)
    return Updates(DiscriminatorLoss(discriminator), discriminator.trainable_params(), settings, devices, PREFIX)
