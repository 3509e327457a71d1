"""VQ-Diffusion on MindSpore: text to image by diffusion over the codes of a VQ-VAE."""

__version__ = "0.1.0"

from mindone_vq.diffusion.scheduler import VQDiffusionScheduler, VQDiffusionSchedulerOutput
from mindone_vq.models.null_text import LearnedClassifierFreeSamplingEmbeddings
from mindone_vq.models.transformer import Transformer2DModel
from mindone_vq.models.vq_model import VQEncoderOutput, VQModel
from mindone_vq.pipelines.base import ImagePipelineOutput
from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.text.clip import CLIPTextModel
from mindone_vq.text.tokenizer import CLIPTokenizer

__all__ = [
    "CLIPTextModel",
    "CLIPTokenizer",
    "ImagePipelineOutput",
    "LearnedClassifierFreeSamplingEmbeddings",
    "Transformer2DModel",
    "VQDiffusionPipeline",
    "VQDiffusionScheduler",
    "VQDiffusionSchedulerOutput",
    "VQEncoderOutput",
    "VQModel",
]
