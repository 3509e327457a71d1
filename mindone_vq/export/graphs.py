"""Which graphs a pipeline is exported as, and what each of them takes.

They are the pipeline's own. Only what a graph would not use is left out of its inputs, and no input is a scalar: some
runtimes cannot tell a shape without axes from an unknown one.
"""

from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindone_vq.diffusion.samplers import Ancestral
from mindone_vq.pipelines.base import DiffusionPipeline
from mindone_vq.pipelines.class_to_image import ClassToImagePipeline
from mindone_vq.pipelines.graphs import CodeDecoding, DenoisingStep, TextEncoding
from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.pipelines.unconditional import UnconditionalPipeline
from mindone_vq.text.clip import CLIPTextModel

# What an input or an output is, for whoever calls the graph.
MEANINGS = {
    "input_ids": "token ids, a row for each prompt, padded to the full length",
    "last_hidden_state": "divide the vector of each token by its Euclidean length before it becomes the condition",
    "x_t": "codes before the step; the mask class where none is decided",
    "timestep": "t",
    "jump": "jumps[t, s + 1]",
    "condition": "what the step is told; guided: the null condition of every picture, then the condition of every one",
    "guidance_scale": "above 1",
    "truncation_rate": "in (0, 1]; 1 keeps every class",
    "uniforms": "random numbers, uniform in [0, 1), new ones for every step",
    "x_s": "codes after the step",
    "codes": "what the last step gave",
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


class UnguidedStep(nn.Cell):
    """A step without guidance, and without the scale that it would not use."""

    def __init__(self, step: DenoisingStep) -> None:
        super().__init__(auto_prefix=False)
        self.step, self.no_guidance = step, Tensor([1.0], ms.float32)

    def construct(
        self, x_t: Tensor, timestep: Tensor, condition: Tensor, jump: Tensor, truncation_rate: Tensor, uniforms: Tensor
    ) -> Tensor:
        """As in ``DenoisingStep``."""
        return self.step(x_t, timestep, condition, jump, self.no_guidance, truncation_rate, uniforms)


class UnconditionalStep(nn.Cell):
    """A step of a denoiser that is told nothing."""

    def __init__(self, step: DenoisingStep) -> None:
        super().__init__(auto_prefix=False)
        self.step, self.no_guidance = step, Tensor([1.0], ms.float32)

    def construct(
        self, x_t: Tensor, timestep: Tensor, jump: Tensor, truncation_rate: Tensor, uniforms: Tensor
    ) -> Tensor:
        """As in ``DenoisingStep``; x_t stands in the place of the condition, which the denoiser does not look at."""
        return self.step(x_t, timestep, x_t, jump, self.no_guidance, truncation_rate, uniforms)


def text_length(pipe: VQDiffusionPipeline) -> int:
    """Tokens in a prompt, as the pipeline pads and cuts it."""
    return min(pipe.tokenizer.model_max_length, pipe.text_encoder.max_length)


def text_condition(pipe: VQDiffusionPipeline, rows: int) -> Tensor:
    """Text embeddings: (rows, length, dim)."""
    return _zeros(rows, text_length(pipe), pipe.transformer.config.cross_attention_dim, dtype=pipe.transformer.dtype)


def class_condition(pipe: ClassToImagePipeline, rows: int) -> Tensor:
    """Classes: (rows,)."""
    return _zeros(rows, dtype=ms.int32)


# pipeline -> what its denoiser is told; None: nothing
CONDITIONS = {
    VQDiffusionPipeline: text_condition,
    ClassToImagePipeline: class_condition,
    UnconditionalPipeline: None,
}


def graphs_of(pipe: DiffusionPipeline, batch_size: int, guided: bool) -> list[Graph]:
    """The text encoder where there is one, one denoising step, and the decoder.

    Raises:
        TypeError: a pipeline, or a text encoder, that is not known here.
        ValueError: guidance for a pipeline that has no condition.
    """
    first = [text_encoder(pipe, batch_size)] if isinstance(pipe, VQDiffusionPipeline) else []
    return [*first, denoising_step(pipe, batch_size, guided), decoder(pipe, batch_size)]


def text_encoder(pipe: VQDiffusionPipeline, batch_size: int) -> Graph:
    """(batch, length) -> (batch, length, hidden_size)."""
    encoder = pipe.text_encoder
    if not isinstance(encoder, CLIPTextModel):
        raise TypeError(f"text_encoder is a {type(encoder).__name__}; only a CLIPTextModel of mindone_vq is exported.")
    inputs = {"input_ids": _zeros(batch_size, text_length(pipe), dtype=ms.int32)}
    return Graph("text_encoder", TextEncoding(encoder), inputs, "last_hidden_state")


def denoising_step(pipe: DiffusionPipeline, batch_size: int, guided: bool) -> Graph:
    """x_t -> x_s."""
    condition = CONDITIONS[type(pipe)]
    if guided and condition is None:
        raise ValueError(f"A {type(pipe).__name__} has nothing to guide: export it with guided=False (--unguided).")
    codes = (batch_size, pipe.transformer.num_latent_pixels)
    inputs = {"x_t": _zeros(*codes, dtype=ms.int32), "timestep": _zeros(1, dtype=ms.int32)}
    if condition is not None:
        inputs["condition"] = condition(pipe, 2 * batch_size if guided else batch_size)
    inputs["jump"] = _zeros(9)
    if guided:
        inputs["guidance_scale"] = _zeros(1)
    inputs.update(truncation_rate=_zeros(1), uniforms=_zeros(*codes))
    step = DenoisingStep(pipe.transformer, Ancestral.cell, 2 if guided else 1)
    cell = step if guided else UnconditionalStep(step) if condition is None else UnguidedStep(step)
    return Graph("denoising_step", cell, inputs, "x_s")


def decoder(pipe: DiffusionPipeline, batch_size: int) -> Graph:
    """Codes -> pictures."""
    cell = CodeDecoding(pipe.vqvae, pipe.transformer.height, pipe.transformer.width)
    codes = _zeros(batch_size, pipe.transformer.num_latent_pixels, dtype=ms.int32)
    return Graph("decoder", cell, {"codes": codes}, "pictures")


def _zeros(*shape: int, dtype: ms.Type = ms.float32) -> Tensor:
    return Tensor(np.zeros(shape), dtype)
