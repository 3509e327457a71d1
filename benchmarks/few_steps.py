"""What makes few steps of the model of shapes better without training it, beside its best sampler.

    python benchmarks/few_steps.py

- Guidance that is weak at first and strong in the end ("linear"), at several scales.
- A schedule searched for the number of steps: the shares of pixels that are masked between the steps (arXiv
  2410.07761 searches it, too).
- An entropy-bounded sampler (arXiv 2505.24857, algorithm 1): a step gives codes to as many pixels as their joint
  entropy bounds allow, so that the number of steps follows from the prompt. It has no guidance.

Guidance is normalised after it is applied (arXiv 2507.08965) in every row: there is nothing to switch on.

What is chosen is chosen on combinations that the model was trained on; the table is of held-out ones. Right is what the
oracle reads as asked for; a strictly right picture is also near an ideal one (``shapes_evaluation.off``).
"""

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
import samplers
import turns
from mindspore import Tensor, ops

from mindone_vq import VQDiffusionPipeline
from mindone_vq.demo import SHAPES_MODEL
from mindone_vq.demo.prompts import ShapesPrompts
from mindone_vq.demo.shapes_evaluation import random_prompts, score
from mindone_vq.diffusion.sampling import draw
from mindone_vq.diffusion.spacing import SPACINGS, masked
from mindone_vq.diffusion.truncation import truncated

BASE: dict[str, Any] = dict(sampler="confidence", spacing="square")
LINEAR_SCALES = [1.3, 1.6, 2.0, 3.0]
BOUNDS = [1.0, 3.0, 6.0, 10.0]  # in nats
SEARCHED = "searched"


def right(asked: ShapesPrompts, pictures: Sequence[Any]) -> tuple[float, float]:
    """Shares of the pictures that are right, and strictly right."""
    scores = score(asked.scenes, pictures)
    return float(np.mean(scores.right)), float(np.mean(scores.strict))


def tried(pipe: VQDiffusionPipeline, asked: ShapesPrompts, batch: int, **settings: Any) -> tuple[float, float]:
    """``right`` of what the pipeline draws."""
    return right(asked, samplers.drawn(pipe, asked.prompts, batch, **{**BASE, **settings}))


def register(shares: np.ndarray) -> str:
    """A spacing whose masked shares between the steps are ``shares``."""
    points = np.concatenate(([1.0], shares, [0.0]))
    places = np.linspace(0, 1, len(points))
    SPACINGS[SEARCHED] = lambda schedule, part: masked(schedule, 1 - np.interp(part, places, points))
    return SEARCHED


def search(pipe: VQDiffusionPipeline, asked: ShapesPrompts, options: argparse.Namespace, steps: int) -> np.ndarray:
    """Hill climbing over the masked shares, from those of "square"."""
    rng = np.random.default_rng(options.seed)
    best = 1 - np.linspace(0, 1, steps + 1)[1:-1] ** 2
    shares_right = tried(pipe, asked, options.batch, num_inference_steps=steps, spacing=register(best))
    for _ in range(options.trials):
        odds = np.log(best / (1 - best)) + rng.normal(0, 0.4, len(best))
        shares = np.sort(1 / (1 + np.exp(-odds)))[::-1]
        found = tried(pipe, asked, options.batch, num_inference_steps=steps, spacing=register(shares))
        if sum(found) > sum(shares_right):
            best, shares_right = shares, found
            print(f"  {steps} steps: {np.round(best, 3)} {shares_right}", flush=True)
    return best


