"""How far float16 agrees with float32 on this device, with the bundled model.

    python benchmarks/precision.py

Held-out prompts of the demo data, half of them of one shape and half of two; the same uniform numbers for both types.
It tells how many codes are equal after a single step from the same x_t (float32's, at timesteps --every apart), and at
the end of both chains; how far apart the pictures are; and how many show what was asked for, as the demo data's oracle
reads them.
"""

import argparse
from dataclasses import dataclass, field
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Tensor
from turns import table

from mindone_vq import VQDiffusionPipeline
from mindone_vq.demo import MODEL
from mindone_vq.demo.evaluation import Share, random_prompts, score
from mindone_vq.diffusion.samplers import Ancestral
from mindone_vq.diffusion.sampling import draw_uniforms, make_generators
from mindone_vq.pipelines.denoising import make_step
from mindone_vq.pipelines.graphs import GraphCache


@dataclass
class Side:
    """A pipeline in one type, its step for the prompts, and where its chain is."""

    pipe: VQDiffusionPipeline
    step: Any
    scale: Tensor
    rate: Tensor
    x_t: Tensor = field(default=None)

    def take(self, x_t: Tensor, timestep: int, uniforms: np.ndarray) -> Tensor:
        jump = self.pipe.scheduler.jump(timestep)
        return self.step(x_t, timestep, jump, self.scale, self.rate, Tensor(uniforms))

    def pixels(self, codes: Tensor) -> np.ndarray:
        """(batch, H, W, 3), 0 to 255."""
        return np.stack([np.asarray(picture, np.int32) for picture in self.pipe.decode_latents(codes)])


def make_side(dtype: ms.Type, prompts: list[str], steps: int) -> Side:
    pipe = VQDiffusionPipeline.from_pretrained(MODEL, mindspore_dtype=dtype)
    pipe.scheduler.set_timesteps(steps)
    scale, rate = pipe.default_settings["guidance_scale"], pipe.default_settings["truncation_rate"]
    embeddings, null = (each.asnumpy() for each in pipe.encode_prompt(prompts))
    told = Tensor(np.concatenate((null.repeat(len(embeddings) // len(null), axis=0), embeddings)), dtype)
    step = make_step(GraphCache(), pipe.transformer, Ancestral.cell, 2, told)
    masked = np.full((len(prompts), pipe.transformer.num_latent_pixels), pipe.scheduler.mask_class, np.int32)
    return Side(pipe, step, Tensor([scale], ms.float32), Tensor([rate], ms.float32), Tensor(masked))


def share(hits: np.ndarray) -> str:
    return f"{Share(int(hits.sum()), hits.size).value:.4%} of {hits.size}" if hits.size else "none"


def distance(a: np.ndarray, b: np.ndarray) -> str:
    gap = np.abs(a - b)
    return f"mean {gap.mean():.3f}, greatest {gap.max()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=32, help="prompts [%(default)s]")
    parser.add_argument("--steps", type=int, default=100, help="of denoising [%(default)s]")
    parser.add_argument("--every", type=int, default=5, help="single steps are this many apart [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="picture i is drawn with seed + i [%(default)s]")
    options = parser.parse_args()
    scenes, prompts = random_prompts(np.random.default_rng(options.seed), options.count, options.count // 2)
    full, half = (make_side(dtype, prompts, options.steps) for dtype in (ms.float32, ms.float16))

    mask, generators = (
        full.pipe.scheduler.mask_class,
        make_generators([options.seed + i for i in range(options.count)], options.count),
    )
    all_codes, new_codes = [], []
    for i, timestep in enumerate(full.pipe.scheduler.chain[:-1]):
        uniforms = draw_uniforms(generators, *full.x_t.shape)
        before, after = full.x_t, full.take(full.x_t, timestep, uniforms)
        if i % options.every == 0:
            same = after.asnumpy() == half.take(before, timestep, uniforms).asnumpy()
            all_codes.append(same.ravel())
            new_codes.append(same[(before.asnumpy() == mask) & (after.asnumpy() != mask)])
        half.x_t, full.x_t = half.take(half.x_t, timestep, uniforms), after

    pictures = {"float32": full.pixels(full.x_t), "float16": half.pixels(half.x_t)}
    same = full.x_t.asnumpy() == half.x_t.asnumpy()
    decoded = half.pixels(full.x_t)  # float32's codes
    rows = [
        ["codes equal after a single step", share(np.concatenate(all_codes))],
        ["of them those that were masked before", share(np.concatenate(new_codes))],
        ["codes equal at the end", share(same)],
        ["pictures all of whose codes are equal", share(same.all(1))],
        ["distance of the pictures (0 to 255)", distance(*pictures.values())],
        ["distance of the decoders, of the same codes", distance(pictures["float32"], decoded)],
    ]
    for name, each in pictures.items():
        right = np.array(score(scenes, list(each.astype(np.uint8))).right)
        low, high = Share(int(right.sum()), right.size).interval
        rows.append([f"{name}: show what was asked for", f"{share(right)} (95 %: {low:.1%} to {high:.1%})"])
    print(f"{options.count} prompts, {options.steps} steps, {ms.get_context('device_target')}\n")
    print(table(["float16 beside float32", ""], rows))


if __name__ == "__main__":
    main()
