"""Every kind of graph that this package compiles, each of a small network of the published structure.

Each function runs what a user runs: a pipeline, the export, or a training command. Only this file depends on how the
package is organised.
"""

import contextlib
import json
import runpy
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Callable
from unittest import mock

import mindspore as ms
import numpy as np
from ir import last_outputs
from mindspore import Tensor
from PIL import Image
from safetensors.numpy import save_file

from mindone_vq import (
    ClassToImagePipeline,
    ClassTransformer2DModel,
    CLIPTextModel,
    CLIPTokenizer,
    GumbelVQModel,
    LearnedClassifierFreeSamplingEmbeddings,
    Transformer2DModel,
    UnconditionalPipeline,
    UnconditionalTransformer2DModel,
    VQDiffusionImg2ImgPipeline,
    VQDiffusionPipeline,
    VQDiffusionScheduler,
    VQModel,
)
from mindone_vq.demo import SHAPES_MODEL
from mindone_vq.diffusion.samplers import SAMPLERS
from mindone_vq.export import export_pipeline
from mindone_vq.nn.device import built_for
from mindone_vq.nn.linear import Weights
from mindone_vq.nn.transformer_block import BasicTransformerBlock
from mindone_vq.pipelines.base import DiffusionPipeline
from mindone_vq.pipelines.compilation import CompiledGraph
from mindone_vq.pipelines.prepared import PreparedNetwork, in_dtype
from mindone_vq.training.compilation import TrainingGraph
from mindone_vq.training.distillation.assignment import StartLikelihood
from mindone_vq.training.text_to_image.loss import LikelihoodLoss, TextToImageLoss

EXAMPLES = Path(__file__).parents[2] / "examples"
BATCH, SIDE, CODES, TIMESTEPS = 2, 4, 16, 5  # SIDE: of the grid of codes; pictures are twice as wide
LENGTH, WIDTH = 8, 32  # of the text
# Heads of 24 are padded for the fused kernel, as those of 88 of the published models.
TRANSFORMER = dict(num_attention_heads=2, attention_head_dim=24, num_layers=1, sample_size=SIDE)
TRANSFORMER |= dict(num_vector_embeds=CODES + 1, num_embeds_ada_norm=TIMESTEPS)
TYPES = {ms.float32: "float32", ms.float16: "float16", ms.bfloat16: "bfloat16"}

# Compiles graphs with weights (in training: matrix products) of the type.
Compile = Callable[[ms.Type], object]


@contextlib.contextmanager
def built_for_ascend(fused_attention: bool = True) -> Iterator[None]:
    """Networks made inside have their form for an NPU that has, or does not have, a fused attention kernel."""
    with built_for("Ascend"), mock.patch("mindone_vq.nn.attention.fused_attention", lambda: fused_attention):
        yield


@contextlib.contextmanager
def without_bfloat16_kernels() -> Iterator[None]:
    """A CPU computes nothing in bfloat16. Inside, a pipeline with such weights compiles all its graphs nevertheless.

    What it prepares outside of graphs is computed in float16 and cast, and a graph that compiled but cannot run gives
    zeros of the right shape, so that the next one compiles.
    """
    prepare, modulate, call = BasicTransformerBlock.prepared, BasicTransformerBlock.modulations, CompiledGraph.__call__

    def prepared(block: BasicTransformerBlock, weights: Weights, is_centred: bool) -> Weights:
        return in_dtype(prepare(block, in_dtype(weights, ms.float16), is_centred), ms.bfloat16)

    def modulations(block: BasicTransformerBlock, timesteps: Tensor, weights: Weights) -> tuple[Tensor, ...]:
        return modulate(block, timesteps, in_dtype(weights, ms.float16))

    def run(graph: CompiledGraph, *inputs: Tensor) -> Tensor:
        try:
            return call(graph, *inputs)
        except TypeError as error:
            outputs = last_outputs()
            if len(outputs) != 1:  # the graph did not compile, or another one than these pipelines have
                raise error
            (name, shape), *_ = outputs
            return Tensor(np.zeros(shape, np.float32), getattr(ms, name.lower()))

    with contextlib.ExitStack() as patches:
        patches.enter_context(mock.patch.multiple(BasicTransformerBlock, prepared=prepared, modulations=modulations))
        patches.enter_context(mock.patch.object(PreparedNetwork, "refresh", lambda network: None))
        patches.enter_context(mock.patch.object(CompiledGraph, "__call__", run))
        yield


def step(pipe: DiffusionPipeline, *inputs: object, **options: object) -> None:
    """The conditioning and one denoising step."""
    is_computed = pipe.transformer.dtype != ms.bfloat16
    with contextlib.nullcontext() if is_computed else without_bfloat16_kernels():
        pipe(*inputs, num_inference_steps=1, output_type="latent", **options)


