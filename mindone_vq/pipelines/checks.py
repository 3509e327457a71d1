"""Checks of the components and arguments of a pipeline, made before any work."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindone_vq.diffusion.options import check_number
from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.models.denoiser import DiscreteDenoiser
from mindone_vq.models.null_text import LearnedClassifierFreeSamplingEmbeddings
from mindone_vq.models.transformer import Transformer2DModel
from mindone_vq.models.vq_model import VQModel

OUTPUT_TYPES = ("pil", "np", "latent")


def check_components(vqvae: VQModel, transformer: DiscreteDenoiser, scheduler: VQDiffusionScheduler) -> None:
    """The three must agree on the classes and the timesteps."""
    classes = transformer.num_vector_embeds
    if scheduler.num_embed != classes:
        raise ValueError(
            f"The scheduler counts {scheduler.num_embed} classes (num_vec_classes), the transformer {classes} "
            "(num_vector_embeds); both include the mask and must be equal."
        )
    codebook = vqvae.quantize.num_embeddings
    if codebook < classes - 1:
        raise ValueError(f"The transformer predicts {classes - 1} codes, the VQ-VAE has {codebook}.")
    if transformer.num_timesteps is not None and scheduler.num_train_timesteps > transformer.num_timesteps:
        raise ValueError(
            f"The scheduler has {scheduler.num_train_timesteps} timesteps (num_train_timesteps), the transformer "
            f"embeds {transformer.num_timesteps} (num_embeds_ada_norm)."
        )


def check_text_components(
    text_encoder: Any, transformer: Transformer2DModel, null: LearnedClassifierFreeSamplingEmbeddings
) -> None:
    """The text embeddings must be what the transformer takes, and the learned null text must be one of them."""
    size = transformer.cross_attention_dim
    if size is not None and size != text_encoder.hidden_size:
        raise ValueError(
            f"The text encoder gives embeddings of {text_encoder.hidden_size} (hidden_size), the transformer takes "
            f"{size} (cross_attention_dim)."
        )
    expected = (text_encoder.max_length, text_encoder.hidden_size)
    if null.learnable and null.embeddings.shape != expected:
        raise ValueError(f"The learned null text has shape {null.embeddings.shape}; the text encoder gives {expected}.")


def check_prompt(prompt: Any, embeddings: Optional[Tensor], name: str) -> list[str]:
    """The prompts as a list; empty where embeddings take their place. One of the two must be given."""
    if embeddings is not None:
        if prompt is not None:
            raise ValueError(f"give {name} or {name}_embeds, not both.")
        return []
    if prompt is None:
        raise ValueError(f"give {name} or {name}_embeds.")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    if not isinstance(prompts, (list, tuple)):
        raise TypeError(f"{name} is a string or a list of strings, given {type(prompt).__name__}.")
    if not prompts:
        raise ValueError(f"{name} is an empty list; give at least one string.")
    for index, entry in enumerate(prompts):
        if not isinstance(entry, str):
            raise TypeError(f"{name}[{index}] is {entry!r} of type {type(entry).__name__}; it must be a string.")
    return list(prompts)


def check_weights(prompt: Any, guidance_scale: float) -> tuple[Any, list[float]]:
    """Prompts to compose, [(prompt, weight), ...], as prompts and weights; other prompts as they are, without."""
    if not isinstance(prompt, (list, tuple)) or not any(isinstance(entry, (list, tuple)) for entry in prompt):
        return prompt, []
    for entry in prompt:
        if not isinstance(entry, (list, tuple)) or len(entry) != 2:
            raise TypeError(f"prompts with weights are [(prompt, weight), ...]; {entry!r} is none of these.")
        check_number(entry[1], f"the weight of {entry[0]!r}")
    if guidance_scale <= 1:
        raise ValueError(f"weights say how prompts share guidance, which is off: guidance_scale is {guidance_scale}.")
    return [text for text, _ in prompt], [float(weight) for _, weight in prompt]


def check_output_type(output_type: Any) -> None:
    """What a call gives back."""
    if output_type not in OUTPUT_TYPES:
        raise ValueError(f"output_type is {output_type!r}; it must be one of {', '.join(OUTPUT_TYPES)}.")


def check_class_labels(class_labels: Any, count: int) -> np.ndarray:
    """Classes of pictures as int32, (n,); there are ``count``."""
    labels = np.atleast_1d(np.asarray(class_labels))
    if labels.ndim != 1 or not labels.size or not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"class_labels is an integer or a list of integers, given {class_labels!r}.")
    if labels.min() < 0 or labels.max() >= count:
        raise ValueError(f"class_labels go from 0 to {count - 1}, given {labels.tolist()}.")
    return labels.astype(np.int32)


def check_embeddings(embeddings: Any, hidden_size: int, name: str) -> None:
    """Text embeddings given by the user."""
    if not isinstance(embeddings, Tensor) or embeddings.dtype not in (ms.float16, ms.float32, ms.bfloat16):
        raise TypeError(f"{name} is a float Tensor from encode_prompt, given {_describe(embeddings)}.")
    if embeddings.ndim != 3 or embeddings.shape[-1] != hidden_size:
        raise ValueError(f"{name} has shape {embeddings.shape}; it must be (prompts, length, {hidden_size}).")


def check_latents(latents: Union[Tensor, np.ndarray], shape: Sequence[int], classes: int) -> Tensor:
    """The codes to start from, int32."""
    array = latents.asnumpy() if isinstance(latents, Tensor) else np.asarray(latents)
    if not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"latents are codes, integers; given {_describe(latents)}.")
    if array.shape != tuple(shape):
        raise ValueError(f"latents have shape {array.shape}; it must be (pictures, pixels) = {tuple(shape)}.")
    if array.min() < 0 or array.max() >= classes:
        raise ValueError(
            f"latents go from {array.min()} to {array.max()}; codes go from 0 to {classes - 2}, "
            f"the mask is {classes - 1}."
        )
    return Tensor(array.astype(np.int32))


def _describe(value: Any) -> str:
    return f"{type(value).__name__} of {value.dtype}" if hasattr(value, "dtype") else type(value).__name__
