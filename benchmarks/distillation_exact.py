"""How far a distilled student's pictures are from the data, where everything is known exactly.

    python benchmarks/distillation_exact.py

The data are those of benchmarks/samplers_exact.py, and the teacher is perfect. Groups of its pictures are assigned to
as many x_T as in a distillation, here by the number of equal codes; the student is the best there is of its kind: for
every x_t, how often each code is each pixel's x_0, by counting. The distance is the total variation between the
student's draws and the data; the last row has no random codes in x_T, which is any factorised model without a start.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import turns

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from samplers_exact import distance

from mindone_vq import VQDiffusionScheduler
from mindone_vq.diffusion.samplers import Flow
from mindone_vq.training.distillation.coupling import assigned_starts
from mindone_vq.training.distillation.training import student_scheduler
from tests.diffusion.solvable import (
    CLASSES,
    CLEAN_STATES,
    NOISY_STATES,
    PIXELS,
    correlated,
    counted,
    noisy_index,
    sample,
)

SHARES, STEPS = [0.0, 0.3, 0.6, 1.0], [1, 2, 4, 8]


def pairs(data: np.ndarray, scheduler: VQDiffusionScheduler, count: int, group: int, rng: np.random.Generator) -> tuple:
    """x_T and x_0, assigned to each other in groups."""
    x_0 = CLEAN_STATES[rng.choice(len(data), count, p=data)]
    x_T = scheduler.initial_codes(count, PIXELS, rng).asnumpy()
    vectors = np.concatenate([np.eye(CLASSES), np.zeros((1, CLASSES))])
    starts = [assigned_starts(x_0[i : i + group], x_T[i : i + group], vectors) for i in range(0, count, group)]
    return np.concatenate(starts), x_0


def answers(x_T: np.ndarray, x_0: np.ndarray, keep: float, rng: np.random.Generator) -> np.ndarray:
    """p(x_0 of a pixel | x_t) for every noisy state, by counting: (states, pixels, classes)."""
    x_t = np.where(rng.random(x_0.shape) < keep, x_0, x_T)
    found = np.full((len(NOISY_STATES), PIXELS, CLASSES), 1e-6)
    for pixel in range(PIXELS):
        np.add.at(found[:, pixel], (noisy_index(x_t), x_0[:, pixel]), 1)
    return (found / found.sum(-1, keepdims=True)).astype(np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200_000, help="[%(default)s]")
    parser.add_argument("--groups", type=int, nargs="+", default=[16, 128, 1024], help="[%(default)s]")
    parser.add_argument("--draws", type=int, default=50_000, help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    data, rows = correlated(rng), []
    for share in SHARES:
        scheduler = student_scheduler(VQDiffusionScheduler(CLASSES + 1), share)
        given = {name: scheduler.config[name] for name in ("initial_masked_share", "gamma_cum_end")}
        timesteps = {step.t for count in STEPS for step in scheduler.steps(count, Flow())}
        for group in options.groups:
            x_T, x_0 = pairs(data, scheduler, options.pairs, group, rng)
            tables = {t: answers(x_T, x_0, scheduler.schedule.keep[t], rng) for t in timesteps}
            drawn = [sample(data, Flow(), n, options.draws, rng, tables=tables, **given) for n in STEPS]
            rows.append([f"{share:.0%}", str(group), *(f"{distance(counted(each), data):.3f}" for each in drawn)])
    print(turns.table(["masked in x_T", "pictures of a prompt", *(f"{n} steps" for n in STEPS)], rows))


if __name__ == "__main__":
    main()
