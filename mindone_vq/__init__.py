"""VQ-Diffusion on MindSpore: text to image by diffusion over the codes of a VQ-VAE."""

__version__ = "0.1.0"

from mindone_vq.diffusion.scheduler import VQDiffusionScheduler, VQDiffusionSchedulerOutput
from mindone_vq.models.convolutional import ClassTransformer2DModel, UnconditionalTransformer2DModel
from mindone_vq.models.null_text import LearnedClassifierFreeSamplingEmbeddings
from mindone_vq.models.transformer import Transformer2DModel
from mindone_vq.models.vq_model import GumbelVQModel, VQEncoderOutput, VQModel
from mindone_vq.pipelines.base import ImagePipelineOutput
from mindone_vq.pipelines.class_to_image import ClassToImagePipeline
from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.pipelines.unconditional import UnconditionalPipeline
from mindone_vq.text.clip import CLIPTextModel
from mindone_vq.text.tokenizer import CLIPTokenizer

__all__ = [
    "CLIPTextModel",
    "CLIPTokenizer",
    "ClassToImagePipeline",
    "ClassTransformer2DModel",
    "GumbelVQModel",
    "ImagePipelineOutput",
    "LearnedClassifierFreeSamplingEmbeddings",
    "Transformer2DModel",
    "UnconditionalPipeline",
    "UnconditionalTransformer2DModel",
    "VQDiffusionPipeline",
    "VQDiffusionScheduler",
    "VQDiffusionSchedulerOutput",
    "VQEncoderOutput",
    "VQModel",
]
