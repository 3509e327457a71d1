"""Which graphs a pipeline is exported as, and what each of them takes.

They are the pipeline's own. Inputs that a graph would not use are left out, and no input is a scalar: some runtimes
cannot tell a shape without axes from an unknown one.
"""

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn, ops

from mindone_vq.diffusion.sample_step import UNKNOWN
from mindone_vq.diffusion.samplers import Ancestral
from mindone_vq.nn.device import compute_dtype
from mindone_vq.pipelines.base import DiffusionPipeline
from mindone_vq.pipelines.class_to_image import ClassToImagePipeline
from mindone_vq.pipelines.conditioning import Context
from mindone_vq.pipelines.denoising import DenoisingStep
from mindone_vq.pipelines.graphs import CodeDecoding, TextEncoding
from mindone_vq.pipelines.prepared import NOTHING, PreparedNetwork
from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.pipelines.unconditional import UnconditionalPipeline
from mindone_vq.text.clip import CLIPTextModel

# What an input or an output is, for whoever calls the graph.
MEANINGS = {
    "input_ids": "token ids, a row for each prompt, padded to the full length",
    "text_embeddings": "the condition of each picture",
    "condition": "the condition of each picture; guided: the null condition of every picture before them",
    "context": "what the condition contributes to each layer; the same at every step",
    "x_t": "codes before the step; the mask class where none is decided",
    "timestep": "t",
    "coefficients": "transition_coefficients[t, s + 1]",
    "guidance_scale": "above 1",
    "truncation_rate": "in (0, 1]; 1 keeps every class",
    "uniforms": "random numbers, uniform in [0, 1), new ones for every step",
    "x_s": "codes after the step",
    "codes": "the codes after the last step",
    "pictures": "(batch, height, width, channels) in [0, 1]",
}


@dataclass(frozen=True)
class Graph:
    """One file to be.

    Attributes:
        name: of the file, without its ending.
        cell: its construct takes ``inputs`` by position.
        inputs: by name, in order; only shapes and types matter.
        output: its name.
    """

    name: str
    cell: nn.Cell
    inputs: dict[str, Tensor]
    output: str


class GuidedStep(nn.Cell):
    """``DenoisingStep`` of the sampler "ancestral", with the modulation of every timestep as a constant."""

    def __init__(self, pipe: DiffusionPipeline, prepared: PreparedNetwork, batch_size: int, conditions: int) -> None:
        super().__init__(auto_prefix=False)
        transformer, start_timestep = pipe.transformer, pipe.scheduler.start_timestep
        self.step = DenoisingStep(transformer, prepared, conditions, Ancestral.cell, "rate", start_timestep)
        self.modulations = Parameter(prepared.modulations, name="modulations", requires_grad=False)
        self.known = ops.full((batch_size, transformer.num_latent_pixels), UNKNOWN, dtype=ms.int32)
        self.no_guidance = Tensor([1.0], ms.float32)

    def construct(
        self,
        x_t: Tensor,
        timestep: Tensor,
        context: Tensor,
        coefficients: Tensor,
        guidance_scale: Tensor,
        truncation_rate: Tensor,
        uniforms: Tensor,
    ) -> Tensor:
        """As ``DenoisingStep``; context: from ``Context``; uniforms: (batch, pixels)."""
        sampling = (truncation_rate, coefficients, uniforms.expand_dims(0), self.known)
        return self.step(x_t, timestep, (self.modulations, context), guidance_scale, *sampling)


class UnguidedStep(GuidedStep):
    """The same without guidance."""

    def construct(
        self,
        x_t: Tensor,
        timestep: Tensor,
        context: Tensor,
        coefficients: Tensor,
        truncation_rate: Tensor,
        uniforms: Tensor,
    ) -> Tensor:
        return super().construct(x_t, timestep, context, coefficients, self.no_guidance, truncation_rate, uniforms)


