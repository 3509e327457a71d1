"""Draws captioned pictures of one or two shapes, 64 x 64, free of any licence, to train on and to try things out.

    python examples/make_demo_data.py data --count 10000

Writes PNG files and metadata.jsonl (file_name, text): an image folder with captions. About one combination in eight is
held out of training, and left out here; --held-out writes only these.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import common
import numpy as np
from PIL import Image
from tqdm import tqdm

from mindone_vq.demo.shapes import caption, draw, random_scene


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="is created; must not contain metadata.jsonl")
    parser.add_argument("--count", type=int, default=1000, help="pictures [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    parser.add_argument("--anywhere", action="store_true", help="shapes off the grid of 8 pixels")
    parser.add_argument(
        "--turned", type=float, default=0.5, help="share of pairs described from the second shape [%(default)s]"
    )
    parser.add_argument("--held-out", action="store_true", help="only combinations that are held out")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    if options.count < 1:
        raise ValueError(f"--count is {options.count}; it must be at least 1.")
    common.write_image_folder(options.folder, pictures(options))
    print(f"Wrote {options.count} pictures and {options.folder / 'metadata.jsonl'}.")


def pictures(options: argparse.Namespace) -> Iterator[tuple[str, Image.Image, list[str]]]:
    """File names, pictures and captions."""
    rng = np.random.default_rng(options.seed)
    for i in tqdm(range(options.count)):
        scene = random_scene(rng, held_out=options.held_out)
        yield f"{i:06d}.png", draw(scene, rng, options.anywhere), [caption(scene, rng, options.turned)]


if __name__ == "__main__":
    common.run(main)
