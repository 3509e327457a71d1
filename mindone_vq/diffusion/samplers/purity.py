"""Pixels with a high purity first, and sharper."""

from dataclasses import dataclass

from mindspore import Tensor, ops

from mindone_vq.diffusion.samplers.sampler import NEXT, UnmaskingSampler, UnmaskingStep, gumbel
from mindone_vq.diffusion.schedule import CLEAN, TransitionSchedule

SHARPNESS = NEXT


class PurityStep(UnmaskingStep):
    """Pixels at random, without replacement, the probability of each proportional to its purity max p(x_0)."""

    def sharpened(self, p_x_0: Tensor, parameters: Tensor) -> Tensor:
        """p(x_0) to the power 1 + r purity."""
        exponent = 1.0 + parameters[SHARPNESS] * p_x_0.max(axis=-1, keepdims=True)
        log_p = ops.log(ops.maximum(p_x_0, 1e-30)) * exponent
        return ops.softmax(log_p, axis=-1) * (p_x_0 > 0).astype(p_x_0.dtype)

    def scores(self, p_x_0: Tensor, drawn: Tensor, parameters: Tensor, uniforms: Tensor) -> Tensor:
        """With Gumbel noise on their logarithms the greatest are such a draw (arXiv 1903.06059).

        The purity is that of p(x_0) as the network gives it, before it is sharpened.
        """
        return ops.log(p_x_0.max(axis=-1)) + gumbel(uniforms[1])


@dataclass(frozen=True)
class Purity(UnmaskingSampler):
    """Improved VQ-Diffusion's sampling (arXiv 2205.16007, section 4.2): a heuristic.

    Sharpening is equation 11 of the paper; Microsoft's code divides the purity by the picture's greatest there.

    Args:
        r: how much sharper a pure pixel is drawn; the last step is drawn as it is.
    """

    r: float = 1.0
    name = "purity"
    cell = PurityStep
    num_uniforms = 2

    def own_parameters(self, schedule: TransitionSchedule, s: float) -> tuple[float, ...]:
        return (0.0 if s == CLEAN else self.r,)
