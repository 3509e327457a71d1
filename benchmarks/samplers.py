"""Accuracy and time against steps: a bundled model, every sampler, and diffusers' own chain with the same weights.

    python benchmarks/samplers.py accuracy
    python benchmarks/samplers.py accuracy --emoji GOOGLE EMOJIBASE --output outputs/emoji_samplers.json
    python benchmarks/samplers.py time
    python benchmarks/samplers.py plot

The prompts are combinations held out of training, as examples/evaluate.py makes them: shapes, half of one and half of
two, read by the oracle; with --emoji the emoji model, whose pictures are compared with the true ones. diffusers is
asked for the same numbers of steps.
``accuracy`` writes what it finds as JSON at once: a run that was cut off goes on, and ``plot`` draws it. ``time`` lets
the sides take turns, each in a process of its own, and needs a quiet machine.
"""

import argparse
import functools
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pipeline
import turns

from mindone_vq.demo import EMOJI_MODEL, SHAPES_MODEL
from mindone_vq.demo.emoji import read
from mindone_vq.demo.prompts import EmojiPrompts, ShapesPrompts
from mindone_vq.diffusion.samplers import Confidence
from mindone_vq.models.vq_model import VQModel
from mindone_vq.weights.files import write_json

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "samplers.png"
STEPS = [5, 10, 16, 25, 50, 100]
SHAPES_COUNT = 500
FEW_STEPS = [5, 10, 16, 25]
UNGUIDED = {"guidance_scale": 1.0}
# name -> what a call is given beside the number of steps; spacing is uniform, the rest as the model's index has it
OURS: dict[str, dict[str, Any]] = {
    "ancestral": dict(sampler="ancestral"),
    "purity": dict(sampler="purity"),
    "confidence": dict(sampler="confidence"),
    "halton": dict(sampler="halton"),
    "ancestral, square": dict(sampler="ancestral", spacing="square"),
    "confidence, square": dict(sampler="confidence", spacing="square"),
    "confidence, square, unguided": dict(sampler="confidence", spacing="square", **UNGUIDED),
    "confidence at 0.3, cubic, unguided": dict(sampler=Confidence(0.3), spacing="cubic", **UNGUIDED),
}
DIFFUSERS = "diffusers"
TIMED = [("ancestral", 100), ("ancestral, square", 16), ("confidence, square", 10)]


