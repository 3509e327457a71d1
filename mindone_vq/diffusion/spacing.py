"""Which timesteps a shorter or longer chain goes through."""

from typing import Callable

import numpy as np

from mindone_vq.diffusion.schedule import CLEAN, TransitionSchedule


def uniform(schedule: TransitionSchedule, part: np.ndarray) -> np.ndarray:
    """Evenly in t."""
    last = len(schedule.mask) - 1
    return last - (last - CLEAN) * part


def masked(schedule: TransitionSchedule, part: np.ndarray) -> np.ndarray:
    """Evenly in the share of masked pixels."""
    return _at_share(schedule, 1 - part)


def cosine(schedule: TransitionSchedule, part: np.ndarray) -> np.ndarray:
    """The masked share falls as a cosine: few pixels first, many in the end (arXiv 2202.04200, section 3.3)."""
    return _at_share(schedule, np.cos(np.pi / 2 * part))


def square(schedule: TransitionSchedule, part: np.ndarray) -> np.ndarray:
    """As ``cosine``, with 1 - part^2."""
    return _at_share(schedule, 1 - part**2)


def cubic(schedule: TransitionSchedule, part: np.ndarray) -> np.ndarray:
    """As ``cosine``, with 1 - part^3."""
    return _at_share(schedule, 1 - part**3)


# name -> from the part of the way that is done, 0 to 1, to timesteps
SPACINGS: dict[str, Callable[[TransitionSchedule, np.ndarray], np.ndarray]] = {
    "uniform": uniform,
    "masked": masked,
    "cosine": cosine,
    "square": square,
    "cubic": cubic,
}


def spaced(name: str, schedule: TransitionSchedule, steps: int, whole: bool) -> list[float]:
    """The timesteps of a chain of ``steps`` steps, from the last of training to the clean picture.

    Args:
        name: one of ``SPACINGS``.
        schedule: of the forward process.
        steps: at least 1; where ``whole``, at most the timesteps of training.
        whole: whole timesteps, each at most once.

    Returns:
        ``steps + 1`` numbers that fall from T - 1 to -1.
    """
    check_spacing(name)
    chain = SPACINGS[name](schedule, np.linspace(0, 1, steps + 1))
    chain[0], chain[-1] = len(schedule.mask) - 1, CLEAN
    if not whole:
        return chain.tolist()
    rounded = np.round(chain[:-1] + 1).astype(int) - 1
    left = np.arange(steps)[::-1]  # timesteps that still have to fit below each
    for i in range(1, steps):
        rounded[i] = max(min(rounded[i], rounded[i - 1] - 1), left[i])
    return [*rounded.tolist(), CLEAN]


def check_spacing(name: str) -> None:
    """Raises ValueError where ``SPACINGS`` has no such name."""
    if name not in SPACINGS:
        raise ValueError(f"spacing is {name!r}; it must be one of {', '.join(SPACINGS)}.")


def _at_share(schedule: TransitionSchedule, part: np.ndarray) -> np.ndarray:
    """The timesteps at which the masked share is that part of the final one."""
    timesteps, shares = np.arange(CLEAN, len(schedule.mask)), np.concatenate(([0.0], schedule.mask))
    if (np.diff(shares) <= 0).any():
        raise ValueError("The masked share must rise with every timestep for a spacing by it; use 'uniform'.")
    return np.interp(part * shares[-1], shares, timesteps)
