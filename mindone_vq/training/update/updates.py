"""From batches to changed weights: the compiled training steps and what they need from the host."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindone_vq.training.compilation import TrainingGraph
from mindone_vq.training.devices import Devices
from mindone_vq.training.run_settings import RunSettings
from mindone_vq.training.update.optimizer import AdamW, WeightAverage
from mindone_vq.training.update.step import TrainingStep

PRECISIONS = {"float16": ms.float16, "bfloat16": ms.bfloat16}
FIRST_SCALE, STEPS_TO_GROW, MOST_SKIPPED = 2.0**16, 1000, 100


class NotFiniteError(FloatingPointError):
    """The loss or a gradient is infinite or not a number, and training cannot go on."""


@dataclass
class Update:
    """loss: the mean over the batch; norm: of the gradient, not finite if nothing changed; reports: of every part.

    The loss and the norm are of all devices, the reports of this one.
    """

    loss: float
    norm: float
    reports: list[Any]


class Updates:
    """Changes the weights once per call, from one part of the batch after the other.

    In a with statement the averaged weights take the place of the trained ones.

    Args:
        loss: a cell that returns a scalar, and what it reports.
        parameters: what is trained; float32.
        settings: of the run.
        devices: which share the batch.
        prefix: of the names of the state that belongs to no weight, where a run has several of these.
    """

    def __init__(
        self,
        loss: nn.Cell,
        parameters: Sequence[Parameter],
        settings: RunSettings,
        devices: Devices,
        prefix: str = "",
    ) -> None:
        self.settings, self.devices = settings, devices
        self.cell = loss.set_train(True)
        if settings.precision in PRECISIONS:
            # "O1" returns a network of rewritten source text, which cannot be compiled; "auto" marks this one
            ms.amp.auto_mixed_precision(loss, "auto", PRECISIONS[settings.precision])
        betas = (settings.beta1, settings.beta2)
        self.optimizer = AdamW(parameters, betas, weight_decay=settings.weight_decay, prefix=prefix)
        accumulates = settings.accumulation > 1
        self.sums = self.optimizer.parameters.clone("gradient_sum", init="zeros") if accumulates else ()
        self._update, self._add = self._graph(last=True), self._graph(last=False) if accumulates else None
        self.average, self._average = None, None
        if settings.ema_decay > 0:
            self.average = WeightAverage(parameters, settings.ema_decay)
            self._average = TrainingGraph(self.average, "average of the weights")
        self.scaler = None
        if settings.precision == "float16":
            self.scaler = ms.amp.DynamicLossScaler(FIRST_SCALE, 2, STEPS_TO_GROW)
            for parameter in (self.scaler.scale_value, self.scaler.counter):
                parameter.name = prefix + parameter.name
        self.skipped = self.skipped_in_a_row = 0

    def _graph(self, last: bool) -> TrainingGraph:
        settings = self.settings
        shared = (settings.clip_norm, settings.accumulation, self.devices.count)
        step = TrainingStep(self.cell, self.optimizer, self.sums, *shared, last=last)
        name = f"training step of {type(self.cell).__name__}"
        return TrainingGraph(step, name if last else f"{name} without an update")

    def parameters(self) -> list[Parameter]:
        """All that changes, for a checkpoint: weights, moments, averages, sums, loss scale."""
        average = self.average.state() if self.average is not None else []
        scale = [self.scaler.scale_value, self.scaler.counter] if self.scaler is not None else []
        return [*self.optimizer.parameters, *self.optimizer.state(), *average, *self.sums, *scale]

    def __call__(self, step: int, learning_rate: float, parts: Sequence[tuple[np.ndarray, ...]]) -> Update:
        """One update.

        Args:
            step: how many were done before.
            learning_rate: of this one.
            parts: the arguments of the loss, ``accumulation`` times.

        Raises:
            NotFiniteError: the gradient is not finite, and the loss scale cannot be lowered any more.
        """
        rate = Tensor(learning_rate, ms.float32)
        scale = Tensor(1.0 if self.scaler is None else self.scaler.scale_value.asnumpy(), ms.float32)
        losses, norm, reports = [], None, []
        for i, part in enumerate(parts):
            run = self._update if i + 1 == len(parts) else self._add
            loss, norm, report = run(rate, scale, *(Tensor(array) for array in part))
            # the mean over all devices: a plateau must lower the learning rate of all of them
            losses.append(float(self.devices.gather(loss.asnumpy().reshape(1)).mean()))
            reports.append(report)
        update = Update(float(np.mean(losses)), float(norm.asnumpy()), reports)
        self._count_skipped(step, update, float(scale.asnumpy()))
        if self.average is not None and (step + 1) % self.settings.ema_every == 0:
            self._average()
        return update

    def _count_skipped(self, step: int, update: Update, scale: float) -> None:
        finite = bool(np.isfinite(update.norm))
        if self.scaler is not None:
            self.scaler.adjust(Tensor(finite))
        if finite:
            self.skipped_in_a_row = 0
            return
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.scaler is None or scale <= 1 or self.skipped_in_a_row > MOST_SKIPPED:
            raise NotFiniteError(
                f"step {step + 1}: the loss is {update.loss}, the norm of its gradient {update.norm}. Nothing was "
                "changed by this step. Continue from the last checkpoint with a lower learning rate or a smaller "
                "clip_norm, or look for the pictures that cause it."
            )

    def restart_average(self, parameter: Parameter) -> None:
        """Lets the average of ``parameter``, if there is one, start again from its value now."""
        if self.average is not None:
            self.average.restart(parameter)

    def __enter__(self) -> "Updates":
        self.cell.set_train(False)
        if self.average is not None:
            self.average.exchange()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.average is not None:
            self.average.exchange()
        self.cell.set_train(True)
