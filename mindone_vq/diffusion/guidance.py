"""Classifier-free guidance."""

from collections.abc import Sequence
from typing import Union

from mindspore import Tensor

GuidanceSchedule = Union[str, tuple[float, float]]


def guide(null: Tensor, conditional: Sequence[Tensor], scales: Tensor) -> Tensor:
    """null + sum of scale (conditional - null) (arXiv 2205.16007, equation 6).

    With several conditions they are composed (arXiv 2206.01714, equation 11).

    Args:
        null, conditional: log probabilities up to a constant for each pixel, or what these are linear in;
            (batch, pixels, features) float32.
        scales: one for each condition.

    Returns:
        The same shape.
    """
    guided = null
    for i in range(len(conditional)):
        guided = guided + scales[i] * (conditional[i] - null)
    return guided


def guidance_scale_at(schedule: GuidanceSchedule, scale: float, time: float) -> float:
    """The guidance scale at one step.

    Args:
        schedule: "constant"; "linear": from 1 at the noisy end to ``scale`` at the clean one; or an interval
            (low, high): ``scale`` where low <= time <= high and 1, no guidance, elsewhere (arXiv 2404.07724).
        scale: the whole scale.
        time: t / T, in [0, 1].

    Raises:
        ValueError: another schedule.
    """
    if schedule == "constant":
        return scale
    if schedule == "linear":
        return scale + (1.0 - scale) * time
    if isinstance(schedule, (tuple, list)) and len(schedule) == 2 and 0 <= schedule[0] < schedule[1] <= 1:
        return scale if schedule[0] <= time <= schedule[1] else 1.0
    raise ValueError(
        f'guidance_schedule is {schedule!r}; it must be "constant", "linear", or an interval (low, high) with '
        "0 <= low < high <= 1, in shares of the timesteps."
    )
