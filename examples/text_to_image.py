"""Prompts to pictures.

    python examples/text_to_image.py "a large red circle on a white background"

Without --model the model of shapes is used; it draws one or two coloured shapes on a plain background, 64 x 64 pixels.
Its words are: small, large; red, green, blue, yellow, purple, orange, cyan, pink; circle, square, triangle, cross,
ring, diamond; to the left of, to the right of, above, below; on a black, gray or white background.
"""

import argparse
from pathlib import Path

import common
import mindspore as ms
import numpy as np
from PIL import Image

from mindone_vq import VQDiffusionPipeline
from mindone_vq.pictures import cover_masked, enlarge, grid
from mindone_vq.weights.files import check_writable

FILMSTRIP_FRAMES = 10


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = common.text_parser(__doc__, "outputs/text_to_image.png")
    parser.add_argument("prompts", nargs="+", metavar="PROMPT", help="what to show; several make a labelled grid")
    parser.add_argument("--num-images", type=int, default=1, help="pictures of each prompt [%(default)s]")
    parser.add_argument("--negative-prompt", help="what to steer away from")
    parser.add_argument("--filmstrip", type=Path, help="also write the pictures of intermediate steps to this file")
    common.add_profile(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    dtype = common.set_up(options)
    if options.filmstrip:
        check_writable(options.filmstrip)

    print(f"Loading {options.model} ...")
    pipe = VQDiffusionPipeline.from_pretrained(common.source(options), mindspore_dtype=dtype)
    settings = {**pipe.default_settings, **common.call_settings(options)}
    frames = Frames(pipe, settings["num_inference_steps"]) if options.filmstrip else None
    arguments = dict(
        prompt=options.prompts,
        num_images_per_prompt=options.num_images,
        generator=[options.seed + i for i in range(len(options.prompts) * options.num_images)],
        negative_prompt=options.negative_prompt,
        callback=frames,
        **settings,
    )
    with common.profiled(options, pipe, **arguments):
        pictures = pipe(**arguments)[0]
    common.save_pictures(pictures, options.num_images, options.prompts, options.output)
    if frames:
        labels = [prompt for prompt in options.prompts for _ in range(options.num_images)]
        common.save(grid(frames.rows(), labels), options.filmstrip)


class Frames:
    """Keeps some of the intermediate x_t, to show them gray where a code is still masked."""

    def __init__(self, pipe: VQDiffusionPipeline, steps: int) -> None:
        self.pipe = pipe
        self.kept = {int(step) for step in np.linspace(0, steps - 1, min(steps, FILMSTRIP_FRAMES))}
        self.codes: list[np.ndarray] = []

    def __call__(self, step: int, timestep: int, latents: ms.Tensor) -> None:
        if step in self.kept:
            self.codes.append(latents.asnumpy())

    def rows(self) -> list[list[Image.Image]]:
        """For each picture its frames. What is masked is decoded as it ends, so that it lends no colour to the rest."""
        shape = (self.pipe.transformer.height, self.pipe.transformer.width)
        columns = []
        for codes in self.codes:
            masked = codes == self.pipe.scheduler.mask_class
            pictures = self.pipe.decode_latents(ms.Tensor(np.where(masked, self.codes[-1], codes)))
            covered = [cover_masked(picture, mask.reshape(shape)) for picture, mask in zip(pictures, masked)]
            columns.append([enlarge(picture, 96) for picture in covered])
        return [list(row) for row in zip(*columns)]


if __name__ == "__main__":
    common.run(main)
