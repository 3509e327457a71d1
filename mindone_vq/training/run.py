"""The loop of a training run, with its log, previews and checkpoints."""

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Parameter
from PIL import Image
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mindone_vq.nn.device import on_cpu
from mindone_vq.profiling import traced
from mindone_vq.training import settings as settings_files
from mindone_vq.training.checkpoint import find_checkpoint, latest_checkpoint, load_checkpoint, save_checkpoint
from mindone_vq.training.data.dataset import CaptionedPictures
from mindone_vq.training.devices import Devices
from mindone_vq.training.logs import TrainingLog
from mindone_vq.training.run_settings import RunSettings
from mindone_vq.training.update.learning_rate import LearningRate
from mindone_vq.training.update.updates import Updates
from mindone_vq.weights.files import check_writable

logger = logging.getLogger("mindone_vq")

CHECKPOINTS, SETTINGS_FILE = "checkpoints", "training.yaml"
PROFILED = (4, 6)  # the first and the last step that is traced; the first of a run compiles
LONG = 2 * 3600  # seconds, beyond which a run on a CPU is no first try
# What may differ when a run is continued: it changes no weight.
FREE = {"output", "resume", "profile", "device", "save_every", "keep", "log_every", "preview_every", "memory_limit"}
FREE |= {"preview_prompts", "preview_steps", "preview_guidance_scale", "preview_truncation_rate"}


