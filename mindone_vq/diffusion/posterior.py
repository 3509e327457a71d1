"""The reverse transition p(x_s | x_t) from the network's p(x_0 | x_t), for any jump s < t.

docs/math.md derives it. Classes are the last axis here.
"""

import mindspore as ms
from mindspore import Tensor, ops

from mindone_vq.diffusion.schedule import LOG_ONE_HOT_FLOOR


def log_transition(x_t: Tensor, num_classes: int, to_mask: Tensor, to_other: Tensor, to_same: Tensor) -> Tensor:
    """log q(x_t | x = k) for every class k but the mask: a row of a transition matrix for each pixel.

    Args:
        x_t: (batch, pixels) integers; ``num_classes`` is the mask.
        to_mask, to_other, to_same: scalars, log q for x_t the mask, another class than k, k.

    Returns:
        (batch, pixels, num_classes) float32.
    """
    is_mask = (x_t == num_classes).expand_dims(-1)  # (batch, pixels, 1)
    # A mask has no place in the one-hot: its row is zero.
    same = ops.one_hot(x_t, num_classes, Tensor(1.0, ms.float32), Tensor(0.0, ms.float32))
    return ops.where(is_mask, to_mask, to_other) + same * (to_same - to_other)


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
    log_weight = log_p_x_0 - log_transition(x_t, classes, jump[0], jump[1], jump[2])  # p(x_0) / q(x_t | x_0)
    log_sum = ops.logsumexp(log_weight, -1, True)  # (batch, pixels, 1)
    reached = ops.logaddexp(log_weight + jump[6], log_sum + jump[7])  # q(x_s | x_0), summed over x_0
    to_classes = reached + log_transition(x_t, classes, jump[3], jump[4], jump[5])
    is_mask = (x_t == classes).expand_dims(-1)
    # No code turns back into the mask; the floor stands for that zero as in the published code.
    to_mask = log_sum + jump[8] + ops.where(is_mask, 0.0, LOG_ONE_HOT_FLOOR)
    return ops.concat((to_classes, to_mask), -1)
