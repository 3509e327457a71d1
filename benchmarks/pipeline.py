"""Prompts to pictures with the model of shapes, beside diffusers with the same weights.

    python benchmarks/pipeline.py

The whole call, from prompts to PIL pictures, at several batch sizes; both sides take turns, each in a process of its
own, with the same steps, guidance scale and truncation. Then the cold start: from starting
examples/text_to_image.py with one prompt, or the same for diffusers, to the written PNG; ours without and with the
compiled graphs of a process before.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import turns
from turns import Parts, gigabytes, spread, table

from mindone_vq.demo import SHAPES_MODEL

ROOT = Path(__file__).resolve().parents[1]
PROMPTS = (
    "a large red circle on a white background",
    "a small cyan ring above a large purple square on a black background",
    "a small green triangle to the left of a small orange cross on a gray background",
    "a large blue diamond on a gray background",
)


def prompts(batch: int) -> list[str]:
    return [PROMPTS[i % len(PROMPTS)] for i in range(batch)]


def settings(steps: int, model: Path = SHAPES_MODEL) -> dict[str, Any]:
    """Of a call, the same on both sides: guidance and truncation as the model's index has them."""
    own = json.loads((model / "model_index.json").read_text(encoding="utf-8"))["_default_settings"]
    return {"num_inference_steps": steps, **{name: own[name] for name in ("guidance_scale", "truncation_rate")}}


def ours(batch: int, steps: int) -> Parts:
    from mindone_vq import VQDiffusionPipeline

    pipe = VQDiffusionPipeline.from_pretrained(SHAPES_MODEL)
    pipe.set_progress_bar_config(disable=True)
    return {"call": lambda: len(pipe(prompts(batch), generator=0, **settings(steps))[0])}


def torch_pipeline(model: Path = SHAPES_MODEL) -> Any:
    """diffusers' pipeline, assembled component by component: no current release loads such a folder whole."""
    import torch
    from diffusers import Transformer2DModel, VQDiffusionScheduler, VQModel
    from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import (
        LearnedClassifierFreeSamplingEmbeddings,
        VQDiffusionPipeline,
    )
    from transformers import CLIPTextModel, CLIPTokenizer

    torch.set_num_threads(os.cpu_count() or 1)
    classes = {
        "vqvae": VQModel,
        "transformer": Transformer2DModel,
        "text_encoder": CLIPTextModel,
        "tokenizer": CLIPTokenizer,
        "scheduler": VQDiffusionScheduler,
        "learned_classifier_free_sampling_embeddings": LearnedClassifierFreeSamplingEmbeddings,
    }
    pipe = VQDiffusionPipeline(**{name: kind.from_pretrained(model / name) for name, kind in classes.items()})
    pipe.set_progress_bar_config(disable=True)
    return pipe


def theirs(batch: int, steps: int) -> Parts:
    import torch

    pipe, generator = torch_pipeline(), torch.Generator().manual_seed(0)
    return {"call": lambda: len(pipe(prompts(batch), generator=generator, **settings(steps)).images)}


SIDES = {"mindone_vq": ours, "diffusers": theirs}


def draw_with_diffusers(output: Path, steps: int) -> None:
    """One prompt to one PNG."""
    torch_pipeline()(PROMPTS[0], **settings(steps)).images[0].save(output)


def cold_starts(rounds: int, steps: int) -> Iterator[list[str]]:
    """Rows: seconds from the start of a process to its PNG, and its largest resident memory."""
    ours = [str(ROOT / "examples" / "text_to_image.py"), PROMPTS[0], "--output"]
    commands = {"mindone_vq, the first time": ours, "mindone_vq": ours, "diffusers": [__file__, "--draw"]}
    runs: dict[str, list[tuple[float, float]]] = {side: [] for side in commands}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as graphs:
            for side, command in commands.items():
                output = Path(graphs) / "picture.png"
                command = [sys.executable, *command, str(output), "--steps", str(steps)]
                runs[side].append(cold_start(command, output, {"MINDONE_VQ_GRAPHS": graphs}))
                output.unlink()
    peer = statistics.median(seconds for seconds, _ in runs["diffusers"])
    for side, values in runs.items():
        seconds = [each for each, _ in values]
        memory = gigabytes(max(each for _, each in values))
        yield [side, spread(seconds), f"{peer / statistics.median(seconds):.2f}", memory]


def cold_start(command: list[str], output: Path, variables: dict[str, str]) -> tuple[float, float]:
    """Seconds until ``output`` is written, and the largest resident memory of the command in bytes."""
    began = time.time()
    silent = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    process = subprocess.Popen(command, **silent, env={**os.environ, **variables})
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}.")
    return output.stat().st_mtime - began, usage.ru_maxrss * 1024


def speeds(batches: list[int], rounds: int, steps: int) -> Iterator[list[Any]]:
    """Rows: seconds of a call."""
    for batch in batches:
        workers = [turns.start(__file__, side, batch=batch, steps=steps) for side in SIDES]
        times = turns.take_turns(workers, rounds)
        peer = statistics.median(times["diffusers", "call"])
        for worker in workers:
            worker.close()
            values, first = times[worker.name, "call"], f"{worker.first['call']:.1f} s"
            median = statistics.median(values)
            numbers = [spread(values), f"{batch / median:.3g}", f"{peer / median:.2f}"]
            yield [batch, worker.name, *numbers, first, gigabytes(worker.peaks["call"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 64], help="[%(default)s]")
    parser.add_argument("--steps", type=int, default=100, help="of denoising [%(default)s]")
    parser.add_argument("--draw", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.draw:
        draw_with_diffusers(options.draw, options.steps)
        return
    print(f"{settings(options.steps)}\n")
    header = ["batch", "", "a call", "pictures a second", "speed beside diffusers", "first call", "resident memory"]
    print(table(header, speeds(options.batches, options.rounds, options.steps)), end="\n\n", flush=True)
    header = ["cold start", "to the PNG", "speed beside diffusers", "resident memory"]
    print(table(header, cold_starts(options.rounds, options.steps)))


if __name__ == "__main__":
    turns.run(SIDES, main)
