"""The steps of the reverse process."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor

from mindone_vq.diffusion.samplers import Sampler
from mindone_vq.diffusion.schedule import CLEAN, TransitionSchedule
from mindone_vq.diffusion.spacing import spaced


@dataclass(frozen=True)
class Step:
    """One step of the reverse process, from x_t to x_s.

    Attributes:
        t, s: timesteps; a sampler that is a heuristic can have fractions. s is -1, the clean picture, in the last step.
        time: ``timestep`` / T, in [0, 1].
        parameters: step parameters of the sampler's cell, float32.
    """

    t: float
    s: float
    time: float
    parameters: np.ndarray

    @property
    def timestep(self) -> int:
        """What the network is given for t."""
        return max(round(self.t), 0)


def inference_steps(
    schedule: TransitionSchedule, num_inference_steps: Any, sampler: Sampler, spacing: str
) -> list[Step]:
    """The steps from the last timestep of training to the clean picture; see ``VQDiffusionScheduler.steps``."""
    if not isinstance(num_inference_steps, (int, np.integer)) or isinstance(num_inference_steps, bool):
        raise TypeError(f"num_inference_steps is an integer, given {num_inference_steps!r}.")
    total = len(schedule.mask)
    if num_inference_steps < 1 or (sampler.is_exact and num_inference_steps > total):
        wanted = f"between 1 and the {total} timesteps of training" if sampler.is_exact else "at least 1"
        raise ValueError(
            f"num_inference_steps is {num_inference_steps}; with the sampler {sampler.name!r} it must be {wanted}."
        )
    return _through(schedule, spaced(spacing, schedule, int(num_inference_steps), sampler.is_exact), sampler)


def custom_steps(schedule: TransitionSchedule, timesteps: Any, sampler: Sampler) -> list[Step]:
    """The steps through given timesteps, descending integers, and from the last of them to the clean picture."""
    array = np.asarray(timesteps.asnumpy() if isinstance(timesteps, Tensor) else timesteps)
    if array.ndim != 1 or not array.size or not np.issubdtype(array.dtype, np.integer):
        raise TypeError(f"timesteps is a list of integers, given {timesteps!r}.")
    last = len(schedule.mask) - 1
    if array.max() > last or array.min() < 0 or (np.diff(array) >= 0).any():
        raise ValueError(f"timesteps must descend, from at most {last} to at least 0; given {array.tolist()}.")
    return _through(schedule, [*array.tolist(), CLEAN], sampler)


def _through(schedule: TransitionSchedule, timesteps: Sequence[float], sampler: Sampler) -> list[Step]:
    """The steps from each timestep to the next."""
    pairs = list(zip(timesteps, timesteps[1:]))
    return [
        Step(t, s, max(round(t), 0) / len(schedule.mask), sampler.parameters(schedule, t, s, len(pairs) - i))
        for i, (t, s) in enumerate(pairs)
    ]
