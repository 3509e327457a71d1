"""The forward process: how likely a code is kept, replaced or masked."""

from dataclasses import dataclass

import numpy as np

# The timestep "before" 0: the clean picture x_0 itself, where the reverse process ends.
CLEAN = -1
# Stands for log(0) inside graphs: far below every real log probability, and finite.
LOG_ZERO = -1e4
# What the published code puts in place of the zeros of a one-hot vector before it takes the logarithm.
ONE_HOT_FLOOR = 1e-30
# Places in ``TransitionSchedule.transition_coefficients``; the last word says what x_t is: the mask, another class than
# the one in question, or the same.
KEEP_MASK, KEEP_OTHER, KEEP_SAME, REPLACE_MASK, REPLACE_OTHER, REPLACE_SAME, WEIGHT_SAME, MASK_MASK, MASK_CLASS = range(
    9
)


@dataclass(frozen=True)
class TransitionSchedule:
    """Cumulative probabilities of the mask-and-replace process (VQ-Diffusion, section 4.1, equations 7 and 8).

    After timestep t a code is itself with probability A_t + B_t, any given other one with B_t, the mask with C_t;
    A_t + K B_t + C_t = 1. A_t and C_t are linear in t. Kept in float64: in float32 a third of the
    one-step replacement probabilities of the published schedule come out zero or negative.

    Attributes:
        keep, mask: A_t and C_t, (num_train_timesteps,) float64.
        num_classes: K, without the mask.
    """

    keep: np.ndarray
    mask: np.ndarray
    num_classes: int

    @classmethod
    def linear(
        cls,
        num_classes: int,
        num_train_timesteps: int,
        alpha_cum_start: float,
        alpha_cum_end: float,
        gamma_cum_start: float,
        gamma_cum_end: float,
    ) -> "TransitionSchedule":
        """The published schedule: straight lines from ``start`` at t = 0 to ``end`` at t = T - 1."""
        keep = np.linspace(alpha_cum_start, alpha_cum_end, num_train_timesteps)
        mask = np.linspace(gamma_cum_start, gamma_cum_end, num_train_timesteps)
        if (keep <= 0).any() or (mask <= 0).any() or (keep + mask >= 1).any():
            raise ValueError(
                "The cumulative alpha and gamma must be positive with a sum below 1 at every timestep, given alpha "
                f"{alpha_cum_start} to {alpha_cum_end} and gamma {gamma_cum_start} to {gamma_cum_end}."
            )
        return cls(keep, mask, num_classes)

    @property
    def replace(self) -> np.ndarray:
        """B_t, (num_train_timesteps,)."""
        return (1 - self.keep - self.mask) / self.num_classes

    def cumulative(self, t: int) -> tuple[float, float, float]:
        """(A_t, B_t, C_t); (1, 0, 0) for ``CLEAN``."""
        if t == CLEAN:
            return 1.0, 0.0, 0.0
        return self.keep[t], self.replace[t], self.mask[t]

    def masked_share(self, t: float) -> float:
        """C_t; between whole timesteps the straight line, 0 for ``CLEAN``."""
        return float(np.interp(t, np.arange(CLEAN, len(self.mask)), np.concatenate(([0.0], self.mask))))

    def between(self, t: int, s: int) -> tuple[float, float, float]:
        """(a, b, c) of q(x_t | x_s), s < t: keep with a + b, any given other code with b, mask with c."""
        keep_t, _, mask_t = self.cumulative(t)
        keep_s, _, mask_s = self.cumulative(s)
        keep = keep_t / keep_s
        mask = 1 - (1 - mask_t) / (1 - mask_s)
        return keep, (1 - keep - mask) / self.num_classes, mask

    def log_rows(self, t: int, s: int) -> np.ndarray:
        """log q(x_t | x_s = k) for x_t the mask, another class than k, and k: (3,) float32."""
        keep, replace, mask = self.between(t, s)
        return _log(mask, replace, keep + replace)

    def transition_coefficients(self, t: int, s: int) -> np.ndarray:
        """The coefficients of p(x_s | x_t) = sum over x_0 of q(x_s | x_t, x_0) p(x_0), as logarithms.

        With W the sum over x_0 of p(x_0) r / q(x_t | x_0), where the reference r is q(x_t | x_0) for x_t the mask,
        or for x_t another class than x_0 (docs/math.md):

            p(x_s = k) = keep_k p(x_0 = k) + replace_k W      p(x_s = mask) = mask W

        The products are taken here in float64: inside a graph in float32 their factors, down to 1e-10, would
        cost the last digits of the result.

        Returns:
            (9,) float32, in the order of ``KEEP_MASK`` to ``MASK_CLASS``: keep_k and replace_k for x_t the mask,
            another class than k, and k; r / q(x_t | x_0) for x_0 = x_t; mask for x_t the mask and for x_t a class.
        """
        keep_t, replace_t, mask_t = self.cumulative(t)
        keep_s, replace_s, mask_s = self.cumulative(s)
        keep, replace, mask = self.between(t, s)
        # q(x_t | x_s) / q(x_t | x_0) for x_t the mask, another class than x_s and x_0, and the same as both
        to_mask, to_other, to_same = mask / mask_t, replace / replace_t, (keep + replace) / (keep_t + replace_t)
        weight_same = replace_t / (keep_t + replace_t)
        return _log(
            keep_s * to_mask,
            keep_s * to_other,
            keep_s * to_same,
            replace_s * to_mask,
            replace_s * to_other,
            replace_s * to_same / weight_same,
            weight_same,
            mask_s / mask_t,
            mask_s / replace_t * ONE_HOT_FLOOR,  # no class turns back into the mask
        )


def _log(*values: float) -> np.ndarray:
    """float32 logarithms, ``LOG_ZERO`` for those of 0."""
    array = np.array(values)
    logs = np.full(array.shape, LOG_ZERO)
    np.log(array, out=logs, where=array > 0)
    return logs.astype(np.float32)
