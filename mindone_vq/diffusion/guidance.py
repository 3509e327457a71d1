"""What is done to the network's p(x_0) before it is used. Classes are the last axis."""

from mindspore import Tensor, ops

from mindone_vq.diffusion.logarithms import logsumexp

# What log(0) becomes, as in the published samplers.
LOG_FLOOR = -70.0


def guide(log_p_conditional: Tensor, log_p_null: Tensor, guidance_scale: Tensor) -> Tensor:
    """Classifier-free guidance on log probabilities (Improved VQ-Diffusion, arXiv 2205.16007, equation 6).

    ``log p = null + scale * (conditional - null)``, normalised again.

    Args:
        log_p_conditional, log_p_null: (batch, pixels, classes) float32.
        guidance_scale: scalar.
    """
    guided = log_p_null + guidance_scale * (log_p_conditional - log_p_null)
    return guided - logsumexp(guided)


def truncate(log_p_x_0: Tensor, truncation_rate: Tensor) -> Tensor:
    """Keeps, for each pixel, the likeliest classes that carry the share ``truncation_rate`` of the probability.

    A class stays if the classes likelier than it carry less than the rate together; so the likeliest always
    stays, and everything at rate 1. The others get ``LOG_FLOOR``. What is left is not normalised again
    (VQ-Diffusion, section 4.3, "truncation sampling"; Table 6 finds 0.86 best).

    Args:
        log_p_x_0: (batch, pixels, classes) float32.
        truncation_rate: scalar in (0, 1].
    """
    descending, _ = ops.sort(log_p_x_0, axis=-1, descending=True)
    mass = ops.cumsum(ops.exp(descending), -1)
    before = ops.concat((ops.zeros_like(mass[:, :, :1]), mass[:, :, :-1]), -1)  # of the likelier classes
    kept_somewhere = ops.where(before < truncation_rate, descending, ops.zeros_like(descending))
    threshold = kept_somewhere.min(axis=-1, keepdims=True)  # the least likely class that stays
    stays = ops.logical_or(log_p_x_0 >= threshold, truncation_rate >= 1.0)
    return ops.where(stays, ops.maximum(log_p_x_0, LOG_FLOOR), ops.full_like(log_p_x_0, LOG_FLOOR))
