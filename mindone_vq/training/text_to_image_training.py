"""Training the denoiser, and if wanted the text encoder, on captioned pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter, Tensor, nn
from PIL import Image

from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.models.null_text import LearnedClassifierFreeSamplingEmbeddings
from mindone_vq.models.transformer import Transformer2DModel
from mindone_vq.pictures import grid
from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.text.clip import CLIPTextModel
from mindone_vq.text.vocabulary import train_tokenizer
from mindone_vq.training.batches import Order
from mindone_vq.training.codec_training import load_codec
from mindone_vq.training.codes import cached_codes
from mindone_vq.training.data import open_dataset
from mindone_vq.training.devices import Devices
from mindone_vq.training.diffusion_loss import VariationalLoss
from mindone_vq.training.run import RunSettings, Training
from mindone_vq.training.settings import option
from mindone_vq.training.text_to_image_loss import TextToImageLoss
from mindone_vq.training.timesteps import TimestepSampler
from mindone_vq.training.updates import Updates

BUCKETS = 10  # of timesteps, for the log
INITIAL_SPREAD = 0.02  # standard deviation of initial weights, as in the published code
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
    recompute: bool = option(False, "gradient checkpointing: less memory, more time")
    preview_prompts: tuple[str, ...] = option((), "prompts of the previews [captions of the data]")
    preview_steps: int = option(25, "denoising steps of the previews", minimum=1)
    preview_guidance_scale: float = option(2.0, "of the previews, and the model's default", minimum=1)
    preview_truncation_rate: float = option(0.86, "of the previews, and the model's default", above=0, maximum=1)
    beta2: float = option(0.96, "AdamW: decay of the mean squared gradient", above=0, maximum=0.999999)
    weight_decay: float = option(4.5e-2, "AdamW: decay of matrices", minimum=0)
    ema_decay: float = option(0.99, "of averaged weights, which are the result; 0: no average", minimum=0, maximum=1)
    ema_every: int = option(25, "steps between two updates of the average", minimum=1)

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.vqvae and not self.model_from:
            found.append("neither vqvae nor model_from is given: pictures need a VQ-VAE to become codes.")
        if self.model_from and self.num_timesteps != 100:
            found.append("num_timesteps is that of the model which is trained further: leave it out.")
        return found


def initialize(cell: nn.Cell, rng: np.random.Generator) -> None:
    """Weights of a network from scratch: normal in linear layers and embeddings, no bias."""
    for _, part in cell.cells_and_names():
        if isinstance(part, nn.Dense):
            part.weight.set_data(Tensor(rng.normal(0, INITIAL_SPREAD, part.weight.shape).astype(np.float32)))
            if part.has_bias:
                part.bias.set_data(Tensor(np.zeros(part.bias.shape, np.float32)))
        elif isinstance(part, nn.Embedding):
            table = rng.normal(0, INITIAL_SPREAD, part.embedding_table.shape).astype(np.float32)
            part.embedding_table.set_data(Tensor(table))


def make_pipeline(settings: TextToImageSettings, captions: Sequence[str]) -> VQDiffusionPipeline:
    """The pipeline to train: one that is there already, or one from scratch around a VQ-VAE."""
    given = {"vqvae": load_codec(settings.vqvae)} if settings.vqvae else {}
    if settings.model_from:
        pipe = VQDiffusionPipeline.from_pretrained(settings.model_from, **given)
        return _with_learned_null_text(pipe) if settings.learned_null_text else pipe
    rng = np.random.default_rng((settings.seed, 0))
    vqvae = given["vqvae"]
    size = settings.size or vqvae.config.sample_size
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
            sample_size=size // vqvae.downscale,
            num_vector_embeds=classes,
            num_embeds_ada_norm=settings.num_timesteps,
            **settings.transformer,
        )
    except TypeError as error:
        raise ValueError(f"transformer, text_encoder or tokenizer: {error}.") from error
    null_text = LearnedClassifierFreeSamplingEmbeddings(settings.learned_null_text, hidden_size, length)
    for cell in (text_encoder, transformer):
        initialize(cell, rng)
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


class TextToImageTraining(Training):
    """Trains VQ-Diffusion (arXiv 2111.14822, section 4; arXiv 2205.16007, section 3.1) on captioned pictures."""

    def __init__(self, settings: TextToImageSettings, devices: Devices) -> None:
        super().__init__(settings, devices)
        self.dataset = open_dataset(settings.data, captions_required=True)
        self.pipe = pipe = make_pipeline(settings, self.dataset.captions)
        pipe.set_progress_bar_config(disable=True)
        size = settings.size or pipe.transformer.height * pipe.vqvae.downscale
        if size != pipe.transformer.height * pipe.vqvae.downscale:
            raise ValueError(
                f"size is {settings.size}; the transformer has {pipe.transformer.height} x {pipe.transformer.width} "
                f"codes, which are {pipe.transformer.height * pipe.vqvae.downscale} pixels."
            )
        folder = settings.output / "cache"
        if not devices.first:
            devices.wait()  # the first encodes, the others read
        self.codes, kept = cached_codes(self.dataset, pipe.vqvae, size, folder, show=devices.first)
        if devices.first:
            devices.wait()
        captions = [self.dataset.captions[i] for i in kept]
        self.ids, self.empty_ids = self._tokenize(captions), self._tokenize([""])[0]
        self.prompts = list(settings.preview_prompts) or list(dict.fromkeys(captions))[:4]
        self.order = Order(len(self.codes), settings.batch_size, settings.seed)
        self.timesteps = TimestepSampler(pipe.scheduler.num_train_timesteps, settings.importance_sampling)
        self.updates = Updates(self._loss(), self._trained(), settings, devices)
        self._buckets = min(BUCKETS, pipe.scheduler.num_train_timesteps)
        self._bucket_sums, self._bucket_counts = np.zeros(self._buckets), np.zeros(self._buckets)

    def _tokenize(self, captions: list[str]) -> np.ndarray:
        """Token ids as the pipeline makes them, (captions, length) int32."""
        length = min(self.pipe.tokenizer.model_max_length, self.pipe.text_encoder.max_length)
        ids = self.pipe.tokenizer(
            captions, padding="max_length", truncation=True, max_length=length, return_tensors="np"
        ).input_ids
        return ids.astype(np.int32)

    def _loss(self) -> TextToImageLoss:
        pipe, settings = self.pipe, self.settings
        if settings.recompute:
            for block in pipe.transformer.transformer_blocks:
                block.recompute()
        loss = VariationalLoss(
            pipe.scheduler.schedule, settings.mask_weight, settings.auxiliary_weight, settings.adaptive_auxiliary
        )
        null_text = pipe.learned_classifier_free_sampling_embeddings
        return TextToImageLoss(pipe.text_encoder, null_text, pipe.transformer, loss, settings.train_text_encoder)

    def _trained(self) -> list[Parameter]:
        cells = [self.pipe.transformer, self.pipe.learned_classifier_free_sampling_embeddings]
        cells += [self.pipe.text_encoder] if self.settings.train_text_encoder else []
        return [parameter for cell in cells for parameter in cell.trainable_params()]

    def advance(self) -> dict[str, float]:
        settings, count = self.settings, self.settings.batch_size
        rng = np.random.default_rng((settings.seed, self.step, 1))  # of this step alone: a run can be continued
        indices = self.order.indices(self.step)
        x_0 = self.codes[indices].astype(np.int32)
        timesteps, probabilities = self.timesteps.draw(count, rng)
        x_t = self.pipe.scheduler.add_noise(x_0, timesteps, rng).asnumpy()
        dropped = rng.random(count) < settings.caption_dropout
        ids = self.ids[indices]
        if self.pipe.learned_classifier_free_sampling_embeddings.embeddings is None:
            ids = np.where(dropped[:, None], self.empty_ids, ids)
        arrays = (x_0, x_t, timesteps, probabilities, ids, dropped)
        # each part of the batch is shared by all devices
        columns = (np.split(array, settings.accumulation) for array in arrays)
        parts = [tuple(map(self.devices.part, part)) for part in zip(*columns)]
        update = self.updates(self.step, self.learning_rate.at(self.step), parts)
        kl, auxiliary = (
            np.concatenate([self.devices.gather(report[i].asnumpy()) for report in update.reports]) for i in range(2)
        )
        if np.isfinite(update.norm):
            self.timesteps.update(timesteps, kl)
            buckets = timesteps.astype(int) * self._buckets // self.pipe.scheduler.num_train_timesteps
            np.add.at(self._bucket_sums, buckets, kl / x_0.shape[1])
            np.add.at(self._bucket_counts, buckets, 1)
        pixels = x_0.shape[1]
        # an estimate of the bound of all timesteps, in nats for each latent pixel
        bound = float((kl / probabilities).mean() / pixels)
        return {
            "loss": update.loss,
            "bound": bound,
            "auxiliary": float(auxiliary.mean() / pixels),
            "gradient_norm": update.norm,
        }

    def window(self) -> dict[str, float]:
        """The mean divergence for each latent pixel, by timestep."""
        timesteps, values = self.pipe.scheduler.num_train_timesteps, {}
        for i in np.flatnonzero(self._bucket_counts):
            first, after = -(-i * timesteps // self._buckets), -(-(i + 1) * timesteps // self._buckets)  # rounded up
            name = f"divergence_t{first:02d}_to_{after - 1:02d}"
            values[name] = float(self._bucket_sums[i] / self._bucket_counts[i])
        self._bucket_sums[:] = self._bucket_counts[:] = 0
        return values

    def previews(self) -> dict[str, Image.Image]:
        """Four pictures of each prompt."""
        settings, columns = self.settings, 4
        with self.updates:
            pictures = self.pipe(
                self.prompts,
                num_inference_steps=min(settings.preview_steps, self.pipe.scheduler.num_train_timesteps),
                guidance_scale=settings.preview_guidance_scale,
                truncation_rate=settings.preview_truncation_rate,
                num_images_per_prompt=columns,
                generator=list(range(columns * len(self.prompts))),
            )[0]
        rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
        return {"prompts": grid(rows, self.prompts)}

    def arrays(self) -> dict[str, np.ndarray]:
        return self.timesteps.state()

    def restore_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self.timesteps.restore(arrays)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "dataset": self.dataset.fingerprint()}

    def save(self, folder: Path) -> None:
        """The pipeline, as ``VQDiffusionPipeline.from_pretrained`` reads it; its calls draw as the previews do."""
        settings = self.settings
        self.pipe.default_settings = {
            "guidance_scale": settings.preview_guidance_scale,
            "truncation_rate": settings.preview_truncation_rate,
        }
        with self.updates:
            self.pipe.save_pretrained(folder)
