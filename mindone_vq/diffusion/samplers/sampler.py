"""What the samplers have in common."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Union

import numpy as np
from mindspore import Tensor, nn, ops

from mindone_vq.diffusion.sampling import draw, draw_uniforms
from mindone_vq.diffusion.schedule import TransitionSchedule


class Sampler:
    """One way from x_t to x_s: numbers for each step, made on the host, and a cell inside the graph that takes them.

    Settings are the fields of a subclass; another value of one changes the numbers and not the graph.

    Attributes:
        name: what it is chosen by.
        cell: class of the cell; it is made with the number of classes without the mask, and that of pixels.
        uniforms: numbers in [0, 1) that the cell takes for each pixel at each step; 0: one, without an axis for it.
        is_exact: whether it draws from the chain's own distribution; else it is a heuristic, and may take more steps
            than there are timesteps.
    """

    name: ClassVar[str]
    cell: ClassVar[type[nn.Cell]]
    uniforms: ClassVar[int] = 0
    is_exact: ClassVar[bool] = False

    def numbers(self, schedule: TransitionSchedule, t: float, s: float, left: int) -> np.ndarray:
        """What the cell needs to know about the jump from t to s: float32, always of the same length.

        Args:
            schedule: of the forward process.
            t, s: timesteps, whole ones where ``is_exact``; -1 is the clean picture.
            left: steps to the clean picture, this one among them.
        """
        raise NotImplementedError

    def draw_uniforms(self, generators: Sequence[np.random.Generator], batch: int, pixels: int) -> np.ndarray:
        """What the cell takes at one step: (batch, pixels), or (uniforms, batch, pixels), float32 in [0, 1)."""
        if not self.uniforms:
            return draw_uniforms(generators, batch, pixels)
        return np.stack([draw_uniforms(generators, batch, pixels) for _ in range(self.uniforms)])


class Reveal(nn.Cell):
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

    def construct(self, p_x_0: Tensor, x_t: Tensor, numbers: Tensor, uniforms: Tensor) -> Tensor:
        """One step.

        Args:
            p_x_0: (batch, pixels, classes) float32, of any sum.
            x_t: (batch, pixels) int32.
            numbers: from ``Sampler.numbers``; the first are those of ``pace``.
            uniforms: (uniforms, batch, pixels) float32 in [0, 1). Where the first is ``LEAVE`` the pixel is not
                counted, and left as it is.

        Returns:
            x_s: (batch, pixels) int32.
        """
        is_own = uniforms[0] < LEAVE
        drawn = draw(
            self.sharpened(p_x_0, numbers), ops.zeros_like(p_x_0[:, :, :1]), ops.where(is_own, uniforms[0], 0.0)
        )
        is_mask = ops.logical_and(x_t == self.mask_class, is_own)
        masked = is_mask.astype(p_x_0.dtype)
        pixels = is_own.astype(p_x_0.dtype).sum(-1, keepdims=True)
        count = masked.sum(-1, keepdims=True)  # (batch, 1)
        at_least = (count >= numbers[1]).astype(count.dtype)
        revealed = ops.maximum(count - ops.floor(pixels * numbers[0] + 0.5), at_least)
        ranks = ranked(self.scores(p_x_0, drawn, numbers, uniforms) + (1.0 - masked) * NEVER)
        return ops.where(ops.logical_and(is_mask, ranks < revealed), drawn, x_t)

    def sharpened(self, p_x_0: Tensor, numbers: Tensor) -> Tensor:
        """The distribution that codes are drawn from."""
        return p_x_0

    def scores(self, p_x_0: Tensor, drawn: Tensor, numbers: Tensor, uniforms: Tensor) -> Tensor:
        """(batch, pixels) float32: the greatest are revealed first."""
        raise NotImplementedError


LEAVE = 1.0
NEVER = -1e30


def ranked(scores: Tensor) -> Tensor:
    """The place of each score among those of its picture, 0 for the greatest: (batch, pixels) float32."""
    _, order = ops.sort(scores, axis=-1, descending=True)
    _, places = ops.sort(order.astype(scores.dtype), axis=-1)
    return places.astype(scores.dtype)


def gumbel(uniforms: Tensor) -> Tensor:
    """Standard Gumbel noise from numbers in [0, 1)."""
    # log1p because MindSpore's logarithm on a CPU is 0 just below 1
    return -ops.log(-ops.log1p(ops.maximum(uniforms, 2.0**-23) - 1.0))


def pace(schedule: TransitionSchedule, s: float, left: int) -> tuple[float, float]:
    """What ``Reveal`` counts by: the share of a picture's pixels that is masked at s, and the steps left."""
    return schedule.masked_share(s), left


def make_sampler(sampler: Union[str, Sampler], known: Mapping[str, type[Sampler]]) -> Sampler:
    """The sampler itself, or one with its usual settings by its name.

    Raises:
        TypeError: something else.
        ValueError: a name that is not known.
    """
    if isinstance(sampler, Sampler):
        return sampler
    if not isinstance(sampler, str):
        raise TypeError(f"sampler is a name or a Sampler, given {sampler!r}.")
    if sampler not in known:
        raise ValueError(f"sampler is {sampler!r}; it must be one of {', '.join(known)}.")
    return known[sampler]()
