"""Does inpainting change the half that it is asked to, as the prompt asks, and nothing else? The oracle's answer.

    python benchmarks/inpainting.py

Every case is a picture of two shapes side by side or one above the other. The mask covers the half of the second
shape, and the prompt asks for a shape of another colour and kind there: it contradicts what the mask covers. The
picture that comes back has to show, for the oracle, the first shape as it was and the new one in its place; outside
the mask every pixel has to be the original's. Also reported: what the same pictures show when the prompt contradicts
the half that is kept, where only the picture can be followed.
"""

import argparse
from dataclasses import replace

import numpy as np
import turns
from PIL import Image

from mindone_vq import VQDiffusionInpaintPipeline
from mindone_vq.demo import SHAPES_MODEL
from mindone_vq.demo.shapes import SHAPES, SIDE, Scene, Shape, caption, draw, random_scene, read
from mindone_vq.diffusion.samplers import SAMPLERS


def contradicted(shape: Shape, other: Shape, rng: np.random.Generator) -> Shape:
    """Another colour and kind than either."""
    while True:
        new = SHAPES[rng.integers(len(SHAPES))]
        if not {new.colour, new.kind} & {shape.colour, shape.kind, other.colour, other.kind}:
            return new


def cases(count: int, seed: int) -> tuple[list[Image.Image], list[np.ndarray], list[Scene], list[Scene]]:
    """Pictures, masks of the second half, and scenes with another shape in it; and with another in the first half."""
    rng = np.random.default_rng(seed)
    pictures, masks, seconds, firsts = [], [], [], []
    for _ in range(count):
        scene = random_scene(rng, pairs=1.0, held_out=None)
        pictures.append(draw(scene, rng))
        after = np.arange(SIDE) >= SIDE // 2
        masks.append(np.broadcast_to(after if scene.relation == "left" else after[:, None], (SIDE, SIDE)))
        seconds.append(replace(scene, second=contradicted(scene.second, scene.first, rng)))
        firsts.append(replace(scene, first=contradicted(scene.first, scene.second, rng)))
    return pictures, masks, seconds, firsts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="[%(default)s]")
    parser.add_argument("--batch", type=int, default=50, help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="of the cases [%(default)s]")
    parser.add_argument("--steps", type=int, nargs="+", default=[5, 16], help="[%(default)s]")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS), help="[all]")
    parser.add_argument("--resample", type=int, nargs="+", default=[1], help="[%(default)s]")
    options = parser.parse_args()
    pipe = VQDiffusionInpaintPipeline.from_pretrained(SHAPES_MODEL)
    pipe.set_progress_bar_config(disable=True)
    pictures, masks, seconds, firsts = cases(options.count, options.seed)
    rows = []
    for sampler in options.samplers:
        for steps in options.steps:
            for resample in options.resample:
                settings = dict(sampler=sampler, num_inference_steps=steps, resample=resample)
                row = [f"{sampler}, {steps} steps, each {resample} x"]
                for asked in (seconds, firsts):
                    found, kept = painted(pipe, pictures, masks, asked, options.batch, settings)
                    row += [str(kept), *judged(pictures, found, asked)]
                rows.append(row)
                print(turns.table(HEAD, rows[-1:]), flush=True)
    print(turns.table(HEAD, rows))


SEEN = ["kept pixels equal", "as asked for", "kept half as it was", "masked half as asked for"]
HEAD = ["contradicting the masked half, and the kept half", *SEEN, *SEEN]


def painted(pipe, pictures, masks, scenes, batch, settings) -> tuple[list[np.ndarray], int]:
    """What comes back; and in how many of these every pixel outside the mask is the original's."""
    found = []
    for start in range(0, len(pictures), batch):
        part = slice(start, start + batch)
        prompts = [caption(scene) for scene in scenes[part]]
        seeds = list(range(start, start + len(prompts)))
        results = pipe(pictures[part], masks[part], prompts, generator=seeds, **settings)[0]
        found += [np.asarray(result) for result in results]
    kept = [
        np.array_equal(each[~mask], np.asarray(picture)[~mask]) for each, mask, picture in zip(found, masks, pictures)
    ]
    return found, sum(kept)


def judged(pictures, found, scenes) -> list[str]:
    """How many are as asked for; have the first shape as it was; have the second shape as asked for."""
    whole = first = second = 0
    for picture, result, scene in zip(pictures, found, scenes):
        before, after = read(np.asarray(picture)), read(result)
        whole += after == scene
        if after is not None and after.second is not None and after.relation == scene.relation:
            first += after.first == before.first
            second += after.second == scene.second
    return [str(whole), str(first), str(second)]


if __name__ == "__main__":
    main()
