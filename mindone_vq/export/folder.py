"""Everything that it takes to generate with a pipeline's graphs, in one folder."""

import os
from pathlib import Path
from typing import Any, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor

import mindone_vq
from mindone_vq.diffusion.schedule import CLEAN
from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.export.graphs import CONDITIONS, graphs_of
from mindone_vq.export.mindir import write_mindir
from mindone_vq.nn.device import device
from mindone_vq.pipelines.base import DiffusionPipeline
from mindone_vq.pipelines.class_to_image import ClassToImagePipeline
from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.weights.files import replacing_folder, write_json

DESCRIPTION = "pipeline.json"
DTYPES = {ms.float32: "float32", ms.float16: "float16"}

GENERATION = {
    VQDiffusionPipeline: [
        "Tokenize the prompts with the byte-pair encoding in tokenizer/: begin token, the prompt's tokens (cut to "
        "length - 2), end token, then the padding token up to length.",
        "condition = text_encoder(input_ids); guided: null_text.npy for each picture before them.",
        "context = context(condition).",
    ],
    ClassToImagePipeline: [
        "condition = the class of each picture; guided: null_class for each picture before them.",
        "context = context(condition).",
    ],
}
STEPS = [
    "x = mask_class everywhere; where num_start_codes is not 0, so many random codes, repeated over the pixels.",
    "For n steps take row n - 1 of timesteps.npy: for i from 0 to n - 1, t = row[i], s = row[i + 1] (-1 is the end), "
    "x = denoising_step(x, [t], ..., transition_coefficients[t, s + 1], ...) with new uniforms. The pipeline takes "
    "them from numpy.random.default_rng(seed).random((batch, pixels), dtype=float32), step after step.",
    "pictures = decoder(x).",
]


def export_pipeline(
    pipe: DiffusionPipeline,
    folder: Union[str, os.PathLike],
    batch_size: int,
    guided: bool = True,
    overwrite: bool = False,
) -> Path:
    """Writes the graphs of ``pipe`` as MINDIR files, the constants that a generation needs, and pipeline.json.

    Written beside ``folder`` under another name, which is changed at the end: whole or not at all. The graphs have the
    form for the device that the pipeline was built for: load it, and call this, inside ``nn.device.built_for`` if that
    is another than the one that computes.

    Args:
        pipe: float32 or float16.
        folder: is made.
        batch_size: pictures at a time; the files are good for no other.
        guided: whether the step has classifier-free guidance.
        overwrite: replace a folder that is not empty.

    Returns:
        The path of pipeline.json, which says what each file is and how to generate with them.

    Raises:
        FileExistsError: ``folder`` is a file, or not empty.
        TypeError, ValueError: something in the pipeline cannot be exported; the message names it.
    """
    _check(pipe, batch_size)
    graphs = graphs_of(pipe, batch_size, guided)
    with replacing_folder(Path(folder), overwrite) as partial:
        described = {graph.name: write_mindir(graph, partial) for graph in graphs}
        content = {
            "pipeline": type(pipe).__name__,
            "versions": {"mindone_vq": mindone_vq.__version__, "mindspore": ms.__version__},
            "built_for": device(),
            "dtype": DTYPES[pipe.dtype],
            "batch_size": batch_size,
            "guided": guided,
            "default_settings": pipe.default_settings,
            "graphs": described,
            "steps": _write_steps(pipe.scheduler, partial),
            "how_to_generate": [*GENERATION.get(type(pipe), []), *STEPS],
        }
        if isinstance(pipe, VQDiffusionPipeline):
            content["text"] = _write_text(pipe, partial, guided)
        if isinstance(pipe, ClassToImagePipeline):
            content["null_class"] = pipe.transformer.num_class_embeds - 1
        write_json(partial / DESCRIPTION, content)
    return Path(folder) / DESCRIPTION


def _check(pipe: DiffusionPipeline, batch_size: int) -> None:
    if type(pipe) not in CONDITIONS:
        known = ", ".join(kind.__name__ for kind in CONDITIONS)
        raise TypeError(f"pipe is a {type(pipe).__name__}; it must be one of {known}.")
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; it must be a positive integer.")
    if pipe.dtype not in DTYPES:
        raise ValueError(f"The pipeline is {pipe.dtype}; export it in float32 or float16: pipe.to(mindspore.float16).")


def _write_steps(scheduler: VQDiffusionScheduler, folder: Path) -> dict[str, Any]:
    """The timesteps for every number of steps, and the coefficients of every transition."""
    total = scheduler.num_train_timesteps
    timesteps = np.full((total, total + 1), CLEAN, np.int32)
    for n in range(1, total + 1):
        timesteps[n - 1, :n] = [step.t for step in scheduler.steps(n)]
    coefficients = np.zeros((total, total + 1, 9), np.float32)
    for t in range(total):
        for s in range(CLEAN, t):
            coefficients[t, s + 1] = scheduler.schedule.transition_coefficients(t, s)
    np.save(folder / "timesteps.npy", timesteps)
    np.save(folder / "transition_coefficients.npy", coefficients)
    return {
        "num_train_timesteps": total,
        "mask_class": scheduler.mask_class,
        "num_start_codes": scheduler.num_start_codes,
        "timesteps": "timesteps.npy",
        "transition_coefficients": "transition_coefficients.npy",
    }


def _write_text(pipe: VQDiffusionPipeline, folder: Path, guided: bool) -> dict[str, Any]:
    """The tokenizer and, for guidance, the embedding of the null text."""
    pipe.tokenizer.save_pretrained(folder / "tokenizer")
    content: dict[str, Any] = {
        "tokenizer": "tokenizer",
        "length": pipe.text_length,
        "begin_token_id": pipe.tokenizer.bos_token_id,
        "end_token_id": pipe.tokenizer.eos_token_id,
        "padding_token_id": pipe.tokenizer.pad_token_id,
    }
    if guided:
        any_text = Tensor(np.ones((1, content["length"], pipe.transformer.config.cross_attention_dim)), ms.float32)
        _, null = pipe.encode_prompt(prompt_embeds=any_text)
        np.save(folder / "null_text.npy", null.asnumpy()[0])  # (length, dim)
        content["null_embeddings"] = "null_text.npy"
    return content
