"""Every kind of graph this package compiles, each with a small network of the published structure."""

from functools import partial
from typing import Callable, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindone_vq import (
    CLIPTextModel,
    LearnedClassifierFreeSamplingEmbeddings,
    Transformer2DModel,
    VQDiffusionScheduler,
    VQModel,
)
from mindone_vq.diffusion.samplers import SAMPLERS, Ancestral, Sampler
from mindone_vq.models.convolutional import ClassTransformer2DModel, UnconditionalTransformer2DModel
from mindone_vq.models.vq_model import GumbelVQModel
from mindone_vq.pipelines.denoising import make_step
from mindone_vq.pipelines.graphs import CodeDecoding, CompiledGraph, DenoisingStep, GraphCache, TextEncoding
from mindone_vq.training.data.codes import PictureEncoding
from mindone_vq.training.devices import Devices
from mindone_vq.training.text_to_image.loss import TextToImageLoss, VariationalLoss
from mindone_vq.training.text_to_image.training import TextToImageSettings
from mindone_vq.training.update.updates import Updates
from mindone_vq.training.vqvae.adversarial import AdversarialTerm, discriminator_updates, make_discriminator
from mindone_vq.training.vqvae.codebook import CodebookAverage
from mindone_vq.training.vqvae.loss import VQVAELoss
from mindone_vq.training.vqvae.model import VQVAESettings
from mindone_vq.training.vqvae.perceptual import CHANNELS, SMALLEST, VGG16, PerceptualLoss

BATCH, SIDE, CODES, TIMESTEPS = 2, 4, 16, 5  # SIDE: of the grid of codes; pictures are twice as wide
LATENTS = 6  # channels
WORDS, LENGTH, WIDTH = 50, 8, 32  # of the text
TRANSFORMER = dict(num_attention_heads=2, attention_head_dim=16, num_layers=1, sample_size=SIDE)
TRANSFORMER |= dict(num_vector_embeds=CODES + 1, num_embeds_ada_norm=TIMESTEPS)
LEVELS = [Tensor(np.ones((1, channels, 1, 1), np.float32)) for channels in CHANNELS]  # of the perceptual term
TYPES = {ms.float32: "float32", ms.float16: "float16"}

# What compiles a graph and runs it once; and, from the type of the weights (in training: of the matrix products), those
Run = Callable[[], object]
Build = Callable[[ms.Type], list[Run]]


def text_encoder() -> CLIPTextModel:
    return CLIPTextModel(
        vocab_size=WORDS,
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        eos_token_id=WORDS - 1,
    )


def text_transformer() -> Transformer2DModel:
    return Transformer2DModel(
        cross_attention_dim=WIDTH, attention_bias=True, activation_fn="geglu-approximate", **TRANSFORMER
    )


def codec(kind: type[VQModel] = VQModel, **others: str) -> VQModel:
    width = 32 if "norm_type" in others else 8  # a modulated norm has 32 groups
    return kind(
        block_out_channels=(width, 2 * width),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        norm_num_groups=4,
        latent_channels=LATENTS,
        num_vq_embeddings=CODES,
        **others,
    )


def encode_text(dtype: ms.Type) -> list[Run]:
    graph = CompiledGraph(TextEncoding(text_encoder().to(dtype)), "text encoder")
    return [lambda: graph(Tensor(np.full((BATCH, LENGTH), WORDS - 1, np.int32)))]


def denoise(
    transformer: Callable, guided: bool, condition: np.ndarray, sampler: Union[str, Sampler] = "ancestral"
) -> Build:
    """A step as pipelines make it, with what they compute once for all steps. condition: of one picture."""

    def build(dtype: ms.Type) -> list[Run]:
        network, scheduler = transformer().to(dtype), VQDiffusionScheduler(CODES + 1, TIMESTEPS)
        scheduler.set_timesteps(TIMESTEPS, sampler=sampler)
        told, x_t, settings = told_and_settings(scheduler, guided, condition, dtype)

        def run() -> None:
            step = make_step(GraphCache(), network, scheduler.sampler.cell, 1 + guided, told)
            step(x_t, TIMESTEPS - 1, *settings)

        return [run]

    return build


