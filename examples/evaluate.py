"""How often does a model draw what the prompt says? Generates pictures of many prompts, reads them and counts.

    python examples/evaluate.py --count 500

Without --prompts the prompts are of the demo data, half with one shape and half with two, in combinations held out
of training; the demo data's oracle reads every picture. --prompts takes them from a file; the oracle reads those in the
words of the demo data. Writes into --output:

    report.json   settings, scores, speed, and for each prompt its seed, its picture and what was read
    grid.png      24 of the pictures, with the wrong ones labelled
    pictures/     every picture, with --save-pictures or --prompts
"""

import argparse
import time
from pathlib import Path
from typing import Any, Optional

import common
import mindspore as ms
import numpy as np
from PIL import Image
from tqdm import tqdm

import mindone_vq
from mindone_vq import VQDiffusionPipeline
from mindone_vq.batch import Picture, batches_of, generate_batch
from mindone_vq.demo import MODEL
from mindone_vq.demo.evaluation import Scores, random_prompts, score, understand
from mindone_vq.demo.shapes import Scene, caption
from mindone_vq.pictures import enlarge, grid
from mindone_vq.text.prompts import read_prompts
from mindone_vq.weights.files import atomic_file, write_json

PAIRS = {"one": 0.0, "two": 1.0, "both": 0.5}
DEFAULT_COUNT = 500
GRID_PICTURES, GRID_COLUMNS, GRID_SIDE = 24, 6, 192


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = common.text_parser(__doc__, "outputs/evaluate")
    parser.add_argument("--batch-size", type=int, default=50, help="pictures at a time [%(default)s]")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help='one a line, or .jsonl with "text" in each line')
    parser.add_argument(
        "--count", type=int, help=f"prompts to generate [{DEFAULT_COUNT}] or to take from the file [all]"
    )
    share = parser.add_mutually_exclusive_group()
    share.add_argument("--kind", choices=PAIRS, help="prompts of one shape, of two, or half and half [both]")
    share.add_argument("--pairs", type=float, metavar="0..1", help="share of prompts of two shapes")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--held-out", action="store_true", help="combinations held out of training [default]")
    chosen.add_argument("--all", action="store_true", help="any combinations")
    parser.add_argument("--save-pictures", action="store_true", help="write every picture, too")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    check(options)
    scenes, prompts = take_prompts(options) if options.prompts else make_prompts(options)
    dtype = common.set_up(options)

    print(f"Loading {options.model or 'the bundled model'} ...")
    pipe = VQDiffusionPipeline.from_pretrained(options.model or MODEL, mindspore_dtype=dtype)
    settings = {**pipe.default_settings, **common.call_settings(options)}
    planned = [Picture(prompt, options.seed + i, f"{i:06d}.png") for i, prompt in enumerate(prompts)]
    pictures, seconds = generate(pipe, planned, options.batch_size, settings)

    readable = [i for i, scene in enumerate(scenes) if scene]
    scores = score([scenes[i] for i in readable], [pictures[i] for i in readable]) if readable else None
    entries = [{"prompt": each.prompt, "seed": each.seed, "file": None} for each in planned]
    for i, found, right in zip(readable, scores.found, scores.right) if scores else ():
        entries[i].update(right=right, shown=caption(found) if found else None)
    if options.save_pictures or options.prompts:
        for entry, each, picture in zip(entries, planned, pictures):
            entry["file"] = f"pictures/{each.name}"
            with atomic_file(options.output / entry["file"]) as file:
                picture.save(file, format="PNG")
    common.save(overview(pictures, entries), options.output / "grid.png")
    speed = measure(seconds, min(options.batch_size, len(prompts)))
    write_json(options.output / "report.json", report(options, settings, speed, scores, entries))
    print(f"Wrote {options.output / 'report.json'}.")
    print(f"{len(prompts)} pictures, {speed['seconds']:.1f} s; {speed['pictures_per_second']:.3g} pictures a second.")
    print(scores if scores else "No prompt is in the words of the demo data: no picture was read.")


