"""Sums of probabilities that are held as logarithms.

By expm1 and log1p, which MindSpore computes on a CPU to about 1e-7; its exp is wrong by up to 3e-6 of its value
between -1 and 0, its log by 7e-7 between 1 and 10, and its logsumexp and logaddexp are made of those.
"""

from mindspore import Tensor, ops


def logsumexp(log_p: Tensor) -> Tensor:
    """log of the sum of ``exp(log_p)`` over the last axis, which is kept with size 1; float32."""
    largest = ops.stop_gradient(log_p.max(axis=-1, keepdims=True))  # the result does not depend on it
    others = (ops.expm1(log_p - largest) + 1.0).sum(-1, keepdims=True) - 1.0
    return largest + ops.log1p(others)


def logaddexp(log_p: Tensor, log_q: Tensor) -> Tensor:
    """log(exp(log_p) + exp(log_q)), element by element; float32."""
    # the result does not depend on it; Ascend has no kernel for what the gradient of maximum is made of
    larger = ops.stop_gradient(ops.maximum(log_p, log_q))
    return larger + ops.log1p(ops.expm1(log_p - larger) + ops.expm1(log_q - larger) + 1.0)
