"""VQDiffusionPipeline: a prompt to pictures."""

import inspect
from collections.abc import Sequence
from typing import Any, Callable, Optional, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindone_vq.diffusion.guidance import GuidanceSchedule
from mindone_vq.diffusion.options import check_number, check_positive_integer
from mindone_vq.diffusion.samplers import Sampler
from mindone_vq.diffusion.sampling import Generators
from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.diffusion.truncation import truncate
from mindone_vq.models.null_text import LearnedClassifierFreeSamplingEmbeddings
from mindone_vq.models.transformer import Transformer2DModel
from mindone_vq.models.vq_model import VQModel
from mindone_vq.pipelines.base import DiffusionPipeline, ImagePipelineOutput, shared_arguments
from mindone_vq.pipelines.checks import check_embeddings, check_prompt, check_text_components, check_weights
from mindone_vq.pipelines.generation import Call
from mindone_vq.pipelines.graphs import TextEncoding
from mindone_vq.pipelines.texts import PromptsOrEmbeddings, Texts, one_each
from mindone_vq.text.clip import CLIPTextModel
from mindone_vq.text.foreign import adapt_text_encoder, adapt_tokenizer
from mindone_vq.text.tokenizer import CLIPTokenizer
from mindone_vq.weights.hub import check_options
from mindone_vq.weights.pretrained import logger
from mindone_vq.weights.store import to_float32

Prompt = Union[str, Sequence[str], Sequence[tuple[str, float]]]


