"""Truncation of the network's p(x_0) before a draw (VQ-Diffusion, section 4.3). Classes are the last axis."""

from typing import Optional

import mindspore as ms
from mindspore import Tensor, ops

# What log(0) becomes, as in the published samplers.
LOG_FLOOR = -70.0
# Halvings of the logarithm of an interval that spans ten powers of e or so, until nothing fits in between.
HALVINGS = 28
# No draw with float32 can tell such a probability from 0; and its square is still a normal number.
NEGLIGIBLE = 1e-18


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


def truncation_mask(p_x_0: Tensor, truncation_rate: Tensor) -> Tensor:
    """Which classes truncation keeps: the likeliest that carry the share ``truncation_rate`` of the probability.

    A class is kept if the classes likelier than it carry less than the rate together; so the likeliest always is, and
    everything at rate 1 ("truncation sampling", section 4.3; Table 6 finds 0.86 best).

    Args:
        p_x_0: (batch, pixels, classes) float32; sums to 1.
        truncation_rate: (1,) float32 in (0, 1].

    Returns:
        (batch, pixels, classes) bool.
    """
    classes = p_x_0.shape[-1]
    p = p_x_0.reshape(-1, classes)  # (rows, classes)
    least = ops.maximum((1.0 - truncation_rate) / (2 * classes), NEGLIGIBLE)
    threshold = _threshold(p, p, truncation_rate, least)
    threshold = ops.where(truncation_rate == 1.0, -1.0, threshold)
    return (p > ops.tile(threshold, (1, classes))).reshape(p_x_0.shape)


def top_k_mask(p_x_0: Tensor, k: Tensor) -> Tensor:
    """Which classes are among the k likeliest, or as likely as the last of them.

    Classes less likely than ``NEGLIGIBLE`` are not kept.

    Args:
        p_x_0: (batch, pixels, classes) float32; sums to 1.
        k: (1,) float32, a whole number of at least 1.

    Returns:
        (batch, pixels, classes) bool.
    """
    classes = p_x_0.shape[-1]
    p = p_x_0.reshape(-1, classes)  # (rows, classes)
    threshold = _threshold(p, ops.ones_like(p), k - 0.5, NEGLIGIBLE)
    return (p > ops.tile(threshold, (1, classes))).reshape(p_x_0.shape)


def _threshold(p: Tensor, weights: Tensor, enough: Tensor, least: Tensor) -> Tensor:
    """The greatest level above which the weights sum to ``enough``, for each row; ``least`` if there is none.

    By bisection of its logarithm, because the weight above a level falls as the level rises: sorting 4096 classes takes
    twice as long on a CPU.

    Args:
        p, weights: (rows, classes) float32.
        enough, least: (1,) float32.

    Returns:
        (rows, 1) float32.
    """
    spread = (1, p.shape[-1])
    high = ops.ones_like(p[:, :1])  # above ``high`` lies less than enough, above ``low`` at least that
    low = high * least
    for _ in range(HALVINGS):
        middle = ops.sqrt(low * high)
        is_above = (p > ops.tile(middle, spread)).astype(ms.float32)
        is_enough = (is_above * weights).sum(-1, keepdims=True) >= enough
        low, high = ops.where(is_enough, middle, low), ops.where(is_enough, high, middle)
    return low


# By the name that ``SamplingOptions.truncation`` has for it; None keeps every class.
TRUNCATIONS = {"rate": truncation_mask, "top_k": top_k_mask}


def truncated(p_x_0: Tensor, truncation: Optional[str], amount: Tensor) -> Tensor:
    """p(x_0) with zeros for the classes that are not kept. It is not normalised again.

    Args:
        p_x_0: (batch, pixels, classes) float32; sums to 1.
        truncation: one of ``TRUNCATIONS``, or None.
        amount: (1,) float32, as that function takes it.
    """
    if truncation is None:
        return p_x_0
    return p_x_0 * TRUNCATIONS[truncation](p_x_0, amount).astype(ms.float32)


def truncate(log_p_x_0: Tensor, truncation_rate: Tensor) -> Tensor:
    """log p(x_0) with ``LOG_FLOOR`` for the classes that are not kept. It is not normalised again.

    Args:
        log_p_x_0: (batch, pixels, classes) float32.
        truncation_rate: as ``truncation_mask`` takes it.
    """
    kept = truncation_mask(ops.exp(log_p_x_0), truncation_rate)
    return ops.where(kept, ops.maximum(log_p_x_0, LOG_FLOOR), ops.full_like(log_p_x_0, LOG_FLOOR))