class EntropyBound:
    """Algorithm 1, with entropies as the measure of error: the pixels with the least entropies first, as long as their
    sum without the greatest of them is at most the bound."""

    def __init__(self, pipe: VQDiffusionPipeline) -> None:
        self.pipe, self.schedule = pipe, pipe.scheduler.schedule
        self.log_p = ms.jit(pipe.transformer.log_p_x_0)

    def __call__(self, prompts: list[str], bound: float, seed: int) -> tuple[list[Any], np.ndarray]:
        """Pictures, and how many steps each of them took."""
        rng, mask = np.random.default_rng(seed), self.schedule.num_classes
        condition, _ = self.pipe.encode_prompt(prompts, do_classifier_free_guidance=False)
        codes = np.full((len(prompts), self.pipe.transformer.num_latent_pixels), mask, np.int32)
        rate = Tensor(self.pipe.default_settings["truncation_rate"], ms.float32)
        steps = np.zeros(len(prompts), int)
        while (is_mask := codes == mask).any():
            steps += is_mask.any(-1)
            t = masked(self.schedule, 1 - is_mask.mean(-1)).round().clip(0)
            log_p = self.log_p(Tensor(codes), condition, Tensor(t.astype(np.int32)))
            kept = truncated(ops.exp(log_p), "rate", rate)
            uniforms = Tensor(rng.random(codes.shape, np.float32))
            drawn = draw(kept, ops.zeros_like(kept[:, :, :1]), uniforms).asnumpy()
            p = kept.asnumpy().astype(np.float64)
            p /= p.sum(-1, keepdims=True)
            entropy = np.where(is_mask, -(p * np.log(p.clip(1e-30))).sum(-1), np.inf)
            order = entropy.argsort(-1)
            before = np.take_along_axis(np.where(is_mask, entropy, 0), order, -1).cumsum(-1)
            before = np.concatenate((np.zeros_like(before[:, :1]), before[:, :-1]), -1)  # the sum without the greatest
            known = np.zeros_like(is_mask)
            np.put_along_axis(known, order, before <= bound, -1)
            codes = np.where(known & is_mask, drawn, codes).astype(np.int32)
        return self.pipe.decode(Tensor(codes), "pil")[0], steps


def rows(options: argparse.Namespace) -> Iterator[list[str]]:
    pipe = VQDiffusionPipeline.from_pretrained(options.model)
    pipe.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(options.seed + 1)
    seen = ShapesPrompts(*random_prompts(rng, options.search_count, options.search_count // 2, held_out=False))
    asked = samplers.shapes(options.count, options.seed)
    for steps in options.steps:
        settings: dict[str, dict[str, Any]] = {"as it is": {}, "no guidance": samplers.UNGUIDED}
        settings |= {
            f"linear guidance, {scale}": dict(guidance_schedule="linear", guidance_scale=scale)
            for scale in LINEAR_SCALES
        }
        for name, own in settings.items():
            yield [name, str(steps), *percent(tried(pipe, asked, options.batch, num_inference_steps=steps, **own))]
        shares = search(pipe, seen, options, steps)
        spacing = register(shares)
        found = tried(pipe, asked, options.batch, num_inference_steps=steps, spacing=spacing)
        yield [f"masked shares {np.round(shares, 2).tolist()}", str(steps), *percent(found)]
    bounded = EntropyBound(pipe)
    for bound in options.bounds:
        pictures, taken = [], []
        for start, part in samplers.batches(asked.prompts, options.batch):
            found, steps = bounded(part, bound, start)
            pictures += found
            taken += steps.tolist()
        counts = f"{np.mean(taken):.1f} ({min(taken)} to {max(taken)})"
        yield [f"entropy bound {bound:g} nats, no guidance", counts, *percent(right(asked, pictures))]


def percent(shares: Sequence[float]) -> list[str]:
    return [f"{share:.1%}" for share in shares]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=SHAPES_MODEL, help="[%(default)s]")
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 8], help="[%(default)s]")
    parser.add_argument("--bounds", type=float, nargs="+", default=BOUNDS, help="of entropy, in nats [%(default)s]")
    parser.add_argument("--count", type=int, default=500, help="held-out prompts [%(default)s]")
    parser.add_argument("--search-count", type=int, default=300, help="prompts of the search [%(default)s]")
    parser.add_argument("--trials", type=int, default=40, help="schedules that the search looks at [%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    parser.add_argument("--batch", type=int, default=50, help="[%(default)s]")
    options = parser.parse_args()
    found = []
    for row in rows(options):
        found.append(row)
        print(row, flush=True)
    print(turns.table(["", "steps", "right", "strictly right"], found))


if __name__ == "__main__":
    main()
