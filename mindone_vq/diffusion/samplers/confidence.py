"""Codes with a high probability are kept."""

from dataclasses import dataclass

from mindspore import Tensor, ops

from mindone_vq.diffusion.samplers.sampler import NEXT, UnmaskingSampler, UnmaskingStep, gumbel
from mindone_vq.diffusion.schedule import TransitionSchedule

TEMPERATURE = NEXT


class ConfidenceStep(UnmaskingStep):
    """First the pixels whose drawn code is the likeliest, up to some noise."""

    def scores(self, p_x_0: Tensor, drawn: Tensor, parameters: Tensor, uniforms: Tensor) -> Tensor:
        """log p(drawn) + temperature * Gumbel noise."""
        p = ops.gather_elements(p_x_0, 2, drawn.expand_dims(-1))[:, :, 0]  # (batch, pixels)
        return ops.log(ops.maximum(p, 1e-30)) + parameters[TEMPERATURE] * gumbel(uniforms[1])


@dataclass(frozen=True)
class Confidence(UnmaskingSampler):
    """MaskGIT's sampling (arXiv 2202.04200, section 3.2): a heuristic.

    Args:
        temperature: of the noise at the first step; it falls in proportion to the share that is still masked. More
            makes pictures more diverse and less sure. MaskGIT has 4.5 for ImageNet; the default is the best for the
            model of shapes.
    """

    temperature: float = 0.5
    name = "confidence"
    cell = ConfidenceStep
    num_uniforms = 2

    def own_parameters(self, schedule: TransitionSchedule, s: float) -> tuple[float, ...]:
        return (self.temperature * schedule.masked_share(s),)
