"""How long compilation and a denoising step take, and how much memory."""

import resource
import statistics
import time
from collections.abc import Iterator
from functools import partial

import mindspore as ms
import numpy as np
from mindspore.nn.utils import no_init_parameters

from mindone_vq import (
    CLIPTextModel,
    CLIPTokenizer,
    LearnedClassifierFreeSamplingEmbeddings,
    Transformer2DModel,
    VQDiffusionPipeline,
    VQDiffusionScheduler,
    VQModel,
)
from mindone_vq.demo import SHAPES_MODEL
from mindone_vq.device_check.model import PROMPTS, load
from mindone_vq.device_check.sizes import Sizes
from mindone_vq.findings import ERROR_ADVICE, Checks, Finding
from mindone_vq.weights.store import assign

FEW, MANY, REPETITIONS = 10, 30, 3  # steps; calls of each


def checks(device: str) -> Checks:
    """Of the model of shapes; on an NPU in float16, and of the published size too."""
    dtype = "float32" if device == "CPU" else "float16"
    result = {"model of shapes": partial(times, "model of shapes", partial(load, dtype))}
    if device != "CPU":
        result["published size"] = partial(times, "published size", partial(published, Sizes(), 36))
    return {name: (check, ERROR_ADVICE) for name, check in result.items()}


def times(name: str, make) -> Iterator[Finding]:
    """Of one picture with guidance.

    Args:
        name: of the finding.
        make: makes the pipeline.
    """
    pipe = make()

    def seconds(steps: int) -> float:
        start = time.perf_counter()
        pipe(PROMPTS[0], num_inference_steps=steps, guidance_scale=5.0, truncation_rate=0.86, generator=0)
        return time.perf_counter() - start

    first = seconds(FEW)
    few, many = (statistics.median(seconds(steps) for _ in range(REPETITIONS)) for steps in (FEW, MANY))
    step, memory = (many - few) / (MANY - FEW), peak_memory()
    value = f"first call {first:.1f} s, then {few:.2f} s for {FEW} steps, {1e3 * step:.1f} ms a step; "
    numbers = {"first_call_s": first, f"call_of_{FEW}_steps_s": few, "step_s": step, "peak_bytes": memory}
    yield Finding(name, f"{value}peak memory {memory / 1e9:.2f} GB", numbers=numbers)


def peak_memory() -> int:
    """Bytes: of an NPU's memory, what tensors took at most; on a CPU those of the process."""
    if ms.get_context("device_target") == "CPU":
        return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return ms.runtime.max_memory_allocated()


def published(s: Sizes, layers: int) -> VQDiffusionPipeline:
    """A pipeline of the published sizes in float16, all weights zero; its VQ-VAE is small."""
    tokenizer, width = CLIPTokenizer.from_pretrained(SHAPES_MODEL / "tokenizer"), 512
    with no_init_parameters():
        text_encoder = CLIPTextModel(
            vocab_size=tokenizer.vocab_size,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=12,
            num_attention_heads=8,
            max_position_embeddings=s.tokens,
            eos_token_id=tokenizer.eos_token_id,
        )
        transformer = Transformer2DModel(
            num_attention_heads=s.heads,
            attention_head_dim=s.head_dim,
            num_layers=layers,
            cross_attention_dim=width,
            attention_bias=True,
            sample_size=round(s.pixels**0.5),
            num_vector_embeds=s.classes + 1,
            activation_fn="geglu-approximate",
            num_embeds_ada_norm=100,
        )
    for cell in (text_encoder, transformer):
        for parameter in cell.get_parameters():
            assign(parameter, np.zeros(parameter.shape, np.float32), ms.float16)
    vqvae = VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        num_vq_embeddings=s.classes,
    )
    null_text = LearnedClassifierFreeSamplingEmbeddings(True, width, s.tokens)
    scheduler = VQDiffusionScheduler(s.classes + 1)
    pipe = VQDiffusionPipeline(vqvae, text_encoder, tokenizer, transformer, scheduler, null_text).to(ms.float16)
    pipe.set_progress_bar_config(disable=True)
    return pipe
