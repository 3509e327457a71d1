"""The model card of a saved pipeline: the README.md that a hub shows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mindspore import nn

import mindone_vq
from mindone_vq.weights.files import write_atomically

CARD = "README.md"
MARK = "<!-- Made by mindone_vq. Saving again replaces this file, unless you remove this line. -->"
FRONT = """\
---
library_name: mindone_vq
pipeline_tag: {tag}
tags: [vq-diffusion, mindspore, ascend]
---
{mark}
"""
TEXT = """\
# {title}

A VQ-Diffusion model ([arXiv 2111.14822](https://arxiv.org/abs/2111.14822)), saved by mindone_vq {version}.
It draws pictures of {side} x {side} pixels, from {grid} x {grid} codes of {codes} kinds, in up to {timesteps} steps.

## Components

| component | class | parameters |
|---|---|---|
{components}

Settings of a call, unless others are given: {settings}.

## How to use it

With mindone_vq, on an Ascend NPU or a CPU:

```python
from mindone_vq import {pipeline}

pipe = {pipeline}.from_pretrained("path/or/hub-id")
image = pipe({arguments}num_inference_steps={steps}, generator=0).images[0]
```
{diffusers}
## Training

{training}

## Licence

Not stated. Whoever publishes this model should add it here, and as `license:` at the top of this file.
"""
DIFFUSERS = """
With diffusers 0.35, whose deprecated `VQDiffusionPipeline` no longer loads a whole folder, component by component
(0.34 does not load this transformer):

```python
from diffusers import Transformer2DModel, VQDiffusionScheduler, VQModel
from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import (
    LearnedClassifierFreeSamplingEmbeddings,
    VQDiffusionPipeline,
)
from transformers import CLIPTextModel, CLIPTokenizer

folder = "path/to/this/folder"
classes = {
    "vqvae": VQModel,
    "text_encoder": CLIPTextModel,
    "tokenizer": CLIPTokenizer,
    "transformer": Transformer2DModel,
    "scheduler": VQDiffusionScheduler,
    "learned_classifier_free_sampling_embeddings": LearnedClassifierFreeSamplingEmbeddings,
}
pipe = VQDiffusionPipeline(**{name: each.from_pretrained(f"{folder}/{name}") for name, each in classes.items()})
```
"""
ARGUMENTS = {"VQDiffusionPipeline": '"a prompt", ', "ClassToImagePipeline": "1, ", "UnconditionalPipeline": ""}
UNKNOWN = "Not known to the library that saved it."


def model_card(
    pipeline: str, components: Mapping[str, Any], settings: Mapping[str, float], title: str, training: str
) -> str:
    """The card, in Markdown.

    Args:
        pipeline: the class in model_index.json.
        components: by name.
        settings: of a call, by default.
        title: of the card.
        training: what is known of how it was trained, in Markdown.
    """
    vqvae, denoiser, scheduler = (components[name] for name in ("vqvae", "transformer", "scheduler"))
    of_text = pipeline == "VQDiffusionPipeline"
    timesteps = scheduler.num_train_timesteps
    rows = [f"| {name} | {type(each).__name__} | {_parameters(each)} |" for name, each in components.items()]
    text = TEXT.format(
        title=title,
        version=mindone_vq.__version__,
        side=denoiser.height * vqvae.downscale,
        grid=denoiser.height,
        codes=denoiser.num_vector_embeds - 1,
        timesteps=timesteps,
        components="\n".join(rows),
        settings=", ".join(f"`{name}={value}`" for name, value in settings.items()),
        pipeline=pipeline,
        arguments=ARGUMENTS[pipeline],
        steps=min(timesteps, settings.get("num_inference_steps", timesteps)),
        diffusers=DIFFUSERS if of_text else "",
        training=training,
    )
    return FRONT.format(tag="text-to-image" if of_text else "unconditional-image-generation", mark=MARK) + text


def write_card(folder: Path, *description: Any) -> None:
    """Writes ``model_card(*description)`` into ``folder``, unless it has a card that is somebody's own."""
    path = folder / CARD
    if not path.exists() or MARK in path.read_text(encoding="utf-8", errors="replace"):
        write_atomically(path, model_card(*description).encode())


def _parameters(component: Any) -> str:
    if not isinstance(component, nn.Cell):
        return "-"
    return f"{sum(parameter.size for parameter in component.get_parameters()):,}"