class Training:
    """Base of the trainings: the loop around ``advance``.

    A subclass sets ``updates`` and ``dataset``, and gives ``advance``, ``previews`` and ``save``; and where it has more
    state or more to log than ``updates``: ``extra_parameters``, ``arrays``, ``restore_arrays``, ``interval_values``.
    """

    updates: Updates
    dataset: CaptionedPictures

    def __init__(self, settings: RunSettings, devices: Devices) -> None:
        if settings.batch_size % (devices.count * settings.accumulation):
            raise ValueError(
                f"batch_size is {settings.batch_size}; it must be a multiple of devices times accumulation, "
                f"{devices.count} x {settings.accumulation}."
            )
        if settings.profile:
            check_writable(Path(settings.profile), is_folder=True)
        self.settings, self.devices, self.step = settings, devices, 0
        self.learning_rate = LearningRate(settings)
        self._reported = ""  # problems of the dataset

    def advance(self) -> dict[str, float]:
        """One update of the weights, which has ended; what to log of it, of which means are taken."""
        raise NotImplementedError

    def previews(self) -> dict[str, Image.Image]:
        """Pictures that show how far the model is."""
        raise NotImplementedError

    def save(self, folder: Path) -> None:
        """Writes the model."""
        raise NotImplementedError

    def extra_parameters(self) -> list[Parameter]:
        """Parameters beyond those of ``updates`` that the training changes."""
        return []

    def arrays(self) -> dict[str, np.ndarray]:
        """State that is kept as arrays."""
        return {}

    def restore_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        """Returns to ``arrays``."""

    def interval_values(self) -> dict[str, float]:
        """What to log beside the means, about all steps since the last call."""
        return {}

    def close(self) -> None:
        """Ends what runs in the background; the training cannot be continued."""

    def identity(self) -> dict[str, Any]:
        """What must be the same when a run is continued: the data and the settings that change weights."""
        # only a cosine depends on where it ends: a run with another schedule can be made longer
        free = FREE if self.settings.schedule == "cosine" else FREE | {"steps"}
        kept = {name: value for name, value in asdict(self.settings).items() if name not in free}
        listed = {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}
        return {**listed, "dataset": self.dataset.fingerprint()}

    def run(self) -> None:
        """Trains to the end, from the last checkpoint where the run is continued, and saves the model."""
        settings, first = self.settings, self.devices.first
        try:
            self._begin()
            if settings.profile and settings.steps - self.step < PROFILED[1]:
                raise ValueError(
                    f"profile traces steps {PROFILED[0]} to {PROFILED[1]}, {settings.steps - self.step} are left: "
                    "choose more steps."
                )
            self._report_problems()
            self.devices.on_first(lambda: settings_files.save(settings, settings.output / SETTINGS_FILE))
            bar = tqdm(total=settings.steps, initial=self.step, unit="step", dynamic_ncols=True, disable=not first)
            log, trace = TrainingLog(settings.output, self.step, first), traced(settings.profile, *PROFILED)
            with log, bar, logging_redirect_tqdm(), trace as step_ended:
                self._train(log, bar, step_ended)
            self.devices.on_first(lambda: self.save(settings.output))
        finally:
            self.close()

    def _train(self, log: TrainingLog, bar: tqdm, step_ended: Callable[[], None]) -> None:
        settings, values, since, begun = self.settings, [], time.perf_counter(), self.step
        while self.step < settings.steps:
            start = time.perf_counter()
            rate = self.learning_rate.at(self.step)
            values.append(self.advance())
            self.learning_rate.observe(self.step, values[-1]["loss"])
            self.step += 1
            step_ended()
            at_end = self.step == settings.steps
            if self.step % settings.log_every == 0 or at_end:
                now = time.perf_counter()
                line = {**_means(values), **self.interval_values(), "learning_rate": rate}
                line.update(skipped=self.updates.skipped)
                line.update(images_per_second=len(values) * settings.batch_size / (now - since))
                log.scalars(self.step, line)
                shown = {"loss": line["loss"], "images/s": line["images_per_second"]}
                bar.set_postfix({name: f"{value:.4g}" for name, value in shown.items()}, refresh=False)
                values, since = [], now
            if self.step == begun + 1:
                _start_clock(bar, self.step)
            else:
                bar.update()
            if self.step == begun + 2:
                self._report_long(time.perf_counter() - start)
            if settings.preview_every and self.step % settings.preview_every == 0:
                self.devices.on_first(lambda: self._preview(log))
            if self.step % settings.save_every == 0 or at_end:
                self.devices.on_first(self._save_checkpoint)
                self._report_problems()

    def _report_long(self, seconds: float) -> None:
        """Points to smaller settings where the run, at ``seconds`` for a step, takes long on a CPU."""
        left = (self.settings.steps - self.step) * seconds
        if left > LONG and on_cpu() and self.devices.first:
            hint = "docs/training.md has settings for a first try"
            logger.info("About %.0f hours are left on this CPU; %s.", left / 3600, hint)

    def _preview(self, log: TrainingLog) -> None:
        for name, picture in self.previews().items():
            log.picture(self.step, name, picture)
        self.save(self.settings.output)

    def _report_problems(self) -> None:
        """Warns of what is wrong in the dataset where that is new: pictures may be decoded while training goes on."""
        problems = self.dataset.problems
        summary = problems.summary() if problems.left_out or problems.undecodable else ""
        if summary != self._reported and self.devices.first:
            logger.warning("%s: %s.", self.settings.data, summary)
        self._reported = summary

    def _begin(self) -> None:
        output, folder = self.settings.output, self.settings.output / CHECKPOINTS
        if not self.settings.resume:
            if latest_checkpoint(folder) is not None:
                raise ValueError(f"{output} holds a run already: continue it with --resume, or choose another folder.")
            return
        path = find_checkpoint(folder)
        if path is None:
            logger.info("%s holds no checkpoint: the run starts from the beginning.", output)
            return
        arrays, state = load_checkpoint(path, self._parameters())
        before, now = state["identity"], self.identity()
        different = [
            f"{name} was {before.get(name)!r} and is {now.get(name)!r}"
            for name in {**before, **now}
            if name not in FREE and before.get(name) != now.get(name)
        ]
        if different:
            raise ValueError(f"{path} is of a run with other settings: {'; '.join(different)}.")
        self.step = state["step"]
        self.learning_rate.restore(state["learning_rate"])
        self.updates.skipped = state["skipped"]
        self.restore_arrays(arrays)
        logger.info("Continuing from %s.", path)

    def _parameters(self) -> list[Parameter]:
        return [*self.updates.parameters(), *self.extra_parameters()]

    def _save_checkpoint(self) -> None:
        state = {
            "step": self.step,
            "identity": self.identity(),
            "learning_rate": self.learning_rate.state(),
            "skipped": self.updates.skipped,
        }
        folder = self.settings.output / CHECKPOINTS
        save_checkpoint(folder, self.step, self._parameters(), self.arrays(), state, self.settings.keep)


def _start_clock(bar: tqdm, step: int) -> None:
    """Lets the bar measure from here, ``step``, on: the first step of a run compiles, and takes far longer."""
    bar.unpause()
    bar.initial = bar.n = bar.last_print_n = step
    bar.refresh()


def _means(values: list[dict[str, float]]) -> dict[str, float]:
    """The mean of every value over the steps that have it."""
    names = {name: None for each in values for name in each}  # in order
    return {name: float(np.mean([each[name] for each in values if name in each])) for name in names}
