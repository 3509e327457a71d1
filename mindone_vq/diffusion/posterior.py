"""The reverse transition p(x_s | x_t) from the network's p(x_0 | x_t), for any jump s < t.

docs/math.md derives it. Classes are the last axis here. ``log_posterior`` is exact in the smallest probabilities too,
which training and its gradients need; ``posterior`` is for drawing, in fewer operations.
"""

import mindspore as ms
from mindspore import Tensor, ops

from mindone_vq.diffusion.logarithms import logaddexp, logsumexp


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


def log_posterior(log_p_x_0: Tensor, x_t: Tensor, jump: Tensor) -> Tensor:
    """log p(x_s | x_t) = log sum over x_0 of q(x_s | x_t, x_0) p(x_0) (VQ-Diffusion, equations 5 and 11).

    Args:
        log_p_x_0: (batch, pixels, classes) float32.
        x_t: (batch, pixels) integers.
        jump: from ``TransitionSchedule.jump(t, s)``, (9,) float32; or one for each image, (batch, 9).

    Returns:
        (batch, pixels, classes + 1) float32, the mask last; its exponentials sum to 1 where those of log_p_x_0 do.
    """
    classes = log_p_x_0.shape[-1]
    # log of the sum of p(x_0) / q(x_t | x_0), in units of its value for any other class than x_t; a mask, which has
    # no place in a one-hot, leaves every term as it is
    weight_same = _coefficient(jump, 6)
    log_weight = log_p_x_0 + _one_hot(x_t, classes, weight_same, ops.zeros_like(weight_same))
    log_sum = logsumexp(log_weight)  # (batch, pixels, 1)
    kept = log_p_x_0 + by_state(x_t, classes, *_coefficients(jump, 0, 3))  # x_s is x_0
    replaced = log_sum + by_state(x_t, classes, *_coefficients(jump, 3, 6))  # x_s came instead of x_0
    is_mask = (x_t == classes).expand_dims(-1)
    masked = log_sum + ops.where(is_mask, _coefficient(jump, 7), _coefficient(jump, 8))
    return ops.concat((logaddexp(kept, replaced), masked), -1)


def posterior(p_x_0: Tensor, x_t: Tensor, jump: Tensor) -> tuple[Tensor, Tensor]:
    """p(x_s | x_t), as ``log_posterior`` describes it, up to a factor for each pixel.

    Args:
        p_x_0: (batch, pixels, classes) float32, of any sum.
        x_t: (batch, pixels) integers.
        jump: (9,) float32.

    Returns:
        Those of the classes, (batch, pixels, classes) float32; and that of the mask, (batch, pixels, 1).
    """
    classes, one, zero = p_x_0.shape[-1], Tensor(1.0, ms.float32), Tensor(0.0, ms.float32)
    coefficients = ops.exp(jump)
    p, states = p_x_0.reshape(-1, classes), x_t.reshape(-1)  # (rows, classes), (rows,)
    is_mask = (states == classes).expand_dims(-1)  # (rows, 1)
    weighted = p * ops.one_hot(states, classes, coefficients[6], one)
    total = weighted.sum(-1, keepdims=True)
    kept = ops.where(is_mask, coefficients[0], coefficients[1])
    replaced = ops.where(is_mask, coefficients[3], coefficients[4]) * total
    # where x_s is x_t: what it has more than another class would have
    p_same = ops.gather_elements(p, 1, ops.minimum(states, classes - 1).astype(ms.int32).expand_dims(-1))
    more = p_same * (coefficients[2] - kept) + (total * coefficients[5] - replaced)
    spread = (1, classes)  # repeated first: products of different shapes are slow on a CPU
    p = p * ops.tile(kept, spread) + ops.tile(replaced, spread)
    p = p + ops.one_hot(states, classes, one, zero) * ops.tile(more, spread)
    masked = total * ops.where(is_mask, coefficients[7], coefficients[8])
    return p.reshape(p_x_0.shape), masked.reshape(*x_t.shape, 1)


def _coefficient(jump: Tensor, index: int) -> Tensor:
    """Entry ``index``: a scalar, or (batch, 1, 1)."""
    return jump[index] if jump.ndim == 1 else jump[:, index].reshape(-1, 1, 1)


def _coefficients(jump: Tensor, start: int, stop: int) -> tuple[Tensor, ...]:
    result = ()
    for index in range(start, stop):
        result += (_coefficient(jump, index),)
    return result


def _one_hot(x_t: Tensor, classes: int, on: Tensor, off: Tensor) -> Tensor:
    """``on`` for the class that x_t is, ``off`` for the others: (batch, pixels, classes)."""
    if on.ndim == 0:
        return ops.one_hot(x_t, classes, on, off)
    hits = ops.one_hot(x_t, classes, Tensor(1.0, ms.float32), Tensor(0.0, ms.float32))
    return ops.where(hits > 0, on, off)
