"""Which timesteps are trained on."""

import numpy as np

NEEDED = 10  # losses of every timestep before they decide what is drawn
DECAY = 0.9


class TimestepSampler:
    """Draws timesteps in proportion to the root of their mean squared loss (arXiv 2102.09672, section 3.3).

    That gives the estimate of the bound its least variance. Until every timestep has been seen more than ``NEEDED``
    times, all are equally likely. Every draw comes with its probability: a loss divided by it is unbiased.

    Args:
        num_timesteps: T.
        importance: False: always uniform.
    """

    def __init__(self, num_timesteps: int, importance: bool = True) -> None:
        self.importance = importance
        self.history = np.zeros(num_timesteps)  # running mean of squared losses
        self.counts = np.zeros(num_timesteps, np.int64)

    def probabilities(self) -> np.ndarray:
        """The probability of every timestep, (T,) float64."""
        timesteps = len(self.history)
        if not self.importance or (self.counts <= NEEDED).any():
            return np.full(timesteps, 1 / timesteps)
        weights = np.sqrt(self.history + 1e-10) + 1e-4
        weights[0] = weights[1]  # t = 0 is a likelihood, not a divergence: as in the published code
        return weights / weights.sum()

    def draw(self, count: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Timesteps and their probabilities: (count,) int32, (count,) float32."""
        p = self.probabilities()
        timesteps = rng.choice(len(p), count, p=p)
        return timesteps.astype(np.int32), p[timesteps].astype(np.float32)

    def update(self, timesteps: np.ndarray, losses: np.ndarray) -> None:
        """Takes note of the divergence of each image, (count,), at its timestep."""
        for t, loss in zip(timesteps, losses.astype(np.float64)):
            self.history[t] = DECAY * self.history[t] + (1 - DECAY) * loss**2
            self.counts[t] += 1

    def state(self) -> dict[str, np.ndarray]:
        """The state, for a checkpoint."""
        return {"timestep_history": self.history, "timestep_counts": self.counts}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Returns to a ``state``."""
        self.history = state["timestep_history"].copy()
        self.counts = state["timestep_counts"].copy()
