"""What is done to the network's p(x_0) before it is used. Classes are the last axis."""

from collections.abc import Sequence
from typing import Union

import mindspore as ms
from mindspore import Tensor, ops

GuidanceSchedule = Union[str, tuple[float, float]]

# What log(0) becomes, as in the published samplers.
LOG_FLOOR = -70.0
# Halvings of the logarithm of an interval that spans ten powers of e or so, until nothing fits in between.
HALVINGS = 28
# No draw with float32 can tell such a probability from 0; and its square is still a normal number.
NEGLIGIBLE = 1e-18


def guide(null: Tensor, conditional: Sequence[Tensor], scales: Tensor) -> Tensor:
    """Classifier-free guidance: null + sum of scale (conditional - null) (arXiv 2205.16007, equation 6).

    With several conditions they are composed (arXiv 2206.01714, equation 11).

    Args:
        null, conditional: log probabilities up to a constant for each pixel, or what these are linear in;
            (batch, pixels, features) float32.
        scales: one for each condition.

    Returns:
        The same.
    """
    guided = null
    for i in range(len(conditional)):
        guided = guided + scales[i] * (conditional[i] - null)
    return guided


def scale_at(schedule: GuidanceSchedule, scale: float, time: float) -> float:
    """The guidance scale at one step.

    Args:
        schedule: "constant"; "linear": from 1 at the noisy end to ``scale`` at the clean one; or (low, high):
            ``scale`` where low <= time <= high and 1, no guidance, elsewhere (arXiv 2404.07724).
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
        f'guidance_schedule is {schedule!r}; it must be "constant", "linear", or (low, high) with '
        "0 <= low < high <= 1: where, as a share of the timesteps, there is guidance."
    )


def probabilities(logits: Tensor) -> Tensor:
    """Softmax over the classes, none of them further than ``LOG_FLOOR`` below the likeliest.

    Without the floor there would be numbers below 1e-38, with which a CPU computes a hundred times slower.

    Args:
        logits: (batch, pixels, classes) float32.
    """
    classes = logits.shape[-1]
    rows = logits.reshape(-1, classes)
    depth = ops.tile(rows.max(axis=-1, keepdims=True), (1, classes)) - rows
    floored = ops.relu(depth + LOG_FLOOR) - depth  # -min(depth, -LOG_FLOOR), in operations that are fast on a CPU
    return ops.softmax(floored, axis=-1).reshape(logits.shape)


def stays(p_x_0: Tensor, truncation_rate: Tensor) -> Tensor:
    """Which classes truncation keeps: the likeliest that carry the share ``truncation_rate`` of the probability, or k.

    A class stays if the classes likelier than it carry less than the rate together; so the likeliest always stays, and
    everything at rate 1 (VQ-Diffusion, section 4.3, "truncation sampling"; Table 6 finds 0.86 best).

    The least probability that stays is found by bisection, of its logarithm, because the probability above a level
    falls as the level rises: sorting 4096 classes takes twice as long on a CPU.

    Args:
        p_x_0: (batch, pixels, classes) float32; sums to 1.
        truncation_rate: one number: a share in (0, 1]; or k + 1/2, from ``top_k``.

    Returns:
        (batch, pixels, classes) bool.
    """
    classes = p_x_0.shape[-1]
    p = p_x_0.reshape(-1, classes)  # (rows, classes)
    # above ``high`` lies less than the rate, above ``low`` at least that
    counts = truncation_rate > 1.0
    weights = ops.where(counts, ops.ones_like(p), p)
    enough = ops.where(counts, truncation_rate - 1.0, truncation_rate)
    high = ops.ones_like(p[:, :1])
    low = high * ops.maximum((1.0 - truncation_rate) / (2 * classes), NEGLIGIBLE)
    for _ in range(HALVINGS):
        middle = ops.sqrt(low * high)
        is_above = (p > ops.tile(middle, (1, classes))).astype(ms.float32)
        is_enough = (is_above * weights).sum(-1, keepdims=True) >= enough
        low, high = ops.where(is_enough, middle, low), ops.where(is_enough, high, middle)
    low = ops.where(truncation_rate == 1.0, -1.0, low)
    return (p > ops.tile(low, (1, classes))).reshape(p_x_0.shape)


def top_k(k: int) -> float:
    """What ``stays`` takes to keep the k likeliest classes, and those as likely as the last of them.

    Of what is less likely than ``NEGLIGIBLE`` none is kept.
    """
    return k + 0.5


def truncate(log_p_x_0: Tensor, truncation_rate: Tensor) -> Tensor:
    """log p(x_0) with ``LOG_FLOOR`` for what does not stay. What is left is not normalised again.

    Args:
        log_p_x_0: (batch, pixels, classes) float32.
        truncation_rate: as ``stays`` takes it.
    """
    kept = stays(ops.exp(log_p_x_0), truncation_rate)
    return ops.where(kept, ops.maximum(log_p_x_0, LOG_FLOOR), ops.full_like(log_p_x_0, LOG_FLOOR))
