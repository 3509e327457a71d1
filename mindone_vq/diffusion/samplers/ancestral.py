"""The reverse process itself."""

from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, nn

from mindone_vq.diffusion.posterior import posterior
from mindone_vq.diffusion.samplers.sampler import Sampler
from mindone_vq.diffusion.sampling import draw
from mindone_vq.diffusion.schedule import TransitionSchedule


class AncestralStep(nn.Cell):
    """Draws x_s from p(x_s | x_t)."""

    def __init__(self, classes: int, pixels: int) -> None:
        super().__init__()

    def construct(self, p_x_0: Tensor, x_t: Tensor, parameters: Tensor, uniforms: Tensor, is_known: Tensor) -> Tensor:
        """As ``UnmaskingStep``, but known pixels are drawn too; parameters: ``transition_coefficients``."""
        return draw(*posterior(p_x_0, x_t, parameters), uniforms[0])


@dataclass(frozen=True)
class Ancestral(Sampler):
    """The reverse process with the exact posterior of every step (arXiv 2111.14822, equation 11; docs/math.md).

    With as many steps as timesteps it is the published one. A code that was drawn can still be replaced later.
    """

    name = "ancestral"
    cell = AncestralStep
    is_exact = True

    def parameters(self, schedule: TransitionSchedule, t: float, s: float, steps_left: int) -> np.ndarray:
        return schedule.transition_coefficients(int(t), int(s))
