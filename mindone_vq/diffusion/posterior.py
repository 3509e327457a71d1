"""The reverse transition p(x_s | x_t) from the network's p(x_0 | x_t), for any s < t.

docs/math.md derives it. Classes are the last axis here. ``log_posterior`` is exact in the smallest probabilities too,
which training and its gradients need; ``posterior`` is for drawing, in fewer operations.
"""

import mindspore as ms
from mindspore import Tensor, ops

from mindone_vq.diffusion.logarithms import logaddexp, logsumexp
from mindone_vq.diffusion.schedule import (
    KEEP_MASK,
    KEEP_OTHER,
    KEEP_SAME,
    MASK_CLASS,
    MASK_MASK,
    REPLACE_MASK,
    REPLACE_OTHER,
    REPLACE_SAME,
    WEIGHT_SAME,
)


def by_state(x_t: Tensor, num_classes: int, masked: Tensor, other: Tensor, same: Tensor) -> Tensor:
    """For every class one of three values: x_t is the mask, another class, this class.

    Args:
        x_t: (batch, pixels) integers; ``num_classes`` is the mask.
        masked, other, same: the values, scalars or (batch, 1, 1), float32.

    Returns:
        (batch, pixels, num_classes) float32.
    """
    is_mask = (x_t == num_classes).expand_dims(-1)  # (batch, pixels, 1)
    return ops.where(is_mask, masked, _one_hot(x_t, num_classes, same, other))


def log_posterior(log_p_x_0: Tensor, x_t: Tensor, coefficients: Tensor) -> Tensor:
    """log p(x_s | x_t) = log sum over x_0 of q(x_s | x_t, x_0) p(x_0) (VQ-Diffusion, equations 5 and 11).

    Args:
        log_p_x_0: (batch, pixels, classes) float32.
        x_t: (batch, pixels) integers.
        coefficients: ``TransitionSchedule.transition_coefficients(t, s)``, (9,) float32; or one row for each image,
            (batch, 9).

    Returns:
        (batch, pixels, classes + 1) float32, the mask last; its exponentials sum to 1 where those of log_p_x_0 do.
    """
    classes = log_p_x_0.shape[-1]
    # log of the sum of p(x_0) / q(x_t | x_0), in units of its value for any other class than x_t; a mask, which has
    # no place in a one-hot, leaves every term as it is
    weight_same = _coefficient(coefficients, WEIGHT_SAME)
    log_weight = log_p_x_0 + _one_hot(x_t, classes, weight_same, ops.zeros_like(weight_same))
    log_sum = logsumexp(log_weight)  # (batch, pixels, 1)
    keep = [_coefficient(coefficients, index) for index in (KEEP_MASK, KEEP_OTHER, KEEP_SAME)]
    replace = [_coefficient(coefficients, index) for index in (REPLACE_MASK, REPLACE_OTHER, REPLACE_SAME)]
    kept = log_p_x_0 + by_state(x_t, classes, *keep)  # x_s is x_0
    replaced = log_sum + by_state(x_t, classes, *replace)  # x_s came instead of x_0
    is_mask = (x_t == classes).expand_dims(-1)
    mask = ops.where(is_mask, _coefficient(coefficients, MASK_MASK), _coefficient(coefficients, MASK_CLASS))
    return ops.concat((logaddexp(kept, replaced), log_sum + mask), -1)


def posterior(p_x_0: Tensor, x_t: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """p(x_s | x_t), as ``log_posterior`` describes it, up to a factor for each pixel.

    Args:
        p_x_0: (batch, pixels, classes) float32, of any sum.
        x_t: (batch, pixels) integers.
        coefficients: (9,) float32.

    Returns:
        Those of the classes, (batch, pixels, classes) float32; and that of the mask, (batch, pixels, 1).
    """
    classes, one, zero = p_x_0.shape[-1], Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)
    values = ops.split(ops.exp(coefficients), 1)  # (1,) each
    p, states = p_x_0.reshape(-1, classes), x_t.reshape(-1)  # (rows, classes), (rows,)
    is_mask = (states == classes).expand_dims(-1)  # (rows, 1)
    weighted = p * ops.one_hot(states, classes, values[WEIGHT_SAME], one)
    total = weighted.sum(-1, keepdims=True)
    kept = ops.where(is_mask, values[KEEP_MASK], values[KEEP_OTHER])
    replaced = ops.where(is_mask, values[REPLACE_MASK], values[REPLACE_OTHER]) * total
    # where x_s is x_t: what it has more than another class would have
    p_same = ops.gather_elements(p, 1, ops.minimum(states, classes - 1).astype(ms.int32).expand_dims(-1))
    more = p_same * (values[KEEP_SAME] - kept) + (total * values[REPLACE_SAME] - replaced)
    spread = (1, classes)  # repeated first: products of different shapes are slow on a CPU
    p = p * ops.tile(kept, spread) + ops.tile(replaced, spread)
    p = p + ops.one_hot(states, classes, one, zero) * ops.tile(more, spread)
    masked = total * ops.where(is_mask, values[MASK_MASK], values[MASK_CLASS])
    return p.reshape(p_x_0.shape), masked.reshape(*x_t.shape, 1)


def _coefficient(coefficients: Tensor, index: int) -> Tensor:
    """One of them: a scalar, or (batch, 1, 1)."""
    return coefficients[index] if coefficients.ndim == 1 else coefficients[:, index].reshape(-1, 1, 1)


def _one_hot(x_t: Tensor, classes: int, on: Tensor, off: Tensor) -> Tensor:
    """``on`` for the class that x_t is, ``off`` for the others: (batch, pixels, classes)."""
    if on.ndim == 0:
        return ops.one_hot(x_t, classes, on, off)
    hits = ops.one_hot(x_t, classes, Tensor(1.0, ms.float32), Tensor(0.0, ms.float32))
    return ops.where(hits > 0, on, off)
