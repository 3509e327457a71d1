"""What is done to the network's p(x_0) before it is used. Classes are the last axis."""

import mindspore as ms
from mindspore import Tensor, ops

# What log(0) becomes, as in the published samplers.
LOG_FLOOR = -70.0
# Halvings of the logarithm of an interval that spans ten powers of e or so, until nothing fits in between.
HALVINGS = 28


def guide(conditional: Tensor, null: Tensor, guidance_scale: Tensor) -> Tensor:
    """Classifier-free guidance: null + scale (conditional - null) (arXiv 2205.16007, equation 6).

    Args:
        conditional, null: log probabilities up to a constant for each pixel, or what these are linear in;
            (batch, pixels, features) float32.
        guidance_scale: scalar.

    Returns:
        The same.
    """
    return null + guidance_scale * (conditional - null)


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
    """Which classes truncation keeps: the likeliest that carry the share ``truncation_rate`` of the probability.

    A class stays if the classes likelier than it carry less than the rate together; so the likeliest always stays, and
    everything at rate 1 (VQ-Diffusion, section 4.3, "truncation sampling"; Table 6 finds 0.86 best).

    The least probability that stays is found by bisection, of its logarithm, because the probability above a level
    falls as the level rises: sorting 4096 classes takes twice as long on a CPU.

    Args:
        p_x_0: (batch, pixels, classes) float32; sums to 1.
        truncation_rate: scalar in (0, 1].

    Returns:
        (batch, pixels, classes) bool.
    """
    classes = p_x_0.shape[-1]
    p = p_x_0.reshape(-1, classes)  # (rows, classes)
    # above ``high`` lies less than the rate, above ``low`` at least that
    high = ops.ones_like(p[:, :1])
    low = high * ops.maximum((1.0 - truncation_rate) / (2 * classes), 1e-30)
    for _ in range(HALVINGS):
        middle = ops.sqrt(low * high)
        is_above = (p > ops.tile(middle, (1, classes))).astype(ms.float32)
        is_enough = (is_above * p).sum(-1, keepdims=True) >= truncation_rate
        low, high = ops.where(is_enough, middle, low), ops.where(is_enough, high, middle)
    low = ops.where(truncation_rate >= 1.0, -1.0, low)
    return (p > ops.tile(low, (1, classes))).reshape(p_x_0.shape)


def truncate(log_p_x_0: Tensor, truncation_rate: Tensor) -> Tensor:
    """log p(x_0) with ``LOG_FLOOR`` for what does not stay. What is left is not normalised again.

    Args:
        log_p_x_0: (batch, pixels, classes) float32.
        truncation_rate: scalar in (0, 1].
    """
    kept = stays(ops.exp(log_p_x_0), truncation_rate)
    return ops.where(kept, ops.maximum(log_p_x_0, LOG_FLOOR), ops.full_like(log_p_x_0, LOG_FLOOR))
