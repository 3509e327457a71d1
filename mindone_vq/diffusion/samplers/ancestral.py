"""The chain itself."""

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

    def construct(self, p_x_0: Tensor, x_t: Tensor, numbers: Tensor, uniforms: Tensor) -> Tensor:
        """As ``Reveal``; numbers: (9,), ``TransitionSchedule.jump``; uniforms: (batch, pixels)."""
        return draw(*posterior(p_x_0, x_t, numbers), uniforms)


@dataclass(frozen=True)
class Ancestral(Sampler):
    """The reverse process with the exact posterior of every jump (arXiv 2111.14822, equation 11; docs/math.md).

    With as many steps as timesteps it is the published chain. A code that was drawn can still be replaced later.
    """

    name = "ancestral"
    cell = AncestralStep
    is_exact = True

    def numbers(self, schedule: TransitionSchedule, t: float, s: float, left: int) -> np.ndarray:
        return schedule.jump(int(t), int(s))
