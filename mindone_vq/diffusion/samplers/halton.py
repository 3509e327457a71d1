"""Pixels in a fixed order, each far from those before."""

from dataclasses import dataclass

import numpy as np
from mindspore import Tensor, ops

from mindone_vq.diffusion.samplers.sampler import UnmaskingSampler, UnmaskingStep


class HaltonStep(UnmaskingStep):
    """The first masked pixels of the order."""

    def __init__(self, classes: int, pixels: int) -> None:
        super().__init__(classes, pixels)
        self.minus_places = Tensor(-halton_places(pixels)[None].astype(np.float32))  # (1, pixels)

    def scores(self, p_x_0: Tensor, drawn: Tensor, parameters: Tensor, uniforms: Tensor) -> Tensor:
        """Minus the place in the order."""
        return ops.tile(self.minus_places, (p_x_0.shape[0], 1))


@dataclass(frozen=True)
class Halton(UnmaskingSampler):
    """Codes far from each other, which depend on each other least, at the same step (arXiv 2503.17076): a heuristic."""

    name = "halton"
    cell = HaltonStep


def halton_places(pixels: int) -> np.ndarray:
    """The order in which the points of the Halton sequence of bases 2 and 3 first hit the pixels of a square, or a row.

    Returns:
        (pixels,) integers: the place of each pixel.
    """
    side = round(pixels**0.5)
    height, width = (side, side) if side * side == pixels else (1, pixels)
    order: dict[int, int] = {}
    index = 0
    while len(order) < pixels:
        index += 1
        row, column = int(radical_inverse(index, 2) * height), int(radical_inverse(index, 3) * width)
        order.setdefault(row * width + column, len(order))
    return np.array([order[pixel] for pixel in range(pixels)])


def radical_inverse(index: int, base: int) -> float:
    """The digits of ``index`` mirrored at the point: the Halton sequence in one dimension."""
    inverse, place = 0.0, 1.0
    while index:
        place /= base
        index, digit = divmod(index, base)
        inverse += digit * place
    return inverse
