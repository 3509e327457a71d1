"""Data so small that p(x_0 | x_t) is known exactly: every state of the grid is counted."""

import itertools
from typing import Any, Optional

import numpy as np
from mindspore import Tensor

from mindone_vq import VQDiffusionScheduler
from mindone_vq.diffusion.samplers import Sampler
from mindone_vq.diffusion.schedule import CLEAN

CLASSES, PIXELS = 5, 4
CLEAN_STATES = np.array(list(itertools.product(range(CLASSES), repeat=PIXELS)))  # (625, pixels)
NOISY_STATES = np.array(list(itertools.product(range(CLASSES + 1), repeat=PIXELS)))  # (1296, pixels)


def independent(rng: np.random.Generator) -> np.ndarray:
    """Probabilities of ``CLEAN_STATES``: every pixel has its own distribution."""
    each = rng.dirichlet(np.full(CLASSES, 3.0), PIXELS)  # (pixels, classes)
    return np.prod([each[i, CLEAN_STATES[:, i]] for i in range(PIXELS)], axis=0)


def correlated(rng: np.random.Generator) -> np.ndarray:
    """The same, neighbours often alike."""
    weights = rng.dirichlet(np.ones(len(CLEAN_STATES)) * 2)
    alike = (CLEAN_STATES[:, 1:] == CLEAN_STATES[:, :-1]).sum(-1)
    weights *= np.exp(1.5 * alike)
    return weights / weights.sum()


def denoiser(data: np.ndarray, scheduler: VQDiffusionScheduler, t: float) -> np.ndarray:
    """p(x_0 of a pixel | x_t) for every noisy state: (1296, pixels, classes) float32.

    Where t is between timesteps, for a forward process that masks and replaces nothing.
    """
    if float(t).is_integer():
        keep, replace, mask = scheduler.schedule.cumulative(int(t))
    else:
        mask, replace = scheduler.schedule.masked_share(t), 0.0
        keep = 1 - mask
    transition = np.full((CLASSES, CLASSES + 1), replace)
    transition[:, CLASSES] = mask
    transition[range(CLASSES), range(CLASSES)] += keep
    joint = data[:, None] * np.prod(
        [transition[CLEAN_STATES[:, i]][:, NOISY_STATES[:, i]] for i in range(PIXELS)], axis=0
    )  # (625, 1296)
    marginals = np.stack(
        [[joint[CLEAN_STATES[:, i] == k].sum(0) for k in range(CLASSES)] for i in range(PIXELS)]
    )  # (pixels, classes, 1296)
    total = np.maximum(marginals.sum(1, keepdims=True), 1e-300)
    return (marginals / total).transpose(2, 0, 1).astype(np.float32)


def sample(
    data: np.ndarray,
    sampler: Sampler,
    steps: int,
    count: int,
    rng: np.random.Generator,
    timesteps: int = 100,
    spacing: str = "uniform",
    tables: Optional[dict[float, np.ndarray]] = None,
    first: Optional[np.ndarray] = None,
    **schedule: float,
) -> np.ndarray:
    """What the sampler ends with when the network is exact: x_0 of ``count`` draws, (count, pixels).

    ``tables`` keeps the network's answers between calls. ``first`` is p(x_0) of the first step in place of the
    network's, (count, pixels, classes) float32.
    """
    scheduler = VQDiffusionScheduler(CLASSES + 1, timesteps, **schedule)
    cell = sampler.cell(CLASSES, PIXELS)
    nothing_known = Tensor(np.zeros((count, PIXELS), bool))
    x_t = scheduler.initial_codes(count, PIXELS, rng).asnumpy()
    tables = {} if tables is None else tables
    for i, step in enumerate(scheduler.steps(steps, sampler, spacing)):
        time = step.t if sampler.is_exact else step.timestep
        if time not in tables:
            tables[time] = denoiser(data, scheduler, time)
        p_x_0 = tables[time][noisy_index(x_t)] if i or first is None else first
        uniforms = Tensor(sampler.draw_uniforms([rng], count, PIXELS))
        x_t = cell(Tensor(p_x_0), Tensor(x_t), Tensor(step.parameters), uniforms, nothing_known).asnumpy()
        assert step.s != CLEAN or x_t.max() < CLASSES
    return x_t


def noisy_index(x_t: np.ndarray) -> np.ndarray:
    """The rows of ``NOISY_STATES`` that are x_t: (count, pixels) -> (count,)."""
    return x_t @ (CLASSES + 1) ** np.arange(PIXELS)[::-1]


def counted(x_0: np.ndarray) -> np.ndarray:
    """How often each of ``CLEAN_STATES`` is among x_0, (count, pixels)."""
    return np.bincount(x_0 @ (CLASSES ** np.arange(PIXELS)[::-1]), minlength=len(CLEAN_STATES))


def total_variation(counts: np.ndarray, data: np.ndarray) -> float:
    """Between draws, by how often each state is among them, and the probabilities of the states: 0 to 1."""
    return float(np.abs(counts / counts.sum() - data).sum() / 2)


def draws(*arguments: Any, **options: Any) -> np.ndarray:
    """Counts of ``CLEAN_STATES`` among what ``sample`` draws."""
    return counted(sample(*arguments, **options))
