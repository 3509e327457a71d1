"""The base of the samplers, and of their cells."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from mindspore import Tensor, nn, ops

from mindone_vq.diffusion.sampling import draw, draw_uniforms
from mindone_vq.diffusion.schedule import TransitionSchedule

# Places in the step parameters of every ``UnmaskingStep``; a subclass goes on from the next.
MASKED_SHARE, STEPS_LEFT, NEXT = range(3)
NEVER = -1e30


class Sampler:
    """One way from x_t to x_s: parameters for each step, made on the host, and a cell inside the graph.

    Settings are the fields of a subclass; another value of one changes the step parameters and not the graph.

    Attributes:
        name: by which it is chosen.
        cell: class of the cell; it is made with the number of classes without the mask, and that of pixels.
        num_uniforms: random numbers that the cell takes for each pixel at each step.
        is_exact: whether it draws from p(x_s | x_t) itself; else it is a heuristic, and may take more steps than there
            are timesteps.
    """

    name: ClassVar[str]
    cell: ClassVar[type[nn.Cell]]
    num_uniforms: ClassVar[int] = 1
    is_exact: ClassVar[bool] = False

    def parameters(self, schedule: TransitionSchedule, t: float, s: float, steps_left: int) -> np.ndarray:
        """The step parameters of the step from t to s: float32, always of the same length.

        Args:
            schedule: of the forward process.
            t, s: timesteps, whole ones where ``is_exact``; -1 is the clean picture.
            steps_left: to the clean picture, this one among them.
        """
        raise NotImplementedError

    def draw_uniforms(self, generators: Sequence[np.random.Generator], batch: int, pixels: int) -> np.ndarray:
        """The random numbers of one step: (num_uniforms, batch, pixels) float32 in [0, 1)."""
        return np.stack([draw_uniforms(generators, batch, pixels) for _ in range(self.num_uniforms)])


class UnmaskingStep(nn.Cell):
    """Draws codes for the masked pixels and keeps some of them; a pixel that has a code keeps it.

    As many stay masked as the schedule says, but one at least gets its code where more are masked than there are steps
    left. A subclass says which come first.

    Args:
        classes: without the mask.
        pixels: of the grid of codes.
    """

    def __init__(self, classes: int, pixels: int) -> None:
        super().__init__()
        self.mask_class = classes

    def construct(self, p_x_0: Tensor, x_t: Tensor, parameters: Tensor, uniforms: Tensor, is_known: Tensor) -> Tensor:
        """One step.

        Args:
            p_x_0: (batch, pixels, classes) float32, of any sum.
            x_t: (batch, pixels) int32.
            parameters: from ``Sampler.parameters``.
            uniforms: (num_uniforms, batch, pixels) float32 in [0, 1).
            is_known: (batch, pixels) bool; such a pixel is not counted, and left as it is.

        Returns:
            x_s: (batch, pixels) int32.
        """
        drawn = draw(self.sharpened(p_x_0, parameters), ops.zeros_like(p_x_0[:, :, :1]), uniforms[0])
        is_unknown = ops.logical_not(is_known)
        is_mask = ops.logical_and(x_t == self.mask_class, is_unknown)
        masked = is_mask.astype(p_x_0.dtype)
        pixels = is_unknown.astype(p_x_0.dtype).sum(-1, keepdims=True)
        count = masked.sum(-1, keepdims=True)  # (batch, 1)
        at_least = (count >= parameters[STEPS_LEFT]).astype(count.dtype)
        unmasked = ops.maximum(count - ops.floor(pixels * parameters[MASKED_SHARE] + 0.5), at_least)
        ranks = ranked(self.scores(p_x_0, drawn, parameters, uniforms) + (1.0 - masked) * NEVER)
        return ops.where(ops.logical_and(is_mask, ranks < unmasked), drawn, x_t)

    def sharpened(self, p_x_0: Tensor, parameters: Tensor) -> Tensor:
        """The distribution that codes are drawn from."""
        return p_x_0

    def scores(self, p_x_0: Tensor, drawn: Tensor, parameters: Tensor, uniforms: Tensor) -> Tensor:
        """(batch, pixels) float32: pixels with the greatest get their codes first."""
        raise NotImplementedError


class UnmaskingSampler(Sampler):
    """A sampler whose cell is an ``UnmaskingStep``."""

    def parameters(self, schedule: TransitionSchedule, t: float, s: float, steps_left: int) -> np.ndarray:
        return np.array([schedule.masked_share(s), steps_left, *self.own_parameters(schedule, s)], np.float32)

    def own_parameters(self, schedule: TransitionSchedule, s: float) -> tuple[float, ...]:
        """Those beside ``MASKED_SHARE`` and ``STEPS_LEFT``."""
        return ()


def ranked(scores: Tensor) -> Tensor:
    """The place of each score among those of its picture, 0 for the greatest: (batch, pixels) float32."""
    _, order = ops.sort(scores, axis=-1, descending=True)
    _, places = ops.sort(order.astype(scores.dtype), axis=-1)
    return places.astype(scores.dtype)


def gumbel(uniforms: Tensor) -> Tensor:
    """Standard Gumbel noise from numbers in [0, 1)."""
    # log1p because MindSpore's logarithm on a CPU is 0 just below 1
    return -ops.log(-ops.log1p(ops.maximum(uniforms, 2.0**-23) - 1.0))
