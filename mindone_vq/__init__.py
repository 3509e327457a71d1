"""VQ-Diffusion on MindSpore: text to image by diffusion over the codes of a VQ-VAE."""

__version__ = "0.1.0"

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mindone_vq.diffusion.scheduler import VQDiffusionScheduler, VQDiffusionSchedulerOutput
    from mindone_vq.models.convolutional import ClassTransformer2DModel, UnconditionalTransformer2DModel
    from mindone_vq.models.null_text import LearnedClassifierFreeSamplingEmbeddings
    from mindone_vq.models.transformer import Transformer2DModel
    from mindone_vq.models.vq_model import GumbelVQModel, VQEncoderOutput, VQModel
    from mindone_vq.nn.configuration import configure
    from mindone_vq.pipelines.base import DiffusionPipeline, ImagePipelineOutput
    from mindone_vq.pipelines.class_to_image import ClassToImagePipeline
    from mindone_vq.pipelines.editing import VQDiffusionImg2ImgPipeline, VQDiffusionInpaintPipeline
    from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
    from mindone_vq.pipelines.unconditional import UnconditionalPipeline
    from mindone_vq.text.clip import CLIPTextModel
    from mindone_vq.text.tokenizer import CLIPTokenizer

__all__ = [
    "CLIPTextModel",
    "CLIPTokenizer",
    "ClassToImagePipeline",
    "ClassTransformer2DModel",
    "DiffusionPipeline",
    "GumbelVQModel",
    "ImagePipelineOutput",
    "LearnedClassifierFreeSamplingEmbeddings",
    "Transformer2DModel",
    "UnconditionalPipeline",
    "UnconditionalTransformer2DModel",
    "VQDiffusionImg2ImgPipeline",
    "VQDiffusionInpaintPipeline",
    "VQDiffusionPipeline",
    "VQDiffusionScheduler",
    "VQDiffusionSchedulerOutput",
    "VQEncoderOutput",
    "VQModel",
    "configure",
]

# Imported when first asked for, as above: `python -m mindone_vq.doctor` has to run where MindSpore does not.
_MODULES = {
    "diffusion.scheduler": ("VQDiffusionScheduler", "VQDiffusionSchedulerOutput"),
    "models.convolutional": ("ClassTransformer2DModel", "UnconditionalTransformer2DModel"),
    "models.null_text": ("LearnedClassifierFreeSamplingEmbeddings",),
    "models.transformer": ("Transformer2DModel",),
    "models.vq_model": ("GumbelVQModel", "VQEncoderOutput", "VQModel"),
    "nn.configuration": ("configure",),
    "pipelines.base": ("DiffusionPipeline", "ImagePipelineOutput"),
    "pipelines.class_to_image": ("ClassToImagePipeline",),
    "pipelines.editing": ("VQDiffusionImg2ImgPipeline", "VQDiffusionInpaintPipeline"),
    "pipelines.text_to_image": ("VQDiffusionPipeline",),
    "pipelines.unconditional": ("UnconditionalPipeline",),
    "text.clip": ("CLIPTextModel",),
    "text.tokenizer": ("CLIPTokenizer",),
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
