"""The reverse transition p(x_s | x_t) from the network's p(x_0 | x_t), for any jump s < t.

docs/math.md derives it. Classes are the last axis here.
"""

import mindspore as ms
from mindspore import Tensor, ops

from mindone_vq.diffusion.logarithms import logaddexp, logsumexp


def by_state(x_t: Tensor, num_classes: int, values: Tensor) -> Tensor:
    """For every class one of three values: x_t is the mask, another class, this class.

    Args:
        x_t: (batch, pixels) integers; ``num_classes`` is the mask.
        values: (3,) float32.

    Returns:
        (batch, pixels, num_classes) float32.
    """
    is_mask = (x_t == num_classes).expand_dims(-1)  # (batch, pixels, 1)
    return ops.where(is_mask, values[0], ops.one_hot(x_t, num_classes, values[2], values[1]))


def log_posterior(log_p_x_0: Tensor, x_t: Tensor, jump: Tensor) -> Tensor:
    """log p(x_s | x_t) = log sum over x_0 of q(x_s | x_t, x_0) p(x_0) (VQ-Diffusion, equations 5 and 11).

    Args:
        log_p_x_0: (batch, pixels, classes) float32.
        x_t: (batch, pixels) integers.
        jump: (9,) float32, from ``TransitionSchedule.jump(t, s)``.

    Returns:
        (batch, pixels, classes + 1) float32, the mask last; its exponentials sum to 1 where those of log_p_x_0 do.
    """
    classes = log_p_x_0.shape[-1]
    # log of the sum of p(x_0) / q(x_t | x_0), in units of its value for any other class than x_t; a mask, which has
    # no place in a one-hot, leaves every term as it is
    log_weight = log_p_x_0 + ops.one_hot(x_t, classes, jump[6], Tensor(0.0, ms.float32))
    log_sum = logsumexp(log_weight)  # (batch, pixels, 1)
    kept = log_p_x_0 + by_state(x_t, classes, jump[0:3])  # x_s is x_0
    replaced = log_sum + by_state(x_t, classes, jump[3:6])  # x_s came instead of x_0
    masked = log_sum + ops.where((x_t == classes).expand_dims(-1), jump[7], jump[8])
    return ops.concat((logaddexp(kept, replaced), masked), -1)
