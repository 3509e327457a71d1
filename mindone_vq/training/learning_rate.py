"""How fast the weights change: warm-up, then a cosine, a constant, or lower steps where the loss stays."""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class LearningRate:
    """The learning rate of every step.

    Args:
        peak: after the warm-up.
        steps: of the whole run.
        warmup_steps: over which it rises from 0 to ``peak`` in a straight line.
        schedule: "cosine" falls to ``peak * final_share`` at the end; "constant" stays; "plateau" is multiplied by
            ``plateau_factor`` whenever the mean loss of ``plateau_window`` steps has not improved for
            ``plateau_patience`` windows, down to ``peak * final_share``.
    """

    peak: float
    steps: int
    warmup_steps: int = 0
    schedule: str = "cosine"
    final_share: float = 0.0
    plateau_factor: float = 0.5
    plateau_patience: int = 10
    plateau_window: int = 100
    _plateau: dict[str, Any] = field(
        default_factory=lambda: {"share": 1.0, "best": math.inf, "waited": 0, "sum": 0.0, "count": 0}
    )

    def at(self, step: int) -> float:
        """The learning rate of ``step``, counted from 0."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.schedule == "constant":
            return self.peak
        if self.schedule == "plateau":
            return self.peak * max(self._plateau["share"], self.final_share)
        done = (step - self.warmup_steps) / max(self.steps - self.warmup_steps, 1)
        cosine = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
        return self.peak * (self.final_share + (1 - self.final_share) * cosine)

    def observe(self, step: int, loss: float) -> None:
        """Tells the loss of ``step``; only a plateau takes note, after the warm-up."""
        if self.schedule != "plateau" or step < self.warmup_steps:
            return
        plateau = self._plateau
        plateau["sum"] += loss
        plateau["count"] += 1
        if plateau["count"] < self.plateau_window:
            return
        mean = plateau["sum"] / plateau["count"]
        plateau.update(sum=0.0, count=0)
        if mean < plateau["best"]:
            plateau.update(best=mean, waited=0)
            return
        plateau["waited"] += 1
        if plateau["waited"] >= self.plateau_patience:
            plateau.update(share=plateau["share"] * self.plateau_factor, waited=0)

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it."""
        return dict(self._plateau)

    def restore(self, state: dict[str, Any]) -> None:
        """Goes back to a ``state``."""
        self._plateau = dict(state)
