"""A student of the model of shapes beside its teacher: accuracy, diversity, time.

    python benchmarks/distillation.py prompts --seed 0 --output outputs/student_prompts.txt
    python examples/distill.py mindone_vq/demo/shapes64 --prompts outputs/student_prompts.txt \
        --config examples/configs/shapes_student.yaml --output outputs/student
    python benchmarks/distillation.py accuracy --student outputs/student --steps 4 1
    python benchmarks/distillation.py diversity --student outputs/student --steps 4 1
    python benchmarks/distillation.py time --student outputs/student

``prompts`` writes prompts of combinations that are not held out, in all their wordings, a third of them with one shape.
``accuracy``: 1,000 prompts that are held out, read by the oracle, and in a strict look. ``diversity``: where a prompt
leaves the place open, how often each of the nine places is chosen, as the total variation from the data, where all are
equally likely; and how much pictures of one prompt differ. ``time``: prompts to pictures, beside the teacher and
diffusers at 100 steps, in turns.
"""

import argparse
import itertools
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Optional

import numpy as np
import samplers
import turns

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindone_vq.demo import SHAPES_MODEL
from mindone_vq.demo.prompts import ShapesPrompts
from mindone_vq.demo.shapes import PLACES, Scene, caption, random_scene
from mindone_vq.demo.shapes_evaluation import off, score
from tests.diffusion.solvable import total_variation

EVENLY = np.full(len(PLACES), 1 / len(PLACES))
OF_A_PROMPT = 50  # pictures whose distances are compared


class Model:
    """A pipeline with settings of its own, but for the number of steps."""

    def __init__(self, folder: Path) -> None:
        from mindone_vq import VQDiffusionPipeline

        self.pipe = VQDiffusionPipeline.from_pretrained(folder)
        self.pipe.set_progress_bar_config(disable=True)

    def __call__(self, steps: int, prompts: Sequence[str], batch: int, seed: int) -> np.ndarray:
        """Pictures, (prompts, height, width, 3) uint8; picture i has the seed ``seed`` + i."""
        pictures = samplers.drawn(self.pipe, list(prompts), batch, seed, num_inference_steps=steps)
        return np.stack([np.asarray(picture) for picture in pictures])


def runs(teacher: Optional[Path], student: Path, steps: Sequence[int]) -> dict[str, Callable[..., np.ndarray]]:
    """By name what takes prompts, batch and seed: the teacher at 100 steps, and the student at each of ``steps``."""
    result = {"teacher, 100 steps": partial(Model(teacher), 100)} if teacher else {}
    model = Model(student)
    return result | {f"student, {count} steps": partial(model, count) for count in steps}


def models(options: argparse.Namespace) -> dict[str, Callable[..., np.ndarray]]:
    return runs(None if options.student_only else options.teacher, options.student, options.steps)


def prompts(options: argparse.Namespace) -> None:
    rng = np.random.default_rng(options.seed)
    texts = {caption(random_scene(rng, pairs=i % 3 > 0), rng): None for i in range(options.count)}
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text("\n".join(texts) + "\n", encoding="utf-8")
    print(f"Wrote {len(texts)} prompts to {options.output}.")


def accuracy(options: argparse.Namespace) -> None:
    asked, rows = ShapesPrompts.random(options.count, options.count // 2, True, options.seed), []
    for name, model in models(options).items():
        scores = score(asked.scenes, model(asked.prompts, options.batch, options.seed))
        groups = [
            f"{np.mean(scores.right):.1%}",
            f"{np.mean(scores.strict):.1%}",
            f"{scores.one.exact.value:.1%}, {scores.two.exact.value:.1%}",
        ]
        rows.append([name, *groups])
        print(rows[-1], flush=True)
    print(turns.table([f"of {options.count} prompts", "right", "strictly right", "one shape, two shapes"], rows))


def diversity(options: argparse.Namespace) -> None:
    rng, rows = np.random.default_rng(options.seed), []
    scenes = [random_scene(rng, pairs=0.0, held_out=True) for _ in range(options.count)]
    one = scenes[0]
    for name, model in models(options).items():
        pictures = model([caption(scene) for scene in scenes], options.batch, options.seed)
        counts = np.bincount([place(*each) for each in zip(scenes, pictures)], minlength=len(PLACES))
        chosen = counts / len(scenes)
        same = model([caption(one)] * OF_A_PROMPT, options.batch, options.seed).reshape(OF_A_PROMPT, -1).astype(float)
        apart = [np.sqrt(((a - b) ** 2).mean()) for a, b in itertools.combinations(same, 2)]
        rows.append(
            [
                name,
                f"{total_variation(counts, EVENLY):.3f}",
                f"{chosen.min():.3f} to {chosen.max():.3f}",
                f"{np.mean(apart):.1f}",
            ]
        )
        print(rows[-1], flush=True)
    floor = np.mean([total_variation(rng.multinomial(len(scenes), EVENLY), EVENLY) for _ in range(1000)])
    header = ["", "total variation of places", "least and most likely place", "levels between pictures of a prompt"]
    print(turns.table(header, rows))
    print(f"\n{options.count} prompts; as many draws from the data have a total variation of {floor:.3f}.")


def place(scene: Scene, pixels: np.ndarray) -> int:
    """Which of ``PLACES`` a picture of a scene has its shape in."""
    return int(off(scene, pixels).argmin())


def time(options: argparse.Namespace) -> None:
    for batch in options.batches:
        given = {"teacher": str(options.teacher), "student": str(options.student), "steps": options.steps}
        times = turns.time_sides(__file__, SIDES, options.rounds, **given, batch=batch)
        rows = turns.as_fast_as(samplers.DIFFUSERS, times)
        print(turns.table([f"batch {batch}", "", "seconds", "as fast"], rows), flush=True)


def ours(teacher: str, student: str, steps: list[int], batch: int) -> turns.Parts:
    texts = samplers.shapes(batch, 0).prompts
    compared = runs(Path(teacher), Path(student), steps)
    return {name: lambda model=model: len(model(texts, batch, 0)) for name, model in compared.items()}


def theirs(teacher: str, student: str, steps: list[int], batch: int) -> turns.Parts:
    run, texts = samplers.Theirs(Path(teacher)), samplers.shapes(batch, 0).prompts
    return {"100 steps": lambda: len(run(samplers.DIFFUSERS, 100, texts, batch))}


SIDES = {"mindone_vq": ours, samplers.DIFFUSERS: theirs}
COUNTS = {"prompts": 810, "accuracy": 1000, "diversity": 1000, "time": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=COUNTS)
    parser.add_argument("--teacher", type=Path, default=SHAPES_MODEL, help="[%(default)s]")
    parser.add_argument("--student", type=Path, default=Path("outputs/student"), help="[%(default)s]")
    parser.add_argument("--student-only", action="store_true", help="leave the teacher out")
    parser.add_argument("--steps", type=int, nargs="+", default=[8, 4, 2, 1], help="of the student [%(default)s]")
    parser.add_argument("--count", type=int, help=f"prompts {COUNTS}")
    parser.add_argument("--seed", type=int, default=20000, help="of the prompts and pictures [%(default)s]")
    parser.add_argument("--batch", type=int, default=50, help="[%(default)s]")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 50], help="of time [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="of time [%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("outputs/student_prompts.txt"), help="[%(default)s]")
    options = parser.parse_args()
    options.count = options.count or COUNTS[options.what]
    {"prompts": prompts, "accuracy": accuracy, "diversity": diversity, "time": time}[options.what](options)


if __name__ == "__main__":
    turns.run(SIDES, main)
