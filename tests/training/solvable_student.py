"""The best student there is of data that are known exactly: its answers are counted, not learned."""

from collections.abc import Sequence

import numpy as np

from mindone_vq import VQDiffusionScheduler
from mindone_vq.diffusion.samplers import Flow
from mindone_vq.training.distillation.coupling import assigned_starts
from mindone_vq.training.distillation.training import student_scheduler
from tests.diffusion.solvable import CLASSES, CLEAN_STATES, NOISY_STATES, PIXELS, counted, noisy_index, sample

VECTORS = np.concatenate([np.eye(CLASSES), np.zeros((1, CLASSES))])  # products count the codes that are equal


def draws_of_student(
    data: np.ndarray,
    masked_share: float,
    group: int,
    pairs: int,
    steps: Sequence[int],
    count: int,
    rng: np.random.Generator,
) -> list[np.ndarray]:
    """How often each of ``CLEAN_STATES`` is drawn, for each number of steps.

    Args:
        data: their probabilities, from which a perfect teacher draws.
        masked_share: of x_T.
        group: pictures that are assigned to as many x_T.
        pairs: of x_T and x_0, by which the answers are counted.
        steps: numbers of steps.
        count: of draws for each.
        rng: the random numbers.
    """
    scheduler = student_scheduler(VQDiffusionScheduler(CLASSES + 1), masked_share)
    x_0 = CLEAN_STATES[rng.choice(len(data), pairs, p=data)]
    drawn = scheduler.initial_codes(pairs, PIXELS, rng).asnumpy()
    groups = (slice(i, i + group) for i in range(0, pairs, group))
    x_T = np.concatenate([assigned_starts(x_0[each], drawn[each], VECTORS) for each in groups])
    timesteps = {step.t for number in steps for step in scheduler.steps(number, Flow())}
    tables = {t: _answers(x_T, x_0, scheduler.schedule.keep[t], rng) for t in timesteps}
    changed = {name: scheduler.config[name] for name in ("initial_masked_share", "gamma_cum_end")}
    return [counted(sample(data, Flow(), number, count, rng, tables=tables, **changed)) for number in steps]


def _answers(x_T: np.ndarray, x_0: np.ndarray, keep: float, rng: np.random.Generator) -> np.ndarray:
    """p(x_0 of a pixel | x_t) for every noisy state: (states, pixels, classes) float32."""
    x_t = np.where(rng.random(x_0.shape) < keep, x_0, x_T)
    found = np.full((len(NOISY_STATES), PIXELS, CLASSES), 1e-6)
    for pixel in range(PIXELS):
        np.add.at(found[:, pixel], (noisy_index(x_t), x_0[:, pixel]), 1)
    return (found / found.sum(-1, keepdims=True)).astype(np.float32)