class VQDiffusionPipeline(DiffusionPipeline):
    """Text to image with VQ-Diffusion (arXiv 2111.14822, arXiv 2205.16007).

    Args:
        vqvae: decodes codes to pictures.
        text_encoder: a ``CLIPTextModel``, or mindnlp's.
        tokenizer: a ``CLIPTokenizer``.
        transformer: the denoiser.
        scheduler: the chain.
        learned_classifier_free_sampling_embeddings: the null text of guidance, if it was learned.
    """

    adapted = ("text_encoder", "tokenizer")
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
        super().__init__(
            vqvae=vqvae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            transformer=transformer,
            scheduler=scheduler,
            learned_classifier_free_sampling_embeddings=learned_classifier_free_sampling_embeddings,
        )

    @classmethod
    def checked_components(cls, components: dict[str, Any]) -> dict[str, Any]:
        components = super().checked_components(components)
        encoder, tokenizer = adapt_text_encoder(components["text_encoder"]), adapt_tokenizer(components["tokenizer"])
        null = components["learned_classifier_free_sampling_embeddings"]
        check_text_components(encoder, components["transformer"], null)
        return {**components, "text_encoder": encoder, "tokenizer": tokenizer}

    def placeholders(self, batch_size: int) -> list[dict[str, Any]]:
        return [{"prompt": [""] * batch_size}]

    def __call__(
        self,
        prompt: Optional[Prompt] = None,
        num_inference_steps: Optional[int] = None,
        guidance_scale: Optional[float] = None,
        truncation_rate: Optional[float] = None,
        num_images_per_prompt: int = 1,
        generator: Generators = None,
        latents: Union[Tensor, np.ndarray, None] = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback: Optional[Callable[[int, int, Tensor], None]] = None,
        callback_steps: int = 1,
        callback_on_step_end: Optional[Callable[..., Optional[dict]]] = None,
        negative_prompt: Optional[Prompt] = None,
        prompt_embeds: Optional[Tensor] = None,
        negative_prompt_embeds: Optional[Tensor] = None,
        sampler: Union[str, Sampler, None] = None,
        spacing: Optional[str] = None,
        top_k: Optional[int] = None,
        guidance_schedule: GuidanceSchedule = "constant",
    ) -> ImagePipelineOutput:
        """Generates pictures.

        Args:
            prompt: what to show; a list gives a batch; a list of (prompt, weight) composes them into one picture, each
                with its share in guidance. Not given together with ``prompt_embeds``.
            num_inference_steps: 1 to the timesteps of training; fewer are spread over the whole range. Samplers other
                than "ancestral" may take more. None: the model's setting, by default 100.
            guidance_scale: of classifier-free guidance, which is on above 1. None: the model's setting, by default 5.
            truncation_rate: share of the probability kept at each pixel, (0, 1]; 1 keeps all. None: the model's
                setting, by default 1.
            num_images_per_prompt: pictures of each prompt, next to each other in the result.
            generator: a numpy or a MindSpore generator, or a seed; a list of them gives each picture its own. None:
                from numpy's global state, so ``mindspore.set_seed`` makes calls repeatable.
            latents: x_T to start from, (batch, pixels) integers; None: all masked, or a student's random start codes.
            output_type: "pil", "np" or "latent".
            return_dict: accepted, and changes nothing: see ``mindone_vq.outputs``.
            callback: called as ``callback(step, timestep, latents)`` every ``callback_steps`` steps.
            callback_on_step_end: called as ``f(pipe, step, timestep, {"latents": x})`` after each step; a dict
                that it returns with "latents" replaces x.
            negative_prompt: steer away from this instead of the null text.
            prompt_embeds, negative_prompt_embeds: from ``encode_prompt``: (batch, length, hidden_size), every
                token of length 1, one for each prompt.
            sampler: how a step is drawn: "ancestral", the reverse process itself; or the heuristics for few steps,
                "purity", "confidence" and "halton"; or an object of their classes in ``mindone_vq.diffusion.samplers``.
                None: the model's setting, by default "ancestral".
            spacing: of the timesteps: "uniform"; "masked", evenly in the share of masked pixels; or "cosine", "square"
                and "cubic", which unmask few pixels at first and many at the end. None: the model's setting, by default
                "uniform".
            top_k: number of likeliest classes kept at each pixel, instead of ``truncation_rate``.
            guidance_schedule: "constant"; "linear", from no guidance at the first step to ``guidance_scale`` at the
                last; or an interval (low, high) of t / T outside of which there is no guidance (1 is all masked).

        Returns:
            An ``ImagePipelineOutput``, which is also the tuple ``(images,)``.

        Raises:
            TypeError, ValueError: an argument is not what it must be; the message names it.
        """
        call, texts = self.prepare_text(**{name: value for name, value in locals().items() if name in DEFAULTS})
        text_embeddings, null_embeddings = self.encode_texts(texts)
        conditioning = self.denoiser.condition(text_embeddings, null_embeddings, texts.weights)
        for _, x_t in self.sample(call, conditioning):
            codes = x_t
        return self.decode(codes, output_type)

    def encode_prompt(
        self,
        prompt: Optional[Prompt] = None,
        num_images_per_prompt: int = 1,
        do_classifier_free_guidance: bool = True,
        negative_prompt: Optional[Prompt] = None,
        prompt_embeds: Optional[Tensor] = None,
        negative_prompt_embeds: Optional[Tensor] = None,
    ) -> tuple[Tensor, Optional[Tensor]]:
        """Embeddings of the prompts and of the null texts, for guidance (None without guidance).

        Returns:
            Both (prompts * num_images_per_prompt, length, hidden_size), tokens of length 1.
        """
        own, null = self._texts(
            prompt, do_classifier_free_guidance, negative_prompt, prompt_embeds, negative_prompt_embeds
        )
        embeddings, null_embeddings = self.encode_texts(Texts(own, null, num_images_per_prompt))
        return Tensor(embeddings), None if null is None else Tensor(null_embeddings)

    def prepare_text(self, **options: Any) -> tuple[Call, Texts]:
        """Checks the arguments of a call.

        Args:
            options: those of ``__call__``; missing ones have their defaults.

        Raises:
            TypeError, ValueError: an argument is not what it must be; the message names it.
        """
        check_options(options, DEFAULTS, f"{type(self).__name__}()")
        options = {**DEFAULTS, **options}
        images_each = options["num_images_per_prompt"]
        check_positive_integer(images_each, "num_images_per_prompt")
        guidance_scale = options["guidance_scale"]
        if guidance_scale is None:
            guidance_scale = self.default_settings["guidance_scale"]
        check_number(guidance_scale, "guidance_scale")
        prompt, weights = check_weights(options["prompt"], guidance_scale)
        embeds = options["prompt_embeds"], options["negative_prompt_embeds"]
        own, null = self._texts(prompt, guidance_scale > 1.0, options["negative_prompt"], *embeds)
        if weights and null is not None and len(null) > 1:
            raise ValueError(f"{len(null)} negative prompts given for prompts that make one picture: give one.")
        batch = images_each * (1 if weights else len(own))
        return self.prepare(batch, **shared_arguments(options)), Texts(own, null, images_each, tuple(weights))

    def encode_texts(self, texts: Texts) -> tuple[np.ndarray, Optional[np.ndarray]]:
        """Embeddings of the prompts and of the null texts, as ``encode_prompt`` gives them, as numpy arrays."""
        embeddings = self._embedded(texts.own).repeat(texts.images_each, axis=0)
        if texts.null is None:
            return embeddings, None
        null_embeddings = self._embedded(one_each(texts.null, len(texts.own)))
        return embeddings, null_embeddings.repeat(texts.images_each, axis=0)

    def _texts(
        self,
        prompt: Optional[Prompt],
        guided: bool,
        negative_prompt: Optional[Prompt],
        prompt_embeds: Optional[Tensor],
        negative_prompt_embeds: Optional[Tensor],
    ) -> tuple[PromptsOrEmbeddings, Optional[PromptsOrEmbeddings]]:
        """The prompts, and the null texts: one for all or one for each; None without guidance."""
        own, null = self._given(prompt, prompt_embeds, "prompt"), None
        if negative_prompt is not None or negative_prompt_embeds is not None:
            null = self._given(negative_prompt, negative_prompt_embeds, "negative_prompt")
            if len(null) not in (1, len(own)):
                raise ValueError(
                    f"{len(null)} negative prompts given for {len(own)} prompts: give one, or one for each."
                )
        if not guided:
            return own, None
        return own, self.null_texts() if null is None else null

    def null_texts(self) -> PromptsOrEmbeddings:
        """The default null text: the learned embeddings, or the empty prompt."""
        learned = self.learned_classifier_free_sampling_embeddings
        return to_float32(learned.embeddings)[None] if learned.learnable else [""]

    def _given(self, prompt: Optional[Prompt], embeds: Optional[Tensor], name: str) -> PromptsOrEmbeddings:
        prompts = check_prompt(prompt, embeds, name)
        if embeds is None:
            return prompts
        check_embeddings(embeds, self.text_encoder.hidden_size, f"{name}_embeds")
        return to_float32(embeds)

    @property
    def text_length(self) -> int:
        """Tokens in a prompt, padded or cut."""
        return min(self.tokenizer.model_max_length, self.text_encoder.max_length)

    def tokenize(self, texts: Sequence[str]) -> np.ndarray:
        """Token ids, padded and cut: (texts, text_length) int32."""
        options = dict(padding="max_length", truncation=True, max_length=self.text_length, return_tensors="np")
        return self.tokenizer(list(texts), **options).input_ids.astype(np.int32)

    def _embedded(self, texts: PromptsOrEmbeddings) -> np.ndarray:
        """Embeddings of the tokens of each text, every token scaled to length 1."""
        if isinstance(texts, np.ndarray):
            return texts
        for text in texts:
            ids = self.tokenizer.encode(text)
            if len(ids) > self.text_length:
                cut = self.tokenizer.decode(ids[self.text_length - 1 : -1])
                logger.warning("A prompt has %d tokens, %d fit; this was cut off: %r", len(ids), self.text_length, cut)
        ids = self.tokenize(texts)
        if isinstance(self.text_encoder, CLIPTextModel):
            return self._graphs.get(TextEncoding, self.text_encoder, name="text encoder")(Tensor(ids)).asnumpy()
        hidden = self.text_encoder(ids)  # mindnlp replaces methods of Tensor, so the rest is done by numpy
        return hidden / np.linalg.norm(hidden, axis=-1, keepdims=True)

    def truncate(self, log_p_x_0: Tensor, truncation_rate: float) -> Tensor:
        """Truncation sampling as the steps apply it; see ``mindone_vq.diffusion.truncation.truncate``.

        Args:
            log_p_x_0: (batch, classes, pixels).
            truncation_rate: share of the probability that is kept, (0, 1].

        Returns:
            The same shape, -70 for what is dropped.
        """
        log_p = log_p_x_0.astype(ms.float32).transpose(0, 2, 1)  # (batch, pixels, classes)
        return truncate(log_p, Tensor(truncation_rate, ms.float32)).transpose(0, 2, 1)


# What the arguments of a call are where they are left out.
DEFAULTS = {
    name: argument.default
    for name, argument in inspect.signature(VQDiffusionPipeline.__call__).parameters.items()
    if name != "self"
}
