"""The end of a denoising step: from logits to x_s."""

from typing import Optional

from mindspore import Tensor, nn, ops

from mindone_vq.diffusion.truncation import probabilities, truncated
from mindone_vq.nn.device import sorts

UNKNOWN = -1  # what ``SampleStep`` is given for a pixel whose code is not known


class SampleStep(nn.Cell):
    """Truncation, the sampler's draw of x_s, and the known codes in their places.

    Args:
        sampler_cell: ``Sampler.cell``.
        truncation: one of ``truncation.TRUNCATIONS``; None: every class is kept.
        classes: without the mask.
        pixels: of the grid of codes.
    """

    def __init__(self, sampler_cell: type[nn.Cell], truncation: Optional[str], classes: int, pixels: int) -> None:
        super().__init__(auto_prefix=False)
        self.draw, self.truncation, self.sorts = sampler_cell(classes, pixels), truncation, sorts()

    def construct(
        self,
        logits: Tensor,
        x_t: Tensor,
        truncation_amount: Tensor,
        parameters: Tensor,
        uniforms: Tensor,
        known: Tensor,
    ) -> Tensor:
        """One draw.

        Args:
            logits: (batch, pixels, classes) float32.
            x_t: (batch, pixels) int32.
            truncation_amount: (1,) float32: the rate, or k.
            parameters: step parameters of the sampler.
            uniforms: (num_uniforms, batch, pixels) float32 in [0, 1).
            known: codes that x_s has whatever is drawn, (batch, pixels) int32; ``UNKNOWN`` for the other pixels.

        Returns:
            x_s: (batch, pixels) int32.
        """
        p_x_0 = truncated(probabilities(logits), self.truncation, truncation_amount, self.sorts)
        is_known = known > UNKNOWN
        return ops.where(is_known, known, self.draw(p_x_0, x_t, parameters, uniforms, is_known))
