"""All codes are drawn anew at every step, and masked again."""

from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, nn, ops

from mindone_vq.diffusion.samplers.sampler import Sampler
from mindone_vq.diffusion.sampling import draw
from mindone_vq.diffusion.schedule import TransitionSchedule


class RenoiseStep(nn.Cell):
    """Draws x_0, and masks each of its pixels with the probability that it is masked in x_s."""

    def __init__(self, classes: int, pixels: int) -> None:
        super().__init__()
        self.mask_class = classes

    def construct(self, p_x_0: Tensor, x_t: Tensor, parameters: Tensor, uniforms: Tensor, is_known: Tensor) -> Tensor:
        """As ``UnmaskingStep``, but known pixels are drawn too; parameters: the share of masks in x_s."""
        drawn = draw(p_x_0, ops.zeros_like(p_x_0[:, :, :1]), uniforms[0])
        return ops.where(uniforms[1] < parameters[0], ops.full_like(drawn, self.mask_class), drawn)


@dataclass(frozen=True)
class Renoise(Sampler):
    """Draws a whole picture at every step and adds the noise of x_s to it (arXiv 2303.01469, algorithm 1).

    A heuristic for students of a few steps, as consistency models are: where x_0 is nearly right already, every step
    can correct any of its codes.
    """

    name = "renoise"
    cell = RenoiseStep
    num_uniforms = 2

    def parameters(self, schedule: TransitionSchedule, t: float, s: float, steps_left: int) -> np.ndarray:
        return np.array([schedule.masked_share(s)], np.float32)
