"""How often does a model draw what the prompt says? Generates pictures of many prompts, reads them and counts.

    python examples/evaluate.py --count 500
    python examples/evaluate.py --model emoji --emoji google emojibase

The prompts are of what the bundled models were trained on, in combinations held out of training. Shapes: half of the
prompts with one shape and half with two; an oracle reads every picture. --emoji, with the folders that
examples/emoji_data.py reads: a role, a gender and a tone of skin; the true picture that is nearest says what a picture
shows. --prompts takes shapes from a file; the oracle reads those in its words. Writes into --output:

    report.json   settings, scores, speed, and for each prompt its seed, its picture and what was read
    grid.png      24 of the pictures, with the wrong ones labelled; emoji to the left of their true pictures
    pictures/     every picture, with --save-pictures or --prompts
"""

import argparse
import time
from pathlib import Path
from typing import Any, Union

import common
import mindspore as ms
import numpy as np
from PIL import Image
from tqdm import tqdm

import mindone_vq
from mindone_vq import VQDiffusionPipeline
from mindone_vq.batch import Picture, batches_of, generate_batch
from mindone_vq.demo import emoji
from mindone_vq.demo.prompts import EmojiPrompts, ShapesPrompts
from mindone_vq.pictures import enlarge, grid
from mindone_vq.text.prompts import read_prompts
from mindone_vq.weights.files import atomic_file, write_json

PAIRS = {"one": 0.0, "two": 1.0, "both": 0.5}
DEFAULT_COUNT = 500
GRID_PICTURES, GRID_COLUMNS, GRID_SIDE = 24, 6, 192


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = common.text_parser(__doc__, "outputs/evaluate")
    parser.add_argument("--batch-size", type=int, default=50, help="pictures at a time [%(default)s]")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--prompts", type=Path, metavar="FILE", help='one a line, or .jsonl with "text" in each line')
    source.add_argument(
        "--emoji", type=Path, nargs=2, metavar=("GOOGLE", "EMOJIBASE"), help="compare with these true pictures"
    )
    parser.add_argument(
        "--count", type=int, help=f"prompts to generate [{DEFAULT_COUNT}; of emoji all] or to take from the file [all]"
    )
    share = parser.add_mutually_exclusive_group()
    share.add_argument("--kind", choices=PAIRS, help="prompts of one shape, of two, or half and half [both]")
    share.add_argument("--pairs", type=float, metavar="0..1", help="share of prompts of two shapes")
    chosen = parser.add_mutually_exclusive_group()
    chosen.add_argument("--held-out", action="store_true", help="combinations held out of training [default]")
    chosen.add_argument("--all", action="store_true", help="any combinations; of emoji as many trained ones, too")
    parser.add_argument("--save-pictures", action="store_true", help="write every picture, too")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    check(options)
    asked = take_prompts(options)
    dtype = common.set_up(options)

    print(f"Loading {options.model} ...")
    pipe = VQDiffusionPipeline.from_pretrained(common.source(options), mindspore_dtype=dtype)
    settings = {**pipe.default_settings, **common.call_settings(options)}
    planned = [Picture(prompt, options.seed + i, f"{i:06d}.png") for i, prompt in enumerate(asked.prompts)]
    pictures, seconds = generate(pipe, planned, options.batch_size, settings)

    scores, verdicts = asked.judge(pipe.vqvae)(pictures)
    entries = [{"prompt": each.prompt, "seed": each.seed, "file": None} for each in planned]
    for i, verdict in verdicts.items():
        entries[i].update(verdict)
    if options.save_pictures or options.prompts:
        for entry, each, picture in zip(entries, planned, pictures):
            entry["file"] = f"pictures/{each.name}"
            with atomic_file(options.output / entry["file"]) as file:
                picture.save(file, format="PNG")
    common.save(overview(pictures, entries, asked), options.output / "grid.png")
    speed = measure(seconds, min(options.batch_size, len(planned)))
    write_json(options.output / "report.json", report(options, settings, speed, scores, entries))
    print(f"Wrote {options.output / 'report.json'}.")
    print(f"{len(planned)} pictures, {speed['seconds']:.1f} s; {speed['pictures_per_second']:.3g} pictures a second.")
    print(scores if scores else "No prompt is in the words of the demo data: no picture was read.")


def check(options: argparse.Namespace) -> None:
    """Reports mistakes before a model is loaded."""
    for name, value in (("--count", options.count), ("--batch-size", options.batch_size)):
        if value is not None and value < 1:
            raise ValueError(f"{name} is {value}; it must be at least 1.")
    if options.pairs is not None and not 0 <= options.pairs <= 1:
        raise ValueError(f"--pairs is {options.pairs}; it must be from 0 to 1.")
    of_shapes = options.kind or options.pairs is not None
    if options.prompts and (of_shapes or options.held_out or options.all):
        raise ValueError("--kind, --pairs, --held-out and --all choose prompts of the demo data: leave out --prompts.")
    if options.emoji and of_shapes:
        raise ValueError("--kind and --pairs choose prompts of shapes: leave out --emoji.")
    if options.model == "emoji" and not (options.emoji or options.prompts):
        raise ValueError(
            "--model emoji is compared with true pictures, which are not part of the package: "
            "give their folders with --emoji; examples/emoji_data.py says how to get them."
        )


def take_prompts(options: argparse.Namespace) -> Union[ShapesPrompts, EmojiPrompts]:
    """The prompts that the options ask for."""
    held_out = not options.all
    if options.emoji:
        return EmojiPrompts(emoji.read(*options.emoji), options.count, not held_out, options.seed)
    if options.prompts:
        return ShapesPrompts.understood([prompt.text for prompt in read_prompts(options.prompts)][: options.count])
    count = options.count or DEFAULT_COUNT
    twos = round(count * (PAIRS[options.kind or "both"] if options.pairs is None else options.pairs))
    return ShapesPrompts.random(count, twos, held_out, options.seed)


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
    options: argparse.Namespace, settings: dict[str, Any], speed: dict, scores: Any, entries: list[dict]
) -> dict[str, Any]:
    """The content of report.json."""
    given = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    given["emoji"] = options.emoji and [str(folder) for folder in options.emoji]
    if not options.prompts:
        given.update(count=len(entries), held_out=not options.all)
    if not options.prompts and not options.emoji:
        given["kind"] = options.kind or (None if options.pairs is not None else "both")
    versions = {"mindone_vq": mindone_vq.__version__, "mindspore": ms.__version__}
    device = ms.get_context("device_target")
    return {
        "settings": {**given, **settings, "device": device, "versions": versions},
        "speed": speed,
        "scores": scores.to_dict() if scores else None,
        "pictures": entries,
    }


def overview(
    pictures: list[Image.Image], entries: list[dict], asked: Union[ShapesPrompts, EmojiPrompts]
) -> Image.Image:
    """Some of the pictures, evenly spaced, each below its prompt and beside its true picture if there is one."""
    chosen = np.linspace(0, len(pictures) - 1, min(GRID_PICTURES, len(pictures))).astype(int)
    rows = [[enlarge(each, GRID_SIDE) for each in (pictures[i], *asked.truth(i))] for i in chosen]
    cells = [grid([row], [label(entries[i])]) for row, i in zip(rows, chosen)]
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
