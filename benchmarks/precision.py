"""How far float16 agrees with float32, with the model of shapes; products in float16, which a CPU does for this alone.

    python benchmarks/precision.py

Held-out prompts of the demo data, half of them of one shape and half of two; the same uniform numbers for both types.
It tells how many codes are equal after a single step from the same x_t (float32's, at timesteps --every apart), and at
the end of both chains; how far apart the pictures are; and how many show what was asked for, as the demo data's oracle
reads them.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from mindspore import Tensor
from turns import table

from mindone_vq import VQDiffusionPipeline
from mindone_vq.demo import SHAPES_MODEL
from mindone_vq.demo.shapes_evaluation import random_prompts, score
from mindone_vq.demo.share import Share
from mindone_vq.diffusion.options import SamplingOptions
from mindone_vq.diffusion.sample_step import UNKNOWN
from mindone_vq.diffusion.sampling import make_generators
from mindone_vq.diffusion.steps import Step
from mindone_vq.nn import device


@dataclass
class Side:
    """A pipeline in one type, its step for the prompts, and its codes so far."""

    pipe: VQDiffusionPipeline
    denoise: Callable[..., Tensor]
    x_t: Tensor

    def take(self, x_t: Tensor, step: Step, uniforms: np.ndarray) -> Tensor:
        return self.denoise(x_t, [step], uniforms[None], np.full((1, *x_t.shape), UNKNOWN, np.int32))

    def pixels(self, codes: Tensor) -> np.ndarray:
        """(batch, H, W, 3), 0 to 255."""
        return np.stack([np.asarray(picture, np.int32) for picture in self.pipe.decode_latents(codes)])


def make_side(dtype: ms.Type, prompts: list[str], steps: int) -> Side:
    pipe = VQDiffusionPipeline.from_pretrained(SHAPES_MODEL, mindspore_dtype=dtype)
    conditioning = pipe.denoiser.condition(*(each.asnumpy() for each in pipe.encode_prompt(prompts)))
    denoise = pipe.denoiser.step(
        conditioning, SamplingOptions(**{**pipe.default_settings, "num_inference_steps": steps})
    )
    masked = np.full((len(prompts), pipe.transformer.num_latent_pixels), pipe.scheduler.mask_class, np.int32)
    return Side(pipe, denoise, Tensor(masked))


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
    device.widens = lambda: False  # products in float16, as on an NPU
    full, half = (make_side(dtype, prompts, options.steps) for dtype in (ms.float32, ms.float16))

    scheduler, sampler = full.pipe.scheduler, SamplingOptions().sampler
    generators = make_generators([options.seed + i for i in range(options.count)], options.count)
    all_codes, new_codes = [], []
    for i, step in enumerate(scheduler.steps(options.steps)):
        uniforms = sampler.draw_uniforms(generators, *full.x_t.shape)
        before, after = full.x_t, full.take(full.x_t, step, uniforms)
        if i % options.every == 0:
            same = after.asnumpy() == half.take(before, step, uniforms).asnumpy()
            all_codes.append(same.ravel())
            mask = scheduler.mask_class
            new_codes.append(same[(before.asnumpy() == mask) & (after.asnumpy() != mask)])
        half.x_t, full.x_t = half.take(half.x_t, step, uniforms), after

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