def denoise_exported(dtype: ms.Type) -> list[Run]:
    """The step of text to image as it is exported: all of it in one graph."""
    scheduler = VQDiffusionScheduler(CODES + 1, TIMESTEPS)
    scheduler.set_timesteps(TIMESTEPS)
    told, x_t, settings = told_and_settings(scheduler, True, TEXT, dtype)
    step = CompiledGraph(DenoisingStep(text_transformer().to(dtype), Ancestral.cell, 2), "denoising step")
    return [lambda: step(x_t, Tensor([TIMESTEPS - 1], ms.int32), told, *settings)]


def told_and_settings(
    scheduler: VQDiffusionScheduler, guided: bool, condition: np.ndarray, dtype: ms.Type
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    """The condition of a batch, x_t, and what ``Draw`` takes after it."""
    told = np.stack([condition] * (2 * BATCH if guided else BATCH))
    grid = (BATCH, SIDE * SIDE)
    uniforms = scheduler.sampler.draw_uniforms([np.random.default_rng(0)], *grid)
    _, _, numbers = next(scheduler.steps())
    settings = (numbers, Tensor([5.0], ms.float32), Tensor([0.86], ms.float32), Tensor(uniforms))
    return (
        Tensor(told, dtype if told.dtype == np.float32 else ms.int32),
        Tensor(np.full(grid, CODES, np.int32)),
        settings,
    )


def decode(**options: str) -> Build:
    def build(dtype: ms.Type) -> list[Run]:
        graph = CompiledGraph(CodeDecoding(codec(**options).to(dtype), SIDE, SIDE), "decoder")
        return [lambda: graph(Tensor(np.zeros((BATCH, SIDE * SIDE), np.int32)))]

    return build


def encode(kind: type[VQModel]) -> Build:
    def build(dtype: ms.Type) -> list[Run]:
        graph = CompiledGraph(PictureEncoding(codec(kind).to(dtype)), "encoder")
        return [lambda: graph(Tensor(pictures()))]

    return build


def train_codec(codebook: str, adversarial: bool = False, perceptual: bool = False) -> Build:
    def build(dtype: ms.Type) -> list[Run]:
        settings = VQVAESettings(data="none", precision=TYPES[dtype], ema_decay=0.9)
        model, discriminator = codec(), make_discriminator(1, 8, seed=0)
        terms = [AdversarialTerm(discriminator)] if adversarial else []
        terms += [PerceptualLoss(VGG16(), LEVELS)] if perceptual else []
        weight = 1.0 if codebook == "loss" else 0.0
        loss = VQVAELoss(model, codebook_weight=weight, terms=terms, report_reconstructions=adversarial)
        updates = Updates(loss, model.trainable_params(), settings, Devices())
        seen = pictures(SMALLEST if perceptual else 2 * SIDE)
        runs = graphs_of(updates, seen, np.float32(1.0), *[np.float32(1.0)] * len(terms))
        if codebook == "ema":
            average = ms.jit(CodebookAverage(model.quantize.embedding.embedding_table), fullgraph=True)
            codes, candidates = np.zeros(BATCH * SIDE * SIDE, np.int32), np.zeros(CODES, np.int32)
            latents, here = np.zeros((len(codes), LATENTS), np.float32), np.ones((CODES, 1), np.float32)
            runs.append(lambda: average(*map(Tensor, (latents, codes, candidates, here))))
        if adversarial:
            other = discriminator_updates(discriminator, settings, Devices())
            runs += graphs_of(other, seen, seen.astype(np.float32))
        return runs

    return build


def train_text_to_image(**options: object) -> Build:
    def build(dtype: ms.Type) -> list[Run]:
        settings = TextToImageSettings(data="none", vqvae="none", precision=TYPES[dtype], ema_every=1, **options)
        null_text = LearnedClassifierFreeSamplingEmbeddings(True, WIDTH, LENGTH)
        transformer, text = text_transformer(), text_encoder()
        if settings.recompute:
            for block in transformer.transformer_blocks:
                block.recompute()
        variational = VariationalLoss(VQDiffusionScheduler(CODES + 1, TIMESTEPS).schedule)
        loss = TextToImageLoss(text, null_text, transformer, variational, train_text_encoder=True)
        cells = (transformer, null_text, text)
        trained = [parameter for cell in cells for parameter in cell.trainable_params()]
        codes = np.zeros((BATCH, SIDE * SIDE), np.int32)
        ids, timesteps = np.full((BATCH, LENGTH), WORDS - 1, np.int32), np.arange(BATCH, dtype=np.int32)
        batch = (codes, codes, timesteps, np.ones(BATCH, np.float32), ids, np.array([True, False]))
        return graphs_of(Updates(loss, trained, settings, Devices()), *batch)

    return build


def graphs_of(updates: Updates, *batch: np.ndarray) -> list[Run]:
    """The graphs of a training step one by one: what cannot run on a CPU keeps none of the others from compiling."""
    rate, scale, tensors = Tensor(1e-3, ms.float32), Tensor(1.0, ms.float32), [Tensor(array) for array in batch]
    graphs = [updates._update] if updates.settings.accumulation == 1 else [updates._add, updates._update]
    runs = [partial(graph, rate, scale, *tensors) for graph in graphs]
    return runs if updates.average is None else [*runs, updates._average]


def pictures(side: int = 2 * SIDE) -> np.ndarray:
    return np.zeros((BATCH, 3, side, side), np.uint8)


def class_transformer() -> ClassTransformer2DModel:
    return ClassTransformer2DModel(num_class_embeds=4, **TRANSFORMER)


def unconditional_transformer() -> UnconditionalTransformer2DModel:
    return UnconditionalTransformer2DModel(**TRANSFORMER)


TEXT, NOTHING = np.zeros((LENGTH, WIDTH), np.float32), np.zeros(1, np.int32)
BOTH = tuple(TYPES)
GRAPHS: dict[str, tuple[Build, tuple[ms.Type, ...]]] = {
    "text encoder": (encode_text, BOTH),
    "denoising step and conditioning, guided": (denoise(text_transformer, True, TEXT), BOTH),
    "denoising step and conditioning, not guided": (denoise(text_transformer, False, TEXT), BOTH),
    **{
        f"denoising step, {sampler} sampler": (denoise(text_transformer, False, TEXT, sampler), BOTH[:1])
        for sampler in SAMPLERS
        if sampler != "ancestral"
    },
    "denoising step as exported, guided": (denoise_exported, BOTH),
    "denoising step of classes, guided": (denoise(class_transformer, True, np.array(0)), BOTH),
    "denoising step of classes, not guided": (denoise(class_transformer, False, np.array(0)), BOTH),
    "denoising step, unconditional": (denoise(unconditional_transformer, False, NOTHING), BOTH),
    "decoder": (decode(), BOTH),
    "decoder with modulated norms": (decode(norm_type="spatial"), BOTH),
    "encoder": (encode(VQModel), BOTH),
    "encoder, Gumbel codes": (encode(GumbelVQModel), BOTH),
    # a training step takes long to compile: what has all the parts in one type, what has few in the other
    "training of the VQ-VAE, codebook by the loss": (train_codec("loss"), (ms.float32,)),
    "training of the VQ-VAE, codebook by running means, adversarial and perceptual": (
        train_codec("ema", adversarial=True, perceptual=True),
        (ms.float16,),
    ),
    "training of text to image": (train_text_to_image(), (ms.float32,)),
    "training of text to image, recomputed, in two parts": (
        train_text_to_image(recompute=True, accumulation=2),
        (ms.float16,),
    ),
}
