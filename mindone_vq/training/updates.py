"""From batches to changed weights: the compiled training steps and what they need from the host."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindone_vq.training.devices import Devices
from mindone_vq.training.optimizer import AdamW, WeightAverage
from mindone_vq.training.step import GradientSums, TrainingStep

PRECISIONS = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}
FIRST_SCALE, STEPS_TO_GROW, MOST_SKIPPED = 2.0**16, 1000, 100


class NotFiniteError(FloatingPointError):
    """The loss or a gradient is infinite or not a number, and training cannot go on."""


@dataclass
class Update:
    """loss: the mean over the batch; norm: of the gradient, not finite if nothing changed; reports: of every part.

    The reports are of what this device saw, the other two of all devices.
    """

    loss: float
    norm: float
    reports: list[Any]


class Updates:
    """Changes the weights once per call, from one part of the batch after the other.

    Args:
        loss: a cell that returns a scalar, and what it reports.
        parameters: what is trained; float32.
        settings: of the run, see ``mindone_vq.training.run.RunSettings``.
        devices: who shares the batch.
    """

    def __init__(self, loss: nn.Cell, parameters: Sequence[Parameter], settings: Any, devices: Devices) -> None:
        self.settings, self.devices = settings, devices
        self.cell = loss.set_train(True)
        if settings.precision != "float32":
            # "O1" returns a network of rewritten source text, which cannot be compiled; "auto" marks this one
            ms.amp.auto_mixed_precision(loss, "auto", PRECISIONS[settings.precision])
        self.optimizer = AdamW(parameters, (settings.beta1, settings.beta2), weight_decay=settings.weight_decay)
        self.average = WeightAverage(parameters, settings.ema_decay) if settings.ema_decay > 0 else None
        self.sums = GradientSums(self.optimizer.parameters, settings.accumulation)
        shared = (settings.clip_norm, settings.accumulation, devices.count)
        last = TrainingStep(loss, self.optimizer, self.sums, *shared, last=True)
        self._last = ms.jit(last, fullgraph=True)
        if settings.accumulation > 1:
            self._add = ms.jit(TrainingStep(loss, self.optimizer, self.sums, *shared, last=False), fullgraph=True)
        if self.average is not None:
            self._average = ms.jit(self.average, fullgraph=True)
        scaled = settings.precision == "float16"
        self.scaler = ms.amp.DynamicLossScaler(FIRST_SCALE, 2, STEPS_TO_GROW) if scaled else None
        self.skipped = self.skipped_in_a_row = 0

    def parameters(self) -> list[Parameter]:
        """What a checkpoint holds: weights, moments, averages, sums, loss scale."""
        average = self.average.state() if self.average is not None else []
        scale = [self.scaler.scale_value, self.scaler.counter] if self.scaler is not None else []
        return [*self.optimizer.parameters, *self.optimizer.state(), *average, *self.sums.state(), *scale]

    def __call__(self, step: int, learning_rate: float, parts: Sequence[tuple[np.ndarray, ...]]) -> Update:
        """One update.

        Args:
            step: how many were done before.
            learning_rate: of this one.
            parts: the arguments of the loss, ``accumulation`` times.

        Raises:
            NotFiniteError: the gradient is not finite, and no loss scale can be lowered any more.
        """
        rate = Tensor(learning_rate, ms.float32)
        scale = Tensor(1.0 if self.scaler is None else self.scaler.scale_value.asnumpy(), ms.float32)
        losses, norm, reports = [], None, []
        for i, part in enumerate(parts):
            run = self._last if i + 1 == len(parts) else self._add
            loss, norm, report = run(rate, scale, *(Tensor(array) for array in part))
            # the mean over all devices: a plateau must lower the learning rate of all of them
            losses.append(float(self.devices.gather(loss.asnumpy().reshape(1)).mean()))
            reports.append(report)
        update = Update(float(np.mean(losses)), float(norm.asnumpy()), reports)
        self._check(step, update, float(scale.asnumpy()))
        if self.average is not None and (step + 1) % self.settings.ema_every == 0:
            self._average()
        return update

    def _check(self, step: int, update: Update, scale: float) -> None:
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

    def __enter__(self) -> "Updates":
        """Puts the averaged weights in place of the trained ones, to be used, as long as the with statement lasts."""
        self.cell.set_train(False)
        if self.average is not None:
            self.average.exchange()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.average is not None:
            self.average.exchange()
        self.cell.set_train(True)
