"""VQDiffusionPipeline: a prompt to pictures."""

from collections.abc import Sequence
from typing import Any, Callable, Optional, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindone_vq.diffusion.guidance import GuidanceSchedule, truncate
from mindone_vq.diffusion.samplers import Sampler
from mindone_vq.diffusion.sampling import Generators
from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.models.null_text import LearnedClassifierFreeSamplingEmbeddings
from mindone_vq.models.transformer import Transformer2DModel
from mindone_vq.models.vq_model import VQModel
from mindone_vq.pipelines.base import ImagePipelineOutput, Pipeline
from mindone_vq.pipelines.checks import (
    check_components,
    check_embeddings,
    check_prompt,
    check_settings,
    check_weights,
)
from mindone_vq.pipelines.generation import Call, Condition, Edit
from mindone_vq.pipelines.graphs import TextEncoding
from mindone_vq.text.clip import CLIPTextModel
from mindone_vq.text.foreign import adapt_text_encoder
from mindone_vq.text.tokenizer import CLIPTokenizer
from mindone_vq.weights.pretrained import logger
from mindone_vq.weights.store import to_float32

Prompt = Union[str, Sequence[str], Sequence[tuple[str, float]]]


class VQDiffusionPipeline(Pipeline):
    """Text to image with VQ-Diffusion (arXiv 2111.14822, arXiv 2205.16007).

    Args:
        vqvae: decodes codes to pictures.
        text_encoder: a ``CLIPTextModel``, or mindnlp's.
        tokenizer: a ``CLIPTokenizer``.
        transformer: the denoiser.
        scheduler: the chain.
        learned_classifier_free_sampling_embeddings: the null text of guidance, if it was learned.
    """

    component_classes = {
        "vqvae": ("diffusers", VQModel),
        "text_encoder": ("transformers", CLIPTextModel),
        "tokenizer": ("transformers", CLIPTokenizer),
        "transformer": ("diffusers", Transformer2DModel),
        "scheduler": ("diffusers", VQDiffusionScheduler),
        "learned_classifier_free_sampling_embeddings": ("diffusers", LearnedClassifierFreeSamplingEmbeddings),
    }

    def __init__(
        self,
        vqvae: VQModel,
        text_encoder: Any,
        tokenizer: CLIPTokenizer,
        transformer: Transformer2DModel,
        scheduler: VQDiffusionScheduler,
        learned_classifier_free_sampling_embeddings: LearnedClassifierFreeSamplingEmbeddings,
    ) -> None:
        check_components(vqvae, transformer, scheduler)
        super().__init__(
            vqvae=vqvae,
            text_encoder=adapt_text_encoder(text_encoder),
            tokenizer=tokenizer,
            transformer=transformer,
            scheduler=scheduler,
            learned_classifier_free_sampling_embeddings=learned_classifier_free_sampling_embeddings,
        )

    def __call__(
        self,
        prompt: Optional[Prompt] = None,
        num_inference_steps: int = 100,
        guidance_scale: Optional[float] = None,
        truncation_rate: Optional[float] = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Union[Tensor, np.ndarray, None] = None,
        output_type: str = "pil",
        return_dict: bool = False,
        callback: Optional[Callable[[int, int, Tensor], None]] = None,
        callback_steps: int = 1,
        callback_on_step_end: Optional[Callable[..., Optional[dict]]] = None,
        negative_prompt: Optional[Prompt] = None,
        prompt_embeds: Optional[Tensor] = None,
        negative_prompt_embeds: Optional[Tensor] = None,
        sampler: Union[str, Sampler] = "ancestral",
        spacing: str = "uniform",
        top_k: Optional[int] = None,
        guidance_schedule: GuidanceSchedule = "constant",
        edit: Optional[Edit] = None,
    ) -> Union[ImagePipelineOutput, tuple]:
        """Generates pictures.

        Args:
            prompt: what to show; a list gives a batch; a list of (prompt, weight) composes them into one picture, each
                with its share in guidance. Left out where ``prompt_embeds`` is given.
            num_inference_steps: 1 to the timesteps of training; fewer are spread over the whole range. Samplers other
                than "ancestral" may take more.
            guidance_scale: how far from the null text to go; above 1, guidance is on. None: the model's setting, 5
                where it has none.
            truncation_rate: share of the probability kept at each pixel, (0, 1]; 1 keeps all. None: the model's
                setting, 1 where it has none.
            num_images_per_prompt: pictures of each prompt, next to each other in the result.
            generator: a numpy generator or a seed; a list of them gives each picture its own.
            latents: x_T to start from, (batch, pixels) integers; None: all masked.
            output_type: "pil", "np" or "latent".
            return_dict: an ``ImagePipelineOutput`` instead of a tuple.
            callback: called as ``callback(step, timestep, latents)`` every ``callback_steps`` steps.
            callback_on_step_end: called as ``f(pipe, step, timestep, {"latents": x})`` after each step; a dict
                that it returns with "latents" replaces x.
            negative_prompt: steer away from this instead of the null text.
            prompt_embeds, negative_prompt_embeds: from ``encode_prompt``: (batch, length, hidden_size), every
                token of length 1, one for each prompt.
            sampler: how a step is drawn: "ancestral", the chain itself; or, heuristics for few steps, "purity",
                "confidence" or "halton"; or one of their classes in ``mindone_vq.diffusion.samplers``, with other
                settings.
            spacing: which timesteps: "uniform"; "masked", evenly in the share of masked pixels; or "cosine", "square",
                "cubic", few pixels first and many in the end.
            top_k: keep so many of the likeliest classes at each pixel, instead of ``truncation_rate``.
            guidance_schedule: "constant"; "linear": guidance grows from none to ``guidance_scale`` along the chain;
                (low, high): only where t / T lies between, 1 is all masked.
            edit: what is kept of pictures that are there already; the editing pipelines make it.

        Returns:
            ``(images,)`` or an ``ImagePipelineOutput``.

        Raises:
            TypeError, ValueError: an argument is not what it must be; the message names it.
        """
        guidance_scale, truncation_rate = self._settings(guidance_scale, truncation_rate)
        check_settings(guidance_scale, truncation_rate, num_images_per_prompt, output_type, callback_steps, top_k)
        prompt, weights = check_weights(prompt, guidance_scale)
        embeddings, null = self._encode_prompt(
            prompt,
            num_images_per_prompt,
            guidance_scale > 1.0,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
        )
        condition = Condition.of(embeddings, null, self.transformer.dtype, weights)
        call = Call(
            num_inference_steps,
            guidance_scale,
            truncation_rate,
            generator,
            latents,
            callback,
            callback_steps,
            callback_on_step_end,
            sampler,
            spacing,
            top_k,
            guidance_schedule,
        )
        return self._generate(condition, call, output_type, return_dict, edit)

    def encode_prompt(
        self,
        prompt: Optional[Prompt] = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: Optional[Prompt] = None,
        prompt_embeds: Optional[Tensor] = None,
        negative_prompt_embeds: Optional[Tensor] = None,
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Embeddings of the prompts and of what guidance steers away from (None without guidance).

        Returns:
            Both (prompts * num_images_per_prompt, length, hidden_size), tokens of length 1.
        """
        embeddings, null = self._encode_prompt(
            prompt,
            num_images_per_prompt,
            do_classifier_free_guidance,
            negative_prompt,
            prompt_embeds,
            negative_prompt_embeds,
        )
        return Tensor(embeddings), None if null is None else Tensor(null)

    # Text embeddings are small and made once a call: they stay numpy arrays, float32, until the steps need them.

    def _encode_prompt(
        self,
        prompt: Optional[Prompt],
        num_images_per_prompt: int,
        guided: bool,
        negative_prompt: Optional[Prompt],
        prompt_embeds: Optional[Tensor],
        negative_prompt_embeds: Optional[Tensor],
    ) -> tuple[np.ndarray, Optional[np.ndarray]]:
        embeddings = self._given_or_embedded(prompt, prompt_embeds, "prompt")
        count = len(embeddings)
        embeddings = embeddings.repeat(num_images_per_prompt, axis=0)
        if not guided:
            return embeddings, None
        null = self._null_embeddings(negative_prompt, negative_prompt_embeds)
        if len(null) not in (1, count):
            raise ValueError(f"{len(null)} negative prompts given for {count} prompts: give one, or one for each.")
        null = null.repeat(count // len(null), axis=0)
        return embeddings, null.repeat(num_images_per_prompt, axis=0)

    def _null_embeddings(self, negative_prompt: Optional[Prompt], given: Optional[Tensor]) -> np.ndarray:
        """What guidance steers away from: given, encoded, learned, or the empty prompt."""
        if given is not None or negative_prompt is not None:
            return self._given_or_embedded(negative_prompt, given, "negative_prompt")
        learned = self.learned_classifier_free_sampling_embeddings
        if learned.learnable:
            return to_float32(learned.embeddings)[None]
        return self._embed([""])

    def _given_or_embedded(self, prompt: Optional[Prompt], given: Optional[Tensor], name: str) -> np.ndarray:
        prompts = check_prompt(prompt, given, name)
        if given is None:
            return self._embed(prompts)
        check_embeddings(given, self.transformer.config.cross_attention_dim, f"{name}_embeds")
        return to_float32(given)

    def _embed(self, prompts: list[str]) -> np.ndarray:
        """Embeddings of the prompts' tokens, each scaled to length 1.

        That scaling is VQ-Diffusion's own step; CLIP itself normalises only its pooled output.
        """
        length = min(self.tokenizer.model_max_length, self.text_encoder.max_length)
        for prompt in prompts:
            ids = self.tokenizer.encode(prompt)
            if len(ids) > length:
                cut = self.tokenizer.decode(ids[length - 1 : -1])
                logger.warning("A prompt has %d tokens, %d fit; this was cut off: %r", len(ids), length, cut)
        ids = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="np")
        ids = ids.input_ids.astype(np.int32)
        if isinstance(self.text_encoder, CLIPTextModel):
            graph = self._graphs.get(TextEncoding, self.text_encoder, name="text encoder")
            hidden = graph(Tensor(ids)).asnumpy()
        else:
            hidden = self.text_encoder(ids)
        return hidden / np.linalg.norm(hidden, axis=-1, keepdims=True)

    def truncate(self, log_p_x_0: Tensor, truncation_rate: float) -> Tensor:
        """Truncation sampling as the steps apply it; see ``mindone_vq.diffusion.guidance.truncate``.

        Args:
            log_p_x_0: (batch, classes, pixels).
            truncation_rate: share of the probability that is kept, (0, 1].

        Returns:
            The same shape, -70 for what is dropped.
        """
        log_p = log_p_x_0.astype(ms.float32).transpose(0, 2, 1)  # (batch, pixels, classes)
        return truncate(log_p, Tensor(truncation_rate, ms.float32)).transpose(0, 2, 1)
