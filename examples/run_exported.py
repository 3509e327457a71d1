"""Prompts to pictures with the files of ``python -m mindone_vq.export``, as another host would do it.

    python -m mindone_vq.export MODEL --output outputs/exported --batch-size 2
    python examples/run_exported.py outputs/exported "a prompt" "another prompt"

Prompts are read with the package's tokenizer; transformers' CLIPTokenizer reads the same folder. Under MindSpore Lite
``Graph`` has other lines, and the rest is the same.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import common
import mindspore as ms
import numpy as np

from mindone_vq import CLIPTokenizer, VQDiffusionPipeline


class Graph:
    """One exported graph: numpy arrays in, in the order of pipeline.json, and a numpy array out."""

    def __init__(self, path: Path) -> None:
        self._cell = ms.nn.GraphCell(ms.load(str(path)))

    def __call__(self, *arrays: np.ndarray) -> np.ndarray:
        return self._cell(*(ms.Tensor(array) for array in arrays)).asnumpy()


class Exported:
    """What lies in an exported folder of a ``VQDiffusionPipeline``.

    Args:
        folder: where pipeline.json is.
    """

    def __init__(self, folder: Path) -> None:
        self.about = json.loads((folder / "pipeline.json").read_text(encoding="utf-8"))
        graphs, steps, self.text = self.about["graphs"], self.about["steps"], self.about["text"]
        self.graphs = {name: Graph(folder / graph["file"]) for name, graph in graphs.items()}
        self.batch, self.pixels = graphs["denoising_step"]["output"]["shape"]
        self.mask_class, self.timesteps = steps["mask_class"], np.load(folder / steps["timesteps"])
        self.start_codes = steps["num_start_codes"]
        self.coefficients = np.load(folder / steps["transition_coefficients"])
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / self.text["tokenizer"])
        self.null = np.load(folder / self.text["null_embeddings"]) if self.about["guided"] else None

    def context(self, prompts: list[str]) -> np.ndarray:
        """What as many prompts as the batch has pictures contribute, after as many null texts where it is guided."""
        length = self.text["length"]
        ids = self.tokenizer(prompts, padding="max_length", truncation=True, max_length=length, return_tensors="np")
        embeddings = self.graphs["text_encoder"](ids.input_ids.astype(np.int32))
        if self.null is not None:
            embeddings = np.concatenate((np.stack([self.null] * self.batch), embeddings))
        return self.graphs["context"](embeddings.astype(self.about["graphs"]["context"]["inputs"][0]["dtype"]))

    def start(self, generator: np.random.Generator) -> np.ndarray:
        """What the first step reads, (pixels,) int32: masks, or in a student of a few steps random codes, repeated."""
        if not self.start_codes:
            return np.full(self.pixels, self.mask_class, np.int32)
        codes = np.floor(generator.random(self.start_codes, dtype=np.float32) * self.mask_class).astype(np.int32)
        return np.resize(codes, self.pixels)

    def codes(self, prompts: list[str], steps: int, seed: int, scale: float, rate: float) -> np.ndarray:
        """The reverse process: (batch, pixels) int32. Picture i is drawn with ``seed + i``."""
        context = self.context(prompts)
        generators = [np.random.default_rng(seed + i) for i in range(self.batch)]
        settings = [np.float32([scale])] if self.about["guided"] else []
        settings.append(np.float32([rate]))
        codes = np.stack([self.start(generator) for generator in generators])
        timesteps = self.timesteps[steps - 1, : steps + 1]
        for t, s in zip(timesteps[:-1], timesteps[1:]):
            uniforms = np.stack([generator.random(self.pixels, dtype=np.float32) for generator in generators])
            step = self.graphs["denoising_step"]
            codes = step(codes, np.int32([t]), context, self.coefficients[t, s + 1], *settings, uniforms)
        return codes


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = common.parser(__doc__, "outputs/run_exported.png")
    parser.add_argument("folder", metavar="DIR", type=Path, help="of mindone_vq.export")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="as many as the files' batch size, or fewer")
    parser.add_argument("--guidance-scale", type=float, help="above 1 [the model's setting]")
    parser.add_argument("--truncation-rate", type=float, help="share of probability kept [the model's setting]")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    common.set_up(options)
    exported = Exported(options.folder)
    if len(options.prompts) > exported.batch:
        raise ValueError(f"{len(options.prompts)} prompts given; the files are for {exported.batch} at a time.")
    prompts = options.prompts + options.prompts[-1:] * (exported.batch - len(options.prompts))
    settings = exported.about["default_settings"]
    steps = _or_default(options.steps, settings["num_inference_steps"])
    if not 1 <= steps <= len(exported.timesteps):
        raise ValueError(f"--steps is {steps}; the model has {len(exported.timesteps)} timesteps.")
    scale = _or_default(options.guidance_scale, settings["guidance_scale"])
    rate = _or_default(options.truncation_rate, settings["truncation_rate"])
    codes = exported.codes(prompts, steps, options.seed, scale, rate)
    pictures = VQDiffusionPipeline.numpy_to_pil(exported.graphs["decoder"](codes))[: len(options.prompts)]
    common.save_pictures(pictures, 1, options.prompts, options.output)


def _or_default(given: Any, default: Any) -> Any:
    return default if given is None else given


if __name__ == "__main__":
    common.run(main)
