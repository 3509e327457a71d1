"""How fast codes are replaced and masked: the transition probabilities of the forward process."""

from dataclasses import dataclass

import numpy as np

# The timestep "before" 0: the clean picture x_0 itself. A jump to it ends the chain.
CLEAN = -1
# Stands for log(0) inside graphs: far below every real log probability, and finite.
LOG_ZERO = -1e4
# Log of the floor that the published code puts under one-hot vectors, log(1e-30).
LOG_ONE_HOT_FLOOR = -69.07755
# Order of the entries that ``TransitionSchedule.jump`` returns.
JUMP_ENTRIES = (
    "to_mask_from_x_0",  # log q(x_t = mask | x_0)
    "to_other_from_x_0",  # log q(x_t = k | x_0 != k)
    "to_same_from_x_0",  # log q(x_t = k | x_0 = k)
    "to_mask_from_x_s",  # log q(x_t = mask | x_s != mask)
    "to_other_from_x_s",  # log q(x_t = k | x_s != k, mask)
    "to_same_from_x_s",  # log q(x_t = k | x_s = k)
    "keep_until_s",  # log A_s
    "replace_until_s",  # log B_s
    "mask_until_s",  # log C_s
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

    def between(self, t: int, s: int) -> tuple[float, float, float]:
        """(a, b, c) of q(x_t | x_s), s < t: keep with a + b, any given other code with b, mask with c."""
        keep_t, _, mask_t = self.cumulative(t)
        keep_s, _, mask_s = self.cumulative(s)
        keep = keep_t / keep_s
        mask = 1 - (1 - mask_t) / (1 - mask_s)
        return keep, (1 - keep - mask) / self.num_classes, mask

    def jump(self, t: int, s: int) -> np.ndarray:
        """All that the posterior q(x_s | x_t, x_0) needs, as logarithms in the order of ``JUMP_ENTRIES``.

        Returns:
            (9,) float32, with ``LOG_ZERO`` for log(0).
        """
        keep_t, replace_t, mask_t = self.cumulative(t)
        keep, replace, mask = self.between(t, s)
        values = np.array(
            [mask_t, replace_t, keep_t + replace_t, mask, replace, keep + replace, *self.cumulative(s)]
        )
        logs = np.full(values.shape, LOG_ZERO)
        np.log(values, out=logs, where=values > 0)
        return logs.astype(np.float32)
