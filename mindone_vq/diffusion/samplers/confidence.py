"""Codes that are likely themselves stay."""

from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, ops

from mindone_vq.diffusion.samplers.sampler import Reveal, Sampler, gumbel, pace
from mindone_vq.diffusion.schedule import TransitionSchedule


class ConfidenceStep(Reveal):
    """The positions whose drawn code is the likeliest, give or take some noise."""

    def scores(self, p_x_0: Tensor, drawn: Tensor, numbers: Tensor, uniforms: Tensor) -> Tensor:
        """log p(drawn) + temperature * Gumbel noise."""
        p = ops.gather_elements(p_x_0, 2, drawn.expand_dims(-1))[:, :, 0]  # (batch, pixels)
        return ops.log(ops.maximum(p, 1e-30)) + numbers[2] * gumbel(uniforms[1])


@dataclass(frozen=True)
class Confidence(Sampler):
    """MaskGIT's sampling (arXiv 2202.04200, section 3.2): a heuristic.

    Args:
        temperature: of the noise at the start; it falls in proportion to what is still masked. More makes pictures
            more diverse and less sure; MaskGIT has 4.5 for ImageNet, the usual one here is the bundled model's best.
    """

    temperature: float = 0.5
    name = "confidence"
    cell = ConfidenceStep
    uniforms = 2

    def numbers(self, schedule: TransitionSchedule, t: float, s: float, left: int) -> np.ndarray:
        return np.array([*pace(schedule, s, left), self.temperature * schedule.masked_share(s)], np.float32)
