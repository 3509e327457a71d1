"""Noise that stays what it is until its pixel gets a code."""

from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, nn, ops

from mindone_vq.diffusion.samplers.sampler import Sampler
from mindone_vq.diffusion.sampling import draw
from mindone_vq.diffusion.schedule import TransitionSchedule


class FlowStep(nn.Cell):
    """Gives some pixels, at random, codes drawn from p(x_0); the others stay as they are."""

    def __init__(self, classes: int, pixels: int) -> None:
        super().__init__()

    def construct(self, p_x_0: Tensor, x_t: Tensor, parameters: Tensor, uniforms: Tensor, is_known: Tensor) -> Tensor:
        """As ``UnmaskingStep``, but known pixels are drawn too; parameters: the chance of a new code."""
        drawn = draw(p_x_0, ops.zeros_like(p_x_0[:, :, :1]), uniforms[0])
        return ops.where(uniforms[1] < parameters[0], drawn, x_t)


@dataclass(frozen=True)
class Flow(Sampler):
    """The reverse process of a model whose x_t is, pixel by pixel, x_0 or x_T (arXiv 2407.15595).

    A pixel of x_t is that of x_0 with probability A_t, else that of x_T, which does not change on the way: so what
    the start says of the picture is seen by every step. Students of a few steps are trained like this.
    """

    name = "flow"
    cell = FlowStep
    num_uniforms = 2
    is_exact = True

    def parameters(self, schedule: TransitionSchedule, t: float, s: float, steps_left: int) -> np.ndarray:
        keep_t, keep_s = schedule.cumulative(int(t))[0], schedule.cumulative(int(s))[0]
        return np.array([(keep_s - keep_t) / (1 - keep_t)], np.float32)
