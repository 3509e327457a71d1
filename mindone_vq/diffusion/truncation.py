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
# Up to so many probabilities in all are sorted where ``sorts``; beyond, bisection is faster.
FEW = 2**18


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


def truncation_mask(p_x_0: Tensor, truncation_rate: Tensor, sorts: bool = False) -> Tensor:
    """Which classes truncation keeps: the likeliest that carry the share ``truncation_rate`` of the probability.

    A class is kept if the classes likelier than it carry less than the rate together; so the likeliest always is, and
    everything at rate 1 ("truncation sampling", section 4.3; Table 6 finds 0.86 best).

    Args:
        p_x_0: (batch, pixels, classes) float32; sums to 1.
        truncation_rate: (1,) float32 in (0, 1].
        sorts: see ``_likeliest``.

    Returns:
        (batch, pixels, classes) bool.
    """
    least = ops.maximum((1.0 - truncation_rate) / (2 * p_x_0.shape[-1]), NEGLIGIBLE)
    kept = _likeliest(p_x_0, False, truncation_rate, least, sorts)
    return ops.logical_or(kept, truncation_rate == 1.0)


def top_k_mask(p_x_0: Tensor, k: Tensor, sorts: bool = False) -> Tensor:
    """Which classes are among the k likeliest, or as likely as the last of them.

    Classes less likely than ``NEGLIGIBLE`` are not kept.

    Args:
        p_x_0: (batch, pixels, classes) float32; sums to 1.
        k: (1,) float32, a whole number of at least 1.
        sorts: see ``_likeliest``.

    Returns:
        (batch, pixels, classes) bool.
    """
    return _likeliest(p_x_0, True, k - 0.5, Tensor(NEGLIGIBLE, ms.float32), sorts)


def _likeliest(p_x_0: Tensor, counts: bool, enough: Tensor, least: Tensor, sorts: bool) -> Tensor:
    """The fewest classes, from the likeliest on, that are ``enough``, and those as likely as the last.

    Args:
        p_x_0: (batch, pixels, classes) float32.
        counts: whether ``enough`` is a number of classes, and not a sum of probabilities.
        enough: (1,) float32.
        least: a class less likely than this is not among them, (1,) float32.
        sorts: whether the form may be that which sorts the classes.

    Returns:
        (batch, pixels, classes) bool.
    """
    classes = p_x_0.shape[-1]
    p, spread = p_x_0.reshape(-1, classes), (1, classes)
    if sorts and p.size <= FEW:
        kept = p >= ops.tile(ops.maximum(_last_of_enough(p, counts, enough), least), spread)
    else:
        kept = p > ops.tile(_level_of_enough(p, counts, enough, least), spread)
    return kept.reshape(p_x_0.shape)


def _last_of_enough(p: Tensor, counts: bool, enough: Tensor) -> Tensor:
    """The probability of the last class in ``_likeliest``, for each row, (rows, 1)."""
    descending, _ = ops.topk(p, p.shape[-1])
    weights = ops.ones_like(descending) if counts else descending
    is_before = ops.cumsum(weights, -1) - weights < enough
    return ops.where(is_before, descending, ops.ones_like(descending)).min(axis=-1, keepdims=True)


def _level_of_enough(p: Tensor, counts: bool, enough: Tensor, least: Tensor) -> Tensor:
    """The greatest level above which the classes are ``enough``, for each row, (rows, 1); at least ``least``.

    By bisection of its logarithm, because the weight above a level falls as the level rises: sorting 4096 classes takes
    twice as long on a CPU.
    """
    spread, weights = (1, p.shape[-1]), ops.ones_like(p) if counts else p
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


def truncated(p_x_0: Tensor, truncation: Optional[str], amount: Tensor, sorts: bool = False) -> Tensor:
    """p(x_0) with zeros for the classes that are not kept. It is not normalised again.

    Args:
        p_x_0: (batch, pixels, classes) float32; sums to 1.
        truncation: one of ``TRUNCATIONS``, or None.
        amount, sorts: as that function takes them.
    """
    if truncation is None:
        return p_x_0
    return p_x_0 * TRUNCATIONS[truncation](p_x_0, amount, sorts).astype(ms.float32)


def truncate(log_p_x_0: Tensor, truncation_rate: Tensor) -> Tensor:
    """log p(x_0) with ``LOG_FLOOR`` for the classes that are not kept. It is not normalised again.

    Args:
        log_p_x_0: (batch, pixels, classes) float32.
        truncation_rate: as ``truncation_mask`` takes it.
    """
    kept = truncation_mask(ops.exp(log_p_x_0), truncation_rate)
    return ops.where(kept, ops.maximum(log_p_x_0, LOG_FLOOR), ops.full_like(log_p_x_0, LOG_FLOOR))
