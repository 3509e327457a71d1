"""Prompts to pictures.

    python examples/text_to_image.py "a large red circle on a white background"

Without --model the bundled model is used; it draws one coloured shape on a plain background, 32 x 32 pixels. Its
words are: small, large; red, green, blue, yellow, purple, orange, cyan, pink; circle, square, triangle, cross, ring,
diamond; on a black, gray or white background.
"""

import argparse
import logging
import sys
from pathlib import Path

import mindspore as ms
import numpy as np

from mindone_vq import VQDiffusionPipeline
from mindone_vq.demo import MODEL, SETTINGS
from mindone_vq.pictures import cover_masked, enlarge, grid

DTYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}
FILMSTRIP_FRAMES = 10


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="what to show; several make a labelled grid")
    parser.add_argument("--model", metavar="DIR_OR_HUB_ID", help="a pipeline folder or a hub id [the bundled model]")
    parser.add_argument("--steps", type=int, default=100, help="denoising steps [%(default)s]")
    parser.add_argument("--guidance-scale", type=float, help="above 1 guidance is on [bundled model 2, others 5]")
    parser.add_argument(
        "--truncation-rate", type=float, help="share of probability kept [bundled model 0.86, others 1]"
    )
    parser.add_argument("--seed", type=int, default=0, help="picture i is drawn with seed + i [%(default)s]")
    parser.add_argument("--num-images", type=int, default=1, help="pictures of each prompt [%(default)s]")
    parser.add_argument("--negative-prompt", help="what to steer away from")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="type of the weights [%(default)s]")
    parser.add_argument("--device", choices=["CPU", "Ascend"], help="[what MindSpore chooses]")
    parser.add_argument("--output", type=Path, default=Path("outputs/text_to_image.png"), help="[%(default)s]")
    parser.add_argument("--filmstrip", type=Path, help="also write the pictures of intermediate steps to this file")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if options.device:
        ms.set_device(options.device)
    source = options.model or MODEL
    settings = {} if options.model else dict(SETTINGS)
    if options.guidance_scale is not None:
        settings["guidance_scale"] = options.guidance_scale
    if options.truncation_rate is not None:
        settings["truncation_rate"] = options.truncation_rate

    print(f"Loading {options.model or 'the bundled model'} ...")
    pipe = VQDiffusionPipeline.from_pretrained(source, mindspore_dtype=DTYPES[options.dtype])
    count = len(options.prompts) * options.num_images
    frames = Frames(pipe, options.steps) if options.filmstrip else None
    pictures = pipe(
        options.prompts,
        num_inference_steps=options.steps,
        num_images_per_prompt=options.num_images,
        generator=[options.seed + i for i in range(count)],
        negative_prompt=options.negative_prompt,
        callback=frames,
        **settings,
    )[0]

    if count == 1:
        save(enlarge(pictures[0]), options.output)
    else:
        shown = [enlarge(picture) for picture in pictures]
        rows = [shown[i : i + options.num_images] for i in range(0, count, options.num_images)]
        save(grid(rows, options.prompts), options.output)
    if frames:
        labels = [prompt for prompt in options.prompts for _ in range(options.num_images)]
        save(grid(frames.rows(), labels), options.filmstrip)


class Frames:
    """Keeps some of the intermediate x_t, to show them gray where a code is still masked."""

    def __init__(self, pipe: VQDiffusionPipeline, steps: int) -> None:
        self.pipe = pipe
        self.kept = {int(step) for step in np.linspace(0, steps - 1, min(steps, FILMSTRIP_FRAMES))}
        self.codes = []

    def __call__(self, step: int, timestep: int, latents: ms.Tensor) -> None:
        if step in self.kept:
            self.codes.append(latents.asnumpy())

    def rows(self) -> list[list]:
        """For each picture its frames. What is masked is decoded as it ends, so that it lends no colour to the rest."""
        shape = (self.pipe.transformer.height, self.pipe.transformer.width)
        columns = []
        for codes in self.codes:
            masked = codes == self.pipe.scheduler.mask_class
            pictures = self.pipe.decode_latents(ms.Tensor(np.where(masked, self.codes[-1], codes)))
            covered = [cover_masked(picture, mask.reshape(shape)) for picture, mask in zip(pictures, masked)]
            columns.append([enlarge(picture, 96) for picture in covered])
        return [list(row) for row in zip(*columns)]


def save(picture, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    picture.save(temporary, format="PNG")
    temporary.replace(path)
    print(f"Wrote {path} ({picture.width} x {picture.height}).")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, TypeError, FileNotFoundError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
