"""Changes a picture as a whole.

    python examples/image_to_image.py "a large blue ring on a gray background" --strengths 0.2 0.5 0.8 1

Without --image a picture of the demo data is drawn. Without a prompt: variations of the picture. The result shows the
picture, then one for each strength: 0 leaves it, 1 looks at the prompt alone.
"""

import argparse
from pathlib import Path

import common
import numpy as np
from PIL import Image

from mindone_vq import VQDiffusionImg2ImgPipeline
from mindone_vq.demo.shapes import Scene, Shape, draw
from mindone_vq.pictures import enlarge, grid


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = common.text_parser(__doc__, "outputs/image_to_image.png")
    parser.add_argument("prompt", nargs="?", metavar="PROMPT", help="what to show [variations]")
    parser.add_argument("--image", type=Path, help="[a picture of the demo data]")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.3, 0.6, 0.9], help="[%(default)s]")
    common.add_profile(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    dtype = common.set_up(options)
    pipe = VQDiffusionImg2ImgPipeline.from_pretrained(common.source(options), mindspore_dtype=dtype)
    if options.image:
        image = Image.open(options.image)
    else:
        scene = Scene("white", Shape("large", "red", "circle"))
        image = draw(scene, np.random.default_rng(options.seed))
    settings, pictures = common.call_settings(options), []
    if options.prompt is None:
        settings.pop("guidance_scale", None)
    unguided = {"guidance_scale": 1.0} if options.prompt is None else {}  # as variations are
    with common.profiled(options, pipe, **settings, **unguided):
        for strength in options.strengths:
            given = dict(strength=strength, generator=[options.seed], **settings)
            if options.prompt is None:
                pictures += pipe.variations(image, **given)[0]
            else:
                pictures += pipe(image, options.prompt, **given)[0]
    shown = [image.convert("RGB").resize(pictures[0].size), *pictures]
    strengths = ", ".join(f"{strength:g}" for strength in options.strengths)
    label = f"{options.prompt or 'variations'} (the picture; strength {strengths})"
    common.save(grid([[enlarge(each) for each in shown]], [label]), options.output)


if __name__ == "__main__":
    common.run(main)
