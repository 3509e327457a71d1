"""The learning rate: warm-up, then a cosine, a constant, or lower steps where the loss no longer falls."""

import math
from typing import Any

from mindone_vq.training.run_settings import RunSettings


class LearningRate:
    """The learning rate of every step.

    It rises from 0 to ``learning_rate`` in a straight line over ``warmup_steps``. Then "cosine" falls to
    ``learning_rate * final_share`` at the end; "constant" stays; "plateau" is multiplied by ``plateau_factor`` whenever
    the mean loss of ``plateau_window`` steps has not improved for ``plateau_patience`` windows, down to
    ``learning_rate * final_share``.

    Args:
        settings: of the run.
    """

    def __init__(self, settings: RunSettings) -> None:
        self.settings = settings
        self._plateau = {"share": 1.0, "best": math.inf, "waited": 0, "sum": 0.0, "count": 0}

    def at(self, step: int) -> float:
        """The learning rate of ``step``, counted from 0."""
        settings = self.settings
        peak, warmup = settings.learning_rate, settings.warmup_steps
        if step < warmup:
            return peak * (step + 1) / warmup
        if settings.schedule == "constant":
            return peak
        if settings.schedule == "plateau":
            return peak * max(self._plateau["share"], settings.final_share)
        done = (step - warmup) / max(settings.steps - warmup, 1)
        cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        return peak * (settings.final_share + (1 - settings.final_share) * cosine)

    def observe(self, step: int, loss: float) -> None:
        """Takes note of the loss of ``step``, for a plateau."""
        settings, plateau = self.settings, self._plateau
        if settings.schedule != "plateau" or step < settings.warmup_steps:
            return
        plateau["sum"] += loss
        plateau["count"] += 1
        if plateau["count"] < settings.plateau_window:
            return
        mean = plateau["sum"] / plateau["count"]
        plateau.update(sum=0.0, count=0)
        if mean < plateau["best"]:
            plateau.update(best=mean, waited=0)
            return
        plateau["waited"] += 1
        if plateau["waited"] >= settings.plateau_patience:
            plateau.update(share=plateau["share"] * settings.plateau_factor, waited=0)

    def state(self) -> dict[str, Any]:
        """The state, for a checkpoint."""
        return dict(self._plateau)

    def restore(self, state: dict[str, Any]) -> None:
        """Returns to a ``state``."""
        self._plateau = dict(state)
