"""Paints a part of a picture anew.

    python examples/inpaint.py "a small blue ring to the right of a large red circle on a white background"

Without --image a picture of the demo data is drawn, with --mask-box its right half painted anew. The result shows the
picture, the mask (what is painted is pink) and the new picture.
"""

import argparse
from pathlib import Path

import common
import numpy as np
from PIL import Image

from mindone_vq import VQDiffusionInpaintPipeline
from mindone_vq.demo.shapes import Scene, Shape, draw
from mindone_vq.pictures import enlarge, grid
from mindone_vq.pipelines.canvas import place

PINK = (255, 105, 180)


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = common.text_parser(__doc__, "outputs/inpaint.png")
    parser.add_argument("prompt", metavar="PROMPT", help="what the whole picture shows")
    parser.add_argument("--image", type=Path, help="[a picture of the demo data]")
    parser.add_argument("--num-images", type=int, default=1, help="results [%(default)s]")
    parser.add_argument("--resample", type=int, default=1, help="times each step is done [%(default)s]")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--mask", type=Path, help="white where to paint")
    where.add_argument(
        "--mask-box",
        type=float,
        nargs=4,
        default=(0.5, 0.0, 1.0, 1.0),
        metavar=("LEFT", "TOP", "RIGHT", "BOTTOM"),
        help="where to paint, as shares of width and height [the right half]",
    )
    where.add_argument(
        "--outpaint",
        type=int,
        nargs=2,
        metavar=("LEFT", "TOP"),
        help="paint around the image, whose corner is here on a canvas of the model's size",
    )
    common.add_profile(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    dtype = common.set_up(options)
    pipe = VQDiffusionInpaintPipeline.from_pretrained(common.source(options), mindspore_dtype=dtype)
    image, mask = image_and_mask(options, *pipe.size)
    arguments = dict(
        image=image,
        mask=mask,
        prompt=[options.prompt] * options.num_images,
        resample=options.resample,
        generator=[options.seed + i for i in range(options.num_images)],
        **common.call_settings(options),
    )
    with common.profiled(options, pipe, **arguments):
        pictures = pipe(**arguments)[0]
    covered = Image.composite(Image.new("RGB", image.size, PINK), image, mask).resize(pictures[0].size)
    shown = [image.resize(pictures[0].size), covered, *pictures]
    common.save(grid([[enlarge(each) for each in shown]], [options.prompt]), options.output)


def image_and_mask(options: argparse.Namespace, height: int, width: int) -> tuple[Image.Image, Image.Image]:
    if options.image:
        image = Image.open(options.image).convert("RGB")
    else:
        scene = Scene("white", Shape("large", "red", "circle"), Shape("large", "green", "cross"), "left")
        image = draw(scene, np.random.default_rng(options.seed))
    if options.outpaint:
        return place(image, width, height, *options.outpaint)
    if options.mask:
        return image, Image.open(options.mask).convert("L").resize(image.size)
    left, top, right, bottom = (
        round(share * side) for share, side in zip(options.mask_box, (image.width, image.height) * 2)
    )
    mask = Image.new("L", image.size)
    mask.paste(255, (left, top, right, bottom))
    return image, mask


if __name__ == "__main__":
    common.run(main)
