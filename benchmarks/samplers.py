"""Accuracy and time against steps: the bundled model, every sampler, and diffusers' own chain with the same weights.

    python benchmarks/samplers.py

Prompts of the demo data in combinations held out of training, half of one shape and half of two, as
examples/evaluate.py makes them; every picture is read by the oracle. diffusers is asked for the same numbers of steps.
The numbers are written as JSON when they are there: a run that was cut off goes on, and --plot-only draws them.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pipeline
import turns

from mindone_vq.demo import MODEL
from mindone_vq.demo.evaluation import score
from mindone_vq.demo.shapes import caption, random_scene
from mindone_vq.weights.files import write_json

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "samplers.png"
STEPS = [5, 10, 16, 25, 50, 100]
OURS = {
    "ancestral": dict(sampler="ancestral"),
    "purity": dict(sampler="purity"),
    "confidence": dict(sampler="confidence"),
    "halton": dict(sampler="halton"),
}
DIFFUSERS = "diffusers"


def scenes(count: int, seed: int) -> tuple[list, list[str]]:
    rng = np.random.default_rng(seed)
    made = [random_scene(rng, pairs=float(i >= count // 2), held_out=True) for i in range(count)]
    return made, [caption(scene, rng) for scene in made]


def ours(settings: dict[str, Any], steps: int, prompts: list[str], batch: int) -> tuple[list, float]:
    from mindone_vq import VQDiffusionPipeline

    pipe = _kept.setdefault("ours", VQDiffusionPipeline.from_pretrained(MODEL))
    pipe.set_progress_bar_config(disable=True)
    given = {**settings, "num_inference_steps": steps}
    pipe(prompts[:batch], generator=0, **{**given, "num_inference_steps": 1})  # compiles
    pictures, began = [], time.perf_counter()
    for start in range(0, len(prompts), batch):
        seeds = [start + i for i in range(batch)]
        pictures += pipe(prompts[start : start + batch], generator=seeds, **given)[0]
    return pictures, time.perf_counter() - began


def theirs(steps: int, prompts: list[str], batch: int) -> tuple[list, float]:
    import torch

    pipe = _kept.setdefault("theirs", pipeline.torch_pipeline())
    pictures, began = [], time.perf_counter()
    for start in range(0, len(prompts), batch):
        generator = torch.Generator().manual_seed(start)
        pictures += pipe(prompts[start : start + batch], generator=generator, **pipeline.settings(steps)).images
    return pictures, time.perf_counter() - began


_kept: dict[str, Any] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=500, help="prompts; a multiple of the batch [%(default)s]")
    parser.add_argument("--batch", type=int, default=50, help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts [%(default)s]")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS, help="[%(default)s]")
    parser.add_argument("--samplers", nargs="+", choices=[*OURS, DIFFUSERS], default=[*OURS, DIFFUSERS], help="[all]")
    parser.add_argument("--spacing", default="uniform", help="of ours [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("outputs/samplers.json"), help="[%(default)s]")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="[%(default)s]")
    parser.add_argument("--plot-only", action="store_true", help="draw what --output holds")
    options = parser.parse_args()
    results = json.loads(options.output.read_text(encoding="utf-8")) if options.output.exists() else {}
    if not options.plot_only:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        measure(options, results)
    report(results, options.picture)


def measure(options: argparse.Namespace, results: dict[str, Any]) -> None:
    made, prompts = scenes(options.count, options.seed)
    for name in options.samplers:
        for steps in options.steps:
            key = f"{name} {steps}" if options.spacing == "uniform" else f"{name}, {options.spacing} {steps}"
            if key in results:
                continue
            if name == DIFFUSERS:
                pictures, seconds = theirs(steps, prompts, options.batch)
            else:
                pictures, seconds = ours({**OURS[name], "spacing": options.spacing}, steps, prompts, options.batch)
            right = score(made, pictures).right
            half = options.count // 2
            results[key] = dict(one=sum(right[:half]), two=sum(right[half:]), count=options.count, seconds=seconds)
            write_json(options.output, results)
            print(key, results[key], flush=True)


def report(results: dict[str, Any], picture: Path) -> None:
    from matplotlib import pyplot as plt

    curves: dict[str, dict[int, dict]] = {}
    for key, value in results.items():
        name, steps = key.rsplit(" ", 1)
        curves.setdefault(name, {})[int(steps)] = value
    steps = sorted({n for curve in curves.values() for n in curve})
    rows = []
    for name, curve in curves.items():
        rows.append([name, *(f"{accuracy(curve[n]):.1%}" if n in curve else "" for n in steps)])
        rows.append(["seconds", *(f"{curve[n]['seconds']:.0f}" if n in curve else "" for n in steps)])
        known = sorted(curve)
        plt.plot(known, [100 * accuracy(curve[n]) for n in known], marker="o", label=name)
    print(turns.table(["accuracy at so many steps", *map(str, steps)], rows))
    plt.xscale("log")
    plt.xticks(steps, steps)
    plt.xlabel("steps")
    plt.ylabel("pictures as asked for, %")
    plt.legend()
    os.makedirs(picture.parent, exist_ok=True)
    plt.savefig(picture, dpi=100, bbox_inches="tight")


def accuracy(result: dict[str, Any]) -> float:
    return (result["one"] + result["two"]) / result["count"]


if __name__ == "__main__":
    main()
