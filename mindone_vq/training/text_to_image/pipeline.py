"""The pipeline that is trained: from scratch around a VQ-VAE, or an existing one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.models.null_text import LearnedClassifierFreeSamplingEmbeddings
from mindone_vq.models.transformer import Transformer2DModel
from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.text.clip import CLIPTextModel
from mindone_vq.text.vocabulary import train_tokenizer
from mindone_vq.training.networks import initialize
from mindone_vq.training.run_settings import RunSettings
from mindone_vq.training.settings import option
from mindone_vq.training.vqvae.model import load_vqvae

INITIAL_DEVIATION = 0.02  # of initial weights, as in the published code
TRANSFORMER = {
    "num_attention_heads": 8,
    "attention_head_dim": 32,
    "num_layers": 8,
    "attention_bias": True,
    "activation_fn": "geglu-approximate",
}
TEXT_ENCODER = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4, "num_attention_heads": 4}
TOKENIZER = {"vocab_size": 4096, "model_max_length": 77}


@dataclass(frozen=True)
class TextToImageSettings(RunSettings):
    """Settings of ``TextToImageTraining``."""

    output: Path = option(Path("outputs/text_to_image"), "the folder of the run, and of the pipeline it makes")
    vqvae: str = option("", "folder or hub id of the VQModel, or of a pipeline that has one")
    model_from: str = option("", "a pipeline folder or hub id to train further, instead of the three below")
    transformer: dict[str, Any] = option(TRANSFORMER, "arguments of Transformer2DModel")
    text_encoder: dict[str, Any] = option(TEXT_ENCODER, "arguments of CLIPTextModel")
    tokenizer: dict[str, Any] = option(TOKENIZER, "vocab_size and model_max_length of a vocabulary of the captions")
    num_timesteps: int = option(100, "of the diffusion, for a model from scratch", minimum=2)
    size: int = option(0, "side of the pictures, in pixels; 0: what the VQ-VAE was trained with", minimum=0)
    train_text_encoder: bool = option(True, "train the text encoder, too")
    learned_null_text: bool = option(True, "learn the embedding that stands for no caption")
    caption_dropout: float = option(0.1, "share of captions that are dropped, for guidance", minimum=0, maximum=0.99)
    mask_weight: float = option(1.0, "of masked latent pixels in the loss", minimum=0)
    auxiliary_weight: float = option(5e-4, "of the auxiliary loss", minimum=0)
    adaptive_auxiliary: bool = option(True, "let the auxiliary loss count more at early timesteps")
    importance_sampling: bool = option(True, "draw timesteps by their loss")
    masked_share: float = option(
        0.0, "share of a batch shown all masked, where only the caption says what to draw", minimum=0, maximum=0.9
    )
    recompute: bool = option(False, "gradient checkpointing: less memory, more time")
    preview_prompts: tuple[str, ...] = option((), "prompts of the previews; none: captions of the data")
    preview_steps: int = option(25, "denoising steps of the previews", minimum=1)
    preview_guidance_scale: float = option(2.0, "of the previews, and the model's default", minimum=1)
    preview_truncation_rate: float = option(0.86, "of the previews, and the model's default", above=0, maximum=1)
    beta2: float = option(0.96, "AdamW: decay of the mean squared gradient", above=0, maximum=0.999999)
    weight_decay: float = option(4.5e-2, "AdamW: decay of matrices", minimum=0)
    ema_decay: float = option(0.99, "of averaged weights, which are the result; 0: no average", minimum=0, maximum=1)
    ema_every: int = option(25, "steps between two updates of the average", minimum=1)

    @property
    def all_masked(self) -> int:
        """Pictures at the front of every batch that are shown all masked."""
        return round(self.masked_share * self.batch_size)

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.vqvae and not self.model_from:
            found.append("neither vqvae nor model_from is given: pictures need a VQ-VAE to become codes.")
        if self.masked_share and not 0 < self.all_masked < self.batch_size:
            found.append(
                f"masked_share is {self.masked_share}: that is {self.all_masked} pictures of a batch of "
                f"{self.batch_size}; it must be at least one, and not all."
            )
        if self.model_from and self.num_timesteps != 100:
            found.append("num_timesteps is that of the model which is trained further: leave it out.")
        return found


def make_pipeline(settings: TextToImageSettings, captions: Sequence[str]) -> VQDiffusionPipeline:
    """The pipeline to train.

    Raises:
        ValueError: the settings do not fit the networks, or a network does not fit the others.
    """
    given = {"vqvae": load_vqvae(settings.vqvae)} if settings.vqvae else {}
    if settings.model_from:
        pipe = VQDiffusionPipeline.from_pretrained(settings.model_from, **given)
        pipe = _with_learned_null_text(pipe) if settings.learned_null_text else pipe
    else:
        pipe = _from_scratch(settings, captions, **given)
    pipe.set_progress_bar_config(disable=True)
    height, width, downscale = pipe.transformer.height, pipe.transformer.width, pipe.vqvae.downscale
    if settings.size not in (0, height * downscale):
        raise ValueError(
            f"size is {settings.size}; the transformer has {height} x {width} codes, "
            f"which are {height * downscale} pixels."
        )
    return pipe


def _from_scratch(settings: TextToImageSettings, captions: Sequence[str], vqvae: Any) -> VQDiffusionPipeline:
    rng = np.random.default_rng((settings.seed, 0))
    classes = vqvae.quantize.num_embeddings + 1
    try:
        tokenizer = train_tokenizer(captions, **settings.tokenizer)
        text_encoder = CLIPTextModel(
            vocab_size=tokenizer.vocab_size,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            **settings.text_encoder,
        )
        hidden_size, length = text_encoder.config.hidden_size, text_encoder.max_length
        transformer = Transformer2DModel(
            cross_attention_dim=hidden_size,
            sample_size=(settings.size or vqvae.config.sample_size) // vqvae.downscale,
            num_vector_embeds=classes,
            num_embeds_ada_norm=settings.num_timesteps,
            **settings.transformer,
        )
    except TypeError as error:
        raise ValueError(f"transformer, text_encoder or tokenizer: {error}.") from error
    null_text = LearnedClassifierFreeSamplingEmbeddings(settings.learned_null_text, hidden_size, length)
    for cell in (text_encoder, transformer):
        initialize(cell, rng, lambda name, part: INITIAL_DEVIATION)
    if settings.learned_null_text:
        null = rng.normal(0, hidden_size**-0.5, (length, hidden_size))  # tokens of about length 1, as of captions
        null_text.embeddings.set_data(Tensor(null.astype(np.float32)))
    scheduler = VQDiffusionScheduler(classes, settings.num_timesteps)
    return VQDiffusionPipeline(vqvae, text_encoder, tokenizer, transformer, scheduler, null_text)


def _with_learned_null_text(pipe: VQDiffusionPipeline) -> VQDiffusionPipeline:
    """Where a pipeline has no learned null text, one that starts as the encoding of the empty caption."""
    if pipe.learned_classifier_free_sampling_embeddings.learnable:
        return pipe
    empty, _ = pipe.encode_prompt("", do_classifier_free_guidance=False)
    _, length, hidden_size = empty.shape
    null_text = LearnedClassifierFreeSamplingEmbeddings(True, hidden_size, length)
    null_text.embeddings.set_data(empty[0])
    return VQDiffusionPipeline.from_pipe(pipe, learned_classifier_free_sampling_embeddings=null_text)
