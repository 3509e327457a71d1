"""ClassToImagePipeline: a class to pictures (the published ImageNet models)."""

from collections.abc import Sequence
from typing import Any, Callable, Optional, Union

import numpy as np
from mindspore import Tensor

from mindone_vq.diffusion.guidance import GuidanceSchedule
from mindone_vq.diffusion.options import check_positive_integer
from mindone_vq.diffusion.samplers import Sampler
from mindone_vq.diffusion.sampling import Generators
from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.models.convolutional import ClassTransformer2DModel
from mindone_vq.models.vq_model import VQModel
from mindone_vq.pipelines.base import DiffusionPipeline, ImagePipelineOutput, shared_arguments
from mindone_vq.pipelines.checks import check_class_labels


class ClassToImagePipeline(DiffusionPipeline):
    """Class-conditional generation with VQ-Diffusion (arXiv 2111.14822, section 5.4).

    Args:
        vqvae: decodes codes to pictures.
        transformer: the denoiser.
        scheduler: the reverse process.
    """

    component_classes = {
        "vqvae": ("diffusers", VQModel),
        "transformer": ("mindone_vq", ClassTransformer2DModel),
        "scheduler": ("diffusers", VQDiffusionScheduler),
    }

    def __init__(self, vqvae: VQModel, transformer: ClassTransformer2DModel, scheduler: VQDiffusionScheduler) -> None:
        super().__init__(vqvae=vqvae, transformer=transformer, scheduler=scheduler)

    def placeholders(self, batch_size: int) -> list[dict[str, Any]]:
        return [{"class_labels": [0] * batch_size}]

    def __call__(
        self,
        class_labels: Union[int, Sequence[int]],
        num_inference_steps: Optional[int] = None,
        guidance_scale: Optional[float] = None,
        truncation_rate: Optional[float] = None,
        num_images_per_class: int = 1,
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
        guidance_schedule: GuidanceSchedule = "constant",
    ) -> ImagePipelineOutput:
        """Generates pictures of ``class_labels``, a class or a list; the rest as in ``VQDiffusionPipeline``.

        Raises:
            TypeError, ValueError: an argument is not what it must be; the message names it.
        """
        arguments = shared_arguments(locals())
        check_positive_integer(num_images_per_class, "num_images_per_class")
        null_class = self.transformer.num_class_embeds - 1
        labels = check_class_labels(class_labels, null_class).repeat(num_images_per_class)
        call = self.prepare(len(labels), **arguments)
        null_labels = np.full_like(labels, null_class) if call.options.is_guided else None
        conditioning = self.denoiser.condition(labels, null_labels)
        for _, x_t in self.sample(call, conditioning):
            codes = x_t
        return self.decode(codes, output_type)
