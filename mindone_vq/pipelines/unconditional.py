"""UnconditionalPipeline: pictures from nothing (the published FFHQ model)."""

from typing import Any, Callable, Optional, Union

import numpy as np
from mindspore import Tensor

from mindone_vq.diffusion.options import check_positive_integer
from mindone_vq.diffusion.samplers import Sampler
from mindone_vq.diffusion.sampling import Generators
from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.models.convolutional import UnconditionalTransformer2DModel
from mindone_vq.models.vq_model import VQModel
from mindone_vq.pipelines.base import DiffusionPipeline, ImagePipelineOutput, shared_arguments


class UnconditionalPipeline(DiffusionPipeline):
    """Unconditional generation with VQ-Diffusion (arXiv 2111.14822, section 5.4).

    Args:
        vqvae: decodes codes to pictures.
        transformer: the denoiser.
        scheduler: the reverse process.
    """

    component_classes = {
        "vqvae": ("diffusers", VQModel),
        "transformer": ("mindone_vq", UnconditionalTransformer2DModel),
        "scheduler": ("diffusers", VQDiffusionScheduler),
    }

    def __init__(
        self, vqvae: VQModel, transformer: UnconditionalTransformer2DModel, scheduler: VQDiffusionScheduler
    ) -> None:
        super().__init__(vqvae=vqvae, transformer=transformer, scheduler=scheduler)

    def placeholders(self, batch_size: int) -> list[dict[str, Any]]:
        return [{"batch_size": batch_size}]

    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: Optional[int] = None,
        truncation_rate: Optional[float] = None,
        generator: Generators = None,
        latents: Union[Tensor, np.ndarray, None] = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Optional[Callable[[int, int, Tensor], None]] = None,
        callback_steps: int = 1,
        callback_on_step_end: Optional[Callable[..., Optional[dict]]] = None,
        sampler: Union[str, Sampler, None] = None,
        spacing: Optional[str] = None,
        top_k: Optional[int] = None,
    ) -> ImagePipelineOutput:
        """Generates ``batch_size`` pictures; the rest as in ``VQDiffusionPipeline``.

        Raises:
            TypeError, ValueError: an argument is not what it must be; the message names it.
        """
        arguments = shared_arguments(locals())
        check_positive_integer(batch_size, "batch_size")
        call = self.prepare(batch_size, guidance_scale=1.0, **arguments)
        conditioning = self.denoiser.condition(np.zeros(batch_size))
        for _, x_t in self.sample(call, conditioning):
            codes = x_t
        return self.decode(codes, output_type)