def vq_model(kind: type[VQModel] = VQModel, **options: object) -> VQModel:
    width = 32 if "norm_type" in options else 8  # a modulated norm has 32 groups
    arguments = dict(
        block_out_channels=(width, 2 * width),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        norm_num_groups=4,
        latent_channels=6,
        vq_embed_dim=6,
        num_vq_embeddings=CODES,
    )
    return kind(**{**arguments, **options})


def text_pipeline(vqvae: VQModel, length: int = LENGTH, width: int = WIDTH, **options: object) -> VQDiffusionPipeline:
    """A pipeline whose prompts have ``length`` tokens of ``width``; ``options`` are of the transformer."""
    tokenizer = CLIPTokenizer.from_pretrained(SHAPES_MODEL / "tokenizer")
    text_encoder = CLIPTextModel(
        vocab_size=tokenizer.vocab_size,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=length,
        eos_token_id=tokenizer.eos_token_id,
    )
    transformer = Transformer2DModel(
        **{**TRANSFORMER, **options},
        cross_attention_dim=width,
        attention_bias=True,
        activation_fn="geglu-approximate",
    )
    scheduler = VQDiffusionScheduler(transformer.num_vector_embeds, transformer.num_timesteps)
    null_text = LearnedClassifierFreeSamplingEmbeddings(True, width, length)
    return quiet(VQDiffusionPipeline(vqvae, text_encoder, tokenizer, transformer, scheduler, null_text))


def quiet(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe


def text_step(pipe: VQDiffusionPipeline, batch: int = BATCH, **options: object) -> None:
    null_text = pipe.learned_classifier_free_sampling_embeddings.embeddings
    embeddings = Tensor(np.zeros((batch, *null_text.shape), np.float32))
    step(pipe, prompt_embeds=embeddings, **options)


def denoise(**options: object) -> Compile:
    return lambda dtype: text_step(text_pipeline(vq_model()).to(dtype), **options)


def student(pipe: VQDiffusionPipeline) -> VQDiffusionPipeline:
    """The pipeline with start codes."""
    scheduler = VQDiffusionScheduler.from_config(pipe.scheduler.config, num_start_codes=1)
    return quiet(VQDiffusionPipeline.from_pipe(pipe, scheduler=scheduler))


def denoise_from_start_codes(dtype: ms.Type) -> None:
    text_step(student(text_pipeline(vq_model()).to(dtype)), guidance_scale=1.0, sampler="confidence")


def distil(dtype: ms.Type) -> None:
    pipe = student(text_pipeline(vq_model()).to(dtype))
    null_text = pipe.learned_classifier_free_sampling_embeddings
    network = TextToImageLoss(pipe.text_encoder, null_text, pipe.transformer, LikelihoodLoss(), train_text_encoder=True)
    codes, ids = (Tensor(np.zeros((BATCH, columns), np.int32)) for columns in (SIDE * SIDE, LENGTH))
    TrainingGraph(StartLikelihood(network, TIMESTEPS - 1), "log-likelihoods of starts")(codes, codes, ids)
    gradients = ms.value_and_grad(network, None, network.trainable_params(), has_aux=True)
    each = [Tensor(np.zeros(BATCH, kind)) for kind in (np.int32, np.float32, np.bool_)]
    TrainingGraph(gradients, "loss and its gradients")(codes, codes, *each[:2], ids, each[2])


def encode_text(dtype: ms.Type) -> None:
    text_pipeline(vq_model()).to(dtype).encode_prompt(["a", "b"], do_classifier_free_guidance=False)


def denoise_classes(guidance_scale: float) -> Compile:
    def compile_step(dtype: ms.Type) -> None:
        transformer = ClassTransformer2DModel(num_class_embeds=4, **TRANSFORMER)
        pipe = quiet(ClassToImagePipeline(vq_model(), transformer, VQDiffusionScheduler(CODES + 1, TIMESTEPS)))
        step(pipe.to(dtype), [0, 1], guidance_scale=guidance_scale)

    return compile_step


def denoise_unconditional(dtype: ms.Type) -> None:
    transformer = UnconditionalTransformer2DModel(**TRANSFORMER)
    pipe = quiet(UnconditionalPipeline(vq_model(), transformer, VQDiffusionScheduler(CODES + 1, TIMESTEPS)))
    step(pipe.to(dtype), BATCH)


def export(dtype: ms.Type) -> None:
    with tempfile.TemporaryDirectory() as folder:
        export_pipeline(text_pipeline(vq_model()).to(dtype), folder, BATCH)


def decode(**options: object) -> Compile:
    codes = Tensor(np.zeros((BATCH, SIDE * SIDE), np.int32))
    return lambda dtype: text_pipeline(vq_model(**options)).to(dtype).decode_latents(codes)


def encode(kind: type[VQModel]) -> Compile:
    pictures = np.zeros((BATCH, 2 * SIDE, 2 * SIDE, 3), np.uint8)
    return lambda dtype: VQDiffusionImg2ImgPipeline.from_pipe(text_pipeline(vq_model(kind)).to(dtype)).encode_pictures(
        pictures
    )


def train(example: str, *options: str) -> Compile:
    """One step of a training command; in ``options`` {data} is a folder with a pipeline and VGG16's weights."""

    def compile_step(dtype: ms.Type) -> None:
        with tempfile.TemporaryDirectory() as data:
            text_pipeline(vq_model()).save_pretrained(data)
            write_vgg16(Path(data) / "vgg16.safetensors")
            write_pictures(Path(data))
            arguments = [example, data, "--output", f"{data}/output", "--steps", "1", "--preview-every", "0"]
            arguments += ["--model-from", data, "--batch-size", str(BATCH), "--precision", TYPES[dtype]]
            arguments += [option.format(data=data) for option in options]
            with contextlib.ExitStack() as patches:
                patches.enter_context(mock.patch.object(sys, "argv", arguments))
                patches.enter_context(mock.patch.object(sys, "path", [str(EXAMPLES), *sys.path]))
                # a step whose gradient overflows is skipped, and the graphs after it are not compiled
                patches.enter_context(mock.patch("mindone_vq.training.update.updates.FIRST_SCALE", 1.0))
                try:
                    runpy.run_path(str(EXAMPLES / example), run_name="__main__")
                except SystemExit as error:  # as commands report an error that a user can correct
                    raise RuntimeError(f"{example} ended: {error}") from error

    return compile_step


def write_pictures(folder: Path) -> None:
    """``BATCH`` pictures and their captions."""
    lines = [{"file_name": f"{i}.png", "text": f"picture {i}"} for i in range(BATCH)]
    for line in lines:
        Image.new("RGB", (16, 16), "white").save(folder / line["file_name"])
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))


