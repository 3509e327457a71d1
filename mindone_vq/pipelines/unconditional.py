"""UnconditionalPipeline: pictures from nothing (the published FFHQ model)."""

from typing import Callable, Optional, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindone_vq.diffusion.samplers import Sampler
from mindone_vq.diffusion.sampling import Generators
from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.models.convolutional import UnconditionalTransformer2DModel
from mindone_vq.models.vq_model import VQModel
from mindone_vq.pipelines.base import DiffusionPipeline, ImagePipelineOutput
from mindone_vq.pipelines.checks import check_settings
from mindone_vq.pipelines.generation import Call, Condition

NO_GUIDANCE = 1.0


class UnconditionalPipeline(DiffusionPipeline):
    """Unconditional generation with VQ-Diffusion (arXiv 2111.14822, section 5.4).

    Args:
        vqvae: decodes codes to pictures.
        transformer: the denoiser.
        scheduler: the chain.
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

    def __call__(
        self,
        batch_size: int = 1,
        num_inference_steps: int = 100,
        truncation_rate: Optional[float] = None,
        generator: Generators = None,
        latents: Union[Tensor, np.ndarray, None] = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Optional[Callable[[int, int, Tensor], None]] = None,
        callback_steps: int = 1,
        callback_on_step_end: Optional[Callable[..., Optional[dict]]] = None,
        sampler: Union[str, Sampler] = "ancestral",
        spacing: str = "uniform",
        top_k: Optional[int] = None,
    ) -> ImagePipelineOutput:
        """Generates ``batch_size`` pictures; the rest as in ``VQDiffusionPipeline``.

        Raises:
            TypeError, ValueError: an argument is not what it must be; the message names it.
        """
        _, truncation_rate = self._settings(NO_GUIDANCE, truncation_rate)
        check_settings(NO_GUIDANCE, truncation_rate, batch_size, output_type, callback_steps, top_k, count="batch_size")
        call = Call(
            num_inference_steps,
            NO_GUIDANCE,
            truncation_rate,
            generator,
            latents,
            callback,
            callback_steps,
            callback_on_step_end,
            sampler,
            spacing,
            top_k,
        )
        start = call.start(self.scheduler, self.transformer, batch_size)
        return self._generate(Condition.of(np.zeros(batch_size), None, ms.float32), call, start, output_type)
