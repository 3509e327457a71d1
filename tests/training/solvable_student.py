"""The best student there is of data that are known exactly: its answers are counted, not learned."""

from collections.abc import Sequence

import numpy as np

from mindone_vq.diffusion.samplers import Ancestral
from mindone_vq.training.distillation.assignment import assigned, random_starts
from tests.diffusion.solvable import CLASSES, CLEAN_STATES, PIXELS, counted, sample

PICTURES, ASSIGNMENTS = 200, 80  # of the prompt, and starts, at a time; and how often
BALANCE, TEMPERATURE = 4.0, 0.3  # as ``assigned`` takes them
MEMORY = 0.9  # of the counts from one assignment to the next


def draws_of_student(
    data: np.ndarray, start_codes: int, steps: Sequence[int], count: int, rng: np.random.Generator
) -> list[np.ndarray]:
    """How often each of ``CLEAN_STATES`` is drawn, for each number of steps.

    The first step draws from what was counted for the start codes, the others from the exact p(x_0 | x_t).

    Args:
        data: their probabilities, from which a perfect teacher draws.
        start_codes: of a start; 0: any factorised model.
        steps: numbers of steps.
        count: of draws for each.
        rng: the random numbers.
    """
    p_x_0 = _learned(data, start_codes, rng)
    first = p_x_0[_starts(count, start_codes, rng)].astype(np.float32)
    return [counted(sample(data, Ancestral(), number, count, rng, first=first)) for number in steps]


def _learned(data: np.ndarray, start_codes: int, rng: np.random.Generator) -> np.ndarray:
    """p(x_0 of a pixel | start): (starts, pixels, classes)."""
    counts = np.full((CLASSES**start_codes, PIXELS, CLASSES), 1e-3) * rng.uniform(0.5, 1.5, (PIXELS, CLASSES))
    counts = counts * rng.uniform(0.9, 1.1, counts.shape)  # starts differ by chance, as in any network
    for _ in range(ASSIGNMENTS):
        x_0 = CLEAN_STATES[rng.choice(len(data), PICTURES, p=data)]
        starts = _starts(PICTURES, start_codes, rng)
        if start_codes:
            log_p = np.log(counts / counts.sum(-1, keepdims=True))[starts]  # (starts, pixels, classes)
            log_likelihoods = sum(log_p[:, i, x_0[:, i]] for i in range(PIXELS))
            x_0 = x_0[assigned(log_likelihoods, BALANCE, rng, TEMPERATURE)]
        counts *= MEMORY
        for pixel in range(PIXELS):
            np.add.at(counts[:, pixel], (starts, x_0[:, pixel]), 1)
        counts += 1e-3
    return counts / counts.sum(-1, keepdims=True)


def _starts(count: int, start_codes: int, rng: np.random.Generator) -> np.ndarray:
    """Numbers of random starts, (count,); without start codes there is one start."""
    if not start_codes:
        return np.zeros(count, int)
    return random_starts(count, start_codes, CLASSES, rng) @ CLASSES ** np.arange(start_codes)