def check(options: argparse.Namespace) -> None:
    """Reports mistakes before a model is loaded."""
    for name, value in (("--count", options.count), ("--batch-size", options.batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")
    if options.pairs is not None and not 0 <= options.pairs <= 1:
        raise ValueError(f"--pairs is {options.pairs}; it must be from 0 to 1.")
    if options.prompts and (options.kind or options.pairs is not None or options.held_out or options.all):
        raise ValueError("--kind, --pairs, --held-out and --all choose prompts of the demo data: leave out --prompts.")


def make_prompts(options: argparse.Namespace) -> tuple[list[Optional[Scene]], list[str]]:
    """Random scenes of the demo data, those of one shape first, and their captions."""
    count = options.count or DEFAULT_COUNT
    twos = round(count * (PAIRS[options.kind or "both"] if options.pairs is None else options.pairs))
    return random_prompts(np.random.default_rng(options.seed), count, twos, None if options.all else True)


def take_prompts(options: argparse.Namespace) -> tuple[list[Optional[Scene]], list[str]]:
    """The scenes of the file's prompts (None: not in the words of the demo data), and the prompts."""
    prompts = [prompt.text for prompt in read_prompts(options.prompts)][: options.count]
    return [understand(prompt) for prompt in prompts], prompts


def generate(
    pipe: VQDiffusionPipeline, planned: list[Picture], batch_size: int, settings: dict[str, Any]
) -> tuple[list[Image.Image], list[float]]:
    """All pictures, and the seconds of each batch."""
    pipe.set_progress_bar_config(disable=True)
    size = min(batch_size, len(planned))
    pictures, seconds = [], []
    for batch in tqdm(batches_of(len(planned), size), unit="batch"):
        began = time.perf_counter()
        pictures += generate_batch(pipe, planned[batch.start : batch.stop], size, settings)
        seconds.append(time.perf_counter() - began)
    return pictures, seconds


def measure(seconds: list[float], batch_size: int) -> dict[str, Any]:
    """The speed without the first batch, which compiles, if there is more than one."""
    rest = seconds[1:] or seconds
    return {
        "seconds": sum(seconds),
        "seconds_of_batches": seconds,
        "pictures_per_second": batch_size * len(rest) / sum(rest),
        "with_compilation": len(seconds) == 1,
    }


def report(
    options: argparse.Namespace, settings: dict[str, Any], speed: dict, scores: Optional[Scores], entries: list[dict]
) -> dict[str, Any]:
    """The content of report.json."""
    given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    if not options.prompts:
        given.update(count=len(entries), held_out=not options.all)
        given["kind"] = options.kind or (None if options.pairs is not None else "both")
    versions = {"mindone_vq": mindone_vq.__version__, "mindspore": ms.__version__}
    device = ms.get_context("device_target")
    model = options.model or f"bundled: {MODEL.name}"
    return {
        "settings": {**given, **settings, "model": model, "device": device, "versions": versions},
        "speed": speed,
        "scores": scores.to_dict() if scores else None,
        "pictures": entries,
    }


def overview(pictures: list[Image.Image], entries: list[dict]) -> Image.Image:
    """Some of the pictures, evenly spaced, each below its prompt."""
    chosen = np.linspace(0, len(pictures) - 1, min(GRID_PICTURES, len(pictures))).astype(int)
    cells = [grid([[enlarge(pictures[i], GRID_SIDE)]], [label(entries[i])]) for i in chosen]
    size = cells[0].width, max(cell.height for cell in cells)
    padded = []
    for cell in cells:
        padded.append(Image.new("RGB", size, "white"))
        padded[-1].paste(cell, (0, size[1] - cell.height))  # pictures of a row side by side, whatever their labels
    return grid([padded[i : i + GRID_COLUMNS] for i in range(0, len(padded), GRID_COLUMNS)])


def label(entry: dict) -> str:
    if entry.get("right", True):
        return entry["prompt"]
    return f"WRONG: {entry['prompt']} (shows: {entry['shown'] or 'nothing that could be read'})"


if __name__ == "__main__":
    common.run(main)