def write_vgg16(file: Path) -> None:
    """The state dict of torchvision's VGG16, all zero."""
    widths = {0: 64, 2: 64, 5: 128, 7: 128, 10: 256, 12: 256, 14: 256, **dict.fromkeys((17, 19, 21, 24, 26, 28), 512)}
    channels, weights = 3, {}
    for layer, width in widths.items():
        weights[f"features.{layer}.weight"] = np.zeros((width, channels, 3, 3), np.float32)
        weights[f"features.{layer}.bias"] = np.zeros(width, np.float32)
        channels = width
    save_file(weights, file)


BOTH, ALL = (ms.float32, ms.float16), tuple(TYPES)
GRAPHS: dict[str, tuple[Compile, tuple[ms.Type, ...]]] = {
    "text encoder": (encode_text, ALL),
    "denoising step and conditioning, guided": (denoise(guidance_scale=5.0), ALL),
    "denoising step and conditioning, not guided": (denoise(guidance_scale=1.0), BOTH),
    **{
        f"denoising step, {sampler} sampler": (denoise(guidance_scale=1.0, sampler=sampler), (ms.float32,))
        for sampler in SAMPLERS
        if sampler != "ancestral"
    },
    "denoising step of a student": (denoise_from_start_codes, BOTH),
    "text encoder, context, guided denoising step and decoder as exported": (export, BOTH),
    "denoising step of classes, guided": (denoise_classes(5.0), ALL),
    "denoising step of classes, not guided": (denoise_classes(1.0), BOTH),
    "denoising step, unconditional": (denoise_unconditional, BOTH),
    "decoder": (decode(), ALL),
    "decoder with modulated norms": (decode(norm_type="spatial"), BOTH),
    "encoder": (encode(VQModel), ALL),
    "encoder, Gumbel codes": (encode(GumbelVQModel), BOTH),
    # A training step takes long to compile: one type has all parts, the other few.
    "training of the VQ-VAE, codebook by the loss": (
        train("train_vqvae.py", "--size=8", "--codebook=loss", "--ema-decay=0.9"),
        (ms.float32,),
    ),
    "training of the VQ-VAE, codebook by running means, adversarial and perceptual": (
        train(
            "train_vqvae.py",
            *("--size=16", "--ema-decay=0.9", "--adversarial-weight=1", "--discriminator-layers=1"),
            *("--discriminator-channels=8", "--perceptual-weight=1", "--perceptual-weights={data}/vgg16.safetensors"),
        ),
        (ms.float16, ms.bfloat16),
    ),
    "training of text to image": (train("train_text_to_image.py", "--ema-every=1"), (ms.float32,)),
    "training of text to image, recomputed, in two parts": (
        train("train_text_to_image.py", "--ema-every=1", "--recompute", "--accumulation=2"),
        (ms.float16, ms.bfloat16),
    ),
    "distillation, without the update: log-likelihoods of starts, loss and gradients": (distil, (ms.float32,)),
}