def shapes(count: int, seed: int) -> ShapesPrompts:
    """Half of one shape, then those of two."""
    return ShapesPrompts.random(count, count - count // 2, True, seed)


def few_only(name: str) -> bool:
    """Whether the row is there to show few steps."""
    return "spacing" in OURS.get(name, {})


def batches(prompts: list[str], batch: int) -> Iterator[tuple[int, list[str]]]:
    for start in range(0, len(prompts), batch):
        yield start, prompts[start : start + batch]


def drawn(pipe: Any, prompts: list[str], batch: int, seed: int = 0, **settings: Any) -> list:
    """Pictures by one of our pipelines; picture i has the seed ``seed`` + i."""
    pictures = []
    for start, part in batches(prompts, batch):
        seeds = list(range(seed + start, seed + start + len(part)))
        pictures += pipe(part, generator=seeds, **settings)[0]
    return pictures


class Ours:
    def __init__(self, model: Path = SHAPES_MODEL) -> None:
        from mindone_vq import VQDiffusionPipeline

        self.pipe = VQDiffusionPipeline.from_pretrained(model)
        self.pipe.set_progress_bar_config(disable=True)

    def __call__(self, name: str, steps: int, prompts: list[str], batch: int) -> list:
        settings = {"spacing": "uniform", **OURS[name], "num_inference_steps": steps}
        return drawn(self.pipe, prompts, batch, **settings)


class Theirs:
    def __init__(self, model: Path = SHAPES_MODEL) -> None:
        self.pipe, self.model = pipeline.torch_pipeline(model), model

    def __call__(self, name: str, steps: int, prompts: list[str], batch: int) -> list:
        import torch

        settings, pictures = pipeline.settings(steps, self.model), []
        for start, part in batches(prompts, batch):
            pictures += self.pipe(part, generator=torch.Generator().manual_seed(start), **settings).images
        return pictures


def accuracy(options: argparse.Namespace) -> None:
    results = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    if options.emoji:
        model, asked = EMOJI_MODEL, EmojiPrompts(read(*options.emoji), options.count, False, options.seed)
    else:
        model, asked = SHAPES_MODEL, shapes(options.count or SHAPES_COUNT, options.seed)
    judge = functools.cache(lambda: asked.judge(VQModel.from_pretrained(model, subfolder="vqvae")))
    side = functools.cache(lambda kind: kind(model))
    for name in options.samplers:
        for steps in options.steps:
            if f"{name} {steps}" in results or (few_only(name) and steps > max(FEW_STEPS)):
                continue
            pictures = side(Theirs if name == DIFFUSERS else Ours)(name, steps, asked.prompts, options.batch)
            _, verdicts = judge()(pictures)
            right = sum(verdict["right"] for verdict in verdicts.values())
            results[f"{name} {steps}"] = dict(right=right, count=len(verdicts))
            write_json(options.output, results)
            print(name, steps, results[f"{name} {steps}"], flush=True)
    plot(options)


def plot(options: argparse.Namespace) -> None:
    from matplotlib import pyplot as plt

    results = json.loads(options.output.read_text(encoding="utf-8"))
    curves: dict[str, dict[int, float]] = {}
    for name, steps in itertools.product([*OURS, DIFFUSERS], STEPS):
        if found := results.get(f"{name} {steps}"):
            curves.setdefault(name, {})[steps] = found["right"] / found["count"]
    rows = [[name, *(f"{curve[n]:.1%}" if n in curve else "" for n in STEPS)] for name, curve in curves.items()]
    print(turns.table(["pictures as asked for, at so many steps", *map(str, STEPS)], rows))
    for name, curve in curves.items():
        line = "--" if few_only(name) else ":" if name == DIFFUSERS else "-"
        plt.plot(list(curve), [100 * value for value in curve.values()], line, marker="o", label=name)
    plt.xscale("log")
    plt.xticks(STEPS, map(str, STEPS))
    plt.minorticks_off()
    plt.xlabel("steps")
    plt.ylabel("pictures as asked for, %")
    plt.legend()
    plt.savefig(options.picture, dpi=100, bbox_inches="tight")


def time(options: argparse.Namespace) -> None:
    times = turns.time_sides(__file__, SIDES, options.rounds, batch=options.batch)
    rows = turns.as_fast_as(DIFFUSERS, times)
    print(turns.table([f"{options.batch} prompts to pictures", "", "seconds", "as fast"], rows))


def ours(batch: int) -> turns.Parts:
    run, prompts = Ours(), shapes(batch, 0).prompts
    return {
        f"{name}, {steps} steps": lambda name=name, steps=steps: len(run(name, steps, prompts, batch))
        for name, steps in TIMED
    }


def theirs(batch: int) -> turns.Parts:
    run, prompts = Theirs(), shapes(batch, 0).prompts
    return {"100 steps": lambda: len(run(DIFFUSERS, 100, prompts, batch))}


SIDES = {"mindone_vq": ours, DIFFUSERS: theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["accuracy", "time", "plot"])
    parser.add_argument(
        "--emoji", type=Path, nargs=2, metavar=("GOOGLE", "EMOJIBASE"), help="the folders of examples/emoji_data.py"
    )
    parser.add_argument("--count", type=int, help=f"prompts [{SHAPES_COUNT}; of emoji all that are held out]")
    parser.add_argument("--batch", type=int, default=50, help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts [%(default)s]")
    parser.add_argument("--samplers", nargs="+", choices=[*OURS, DIFFUSERS], default=[*OURS, DIFFUSERS], help="[all]")
    parser.add_argument("--steps", nargs="+", type=int, choices=STEPS, default=STEPS, help="of accuracy [all]")
    parser.add_argument("--rounds", type=int, default=3, help="of time [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("outputs/samplers.json"), help="[%(default)s]")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="[%(default)s]")
    options = parser.parse_args()
    {"accuracy": accuracy, "time": time, "plot": plot}[options.what](options)


if __name__ == "__main__":
    turns.run(SIDES, main)