class UnconditionalStep(GuidedStep):
    """The same without a condition."""

    def construct(
        self, x_t: Tensor, timestep: Tensor, coefficients: Tensor, truncation_rate: Tensor, uniforms: Tensor
    ) -> Tensor:
        return super().construct(x_t, timestep, NOTHING, coefficients, self.no_guidance, truncation_rate, uniforms)


def text_condition(pipe: VQDiffusionPipeline, rows: int) -> Tensor:
    """Text embeddings: (rows, length, dim)."""
    dtype = compute_dtype(pipe.transformer.dtype)
    return _zeros(rows, pipe.text_length, pipe.transformer.config.cross_attention_dim, dtype=dtype)


def class_condition(pipe: ClassToImagePipeline, rows: int) -> Tensor:
    """Classes: (rows,)."""
    return _zeros(rows, dtype=ms.int32)


# pipeline -> the condition of its denoiser; None: it has none
CONDITIONS = {
    VQDiffusionPipeline: text_condition,
    ClassToImagePipeline: class_condition,
    UnconditionalPipeline: None,
}


def graphs_of(pipe: DiffusionPipeline, batch_size: int, guided: bool) -> list[Graph]:
    """The text encoder and the context where there are such, the denoising step, and the decoder.

    Raises:
        TypeError: a pipeline, or a text encoder, that is not known here.
        ValueError: guidance for a pipeline that has no condition.
    """
    condition = CONDITIONS[type(pipe)]
    if guided and condition is None:
        raise ValueError(f"A {type(pipe).__name__} has nothing to guide: export it with guided=False (--unguided).")
    graphs = [text_encoder(pipe, batch_size)] if isinstance(pipe, VQDiffusionPipeline) else []
    prepared, context = PreparedNetwork(pipe.transformer), None
    if condition is not None:
        graphs.append(
            Graph(
                "context",
                Context(prepared),
                {"condition": condition(pipe, 2 * batch_size if guided else batch_size)},
                "context",
            )
        )
        context = graphs[-1].cell(*graphs[-1].inputs.values())
    return [*graphs, denoising_step(pipe, prepared, batch_size, guided, context), decoder(pipe, batch_size)]


def text_encoder(pipe: VQDiffusionPipeline, batch_size: int) -> Graph:
    """(batch, length) -> (batch, length, hidden_size)."""
    encoder = pipe.text_encoder
    if not isinstance(encoder, CLIPTextModel):
        raise TypeError(f"text_encoder is a {type(encoder).__name__}; only a CLIPTextModel of mindone_vq is exported.")
    inputs = {"input_ids": _zeros(batch_size, pipe.text_length, dtype=ms.int32)}
    return Graph("text_encoder", TextEncoding(encoder), inputs, "text_embeddings")


def denoising_step(
    pipe: DiffusionPipeline, prepared: PreparedNetwork, batch_size: int, guided: bool, context: Tensor
) -> Graph:
    """x_t -> x_s; ``context``: what the graph of that name gives, or None."""
    codes = (batch_size, pipe.transformer.num_latent_pixels)
    inputs = {
        "x_t": _zeros(*codes, dtype=ms.int32),
        "timestep": _zeros(1, dtype=ms.int32),
        "context": context,
        "coefficients": _zeros(9),
        "guidance_scale": _zeros(1) if guided else None,
        "truncation_rate": _zeros(1),
        "uniforms": _zeros(*codes),
    }
    kind = GuidedStep if guided else UnconditionalStep if context is None else UnguidedStep
    cell = kind(pipe, prepared, batch_size, 2 if guided else 1)
    return Graph("denoising_step", cell, {name: each for name, each in inputs.items() if each is not None}, "x_s")


def decoder(pipe: DiffusionPipeline, batch_size: int) -> Graph:
    """Codes -> pictures."""
    cell = CodeDecoding(pipe.vqvae, pipe.transformer.height, pipe.transformer.width)
    codes = _zeros(batch_size, pipe.transformer.num_latent_pixels, dtype=ms.int32)
    return Graph("decoder", cell, {"codes": codes}, "pictures")


def _zeros(*shape: int, dtype: ms.Type = ms.float32) -> Tensor:
    return Tensor(np.zeros(shape), dtype)
