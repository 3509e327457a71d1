"""A training run: settings that every run has, and the loop with its log, previews and checkpoints."""

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from mindspore import Parameter
from PIL import Image

from mindone_vq.training import settings as settings_files
from mindone_vq.training.checkpoint import find_checkpoint, latest_checkpoint, load_checkpoint, save_checkpoint
from mindone_vq.training.devices import Devices
from mindone_vq.training.learning_rate import LearningRate
from mindone_vq.training.logs import Progress, TrainingLog
from mindone_vq.training.settings import REQUIRED, option

logger = logging.getLogger("mindone_vq")

CHECKPOINTS, SETTINGS_FILE = "checkpoints", "training.yaml"
# What may differ when a run is continued: it changes no weight.
FREE = {"output", "resume", "device", "save_every", "keep", "log_every", "preview_every", "memory_limit"}
FREE |= {"preview_prompts", "preview_steps", "preview_guidance_scale", "preview_truncation_rate"}


@dataclass(frozen=True)
class RunSettings:
    """What every training run can be told. Subclasses add their own."""

    data: str = option(REQUIRED, "an image folder with metadata.jsonl (file_name, text), or MindRecord")
    output: Path = option(Path("outputs/training"), "the folder of the run: model, checkpoints, log, previews")
    steps: int = option(10000, "updates of the weights", minimum=1)
    batch_size: int = option(32, "pictures in an update, over all devices", minimum=1)
    accumulation: int = option(1, "parts an update's batch is cut into, to save memory", minimum=1)
    learning_rate: float = option(3e-4, "after the warm-up", above=0)
    warmup_steps: int = option(100, "steps over which the learning rate rises", minimum=0)
    schedule: Literal["cosine", "constant", "plateau"] = option("cosine", "of the learning rate after the warm-up")
    final_share: float = option(0.01, "of the learning rate: its least, relative to its peak", minimum=0, maximum=1)
    plateau_factor: float = option(0.5, "what a plateau multiplies the learning rate by", above=0, maximum=1)
    plateau_patience: int = option(10, "windows without a lower mean loss that make a plateau", minimum=1)
    plateau_window: int = option(100, "steps in such a window", minimum=1)
    beta1: float = option(0.9, "AdamW: decay of the mean gradient", above=0, maximum=0.999999)
    beta2: float = option(0.96, "AdamW: decay of the mean squared gradient", above=0, maximum=0.999999)
    weight_decay: float = option(0.0, "AdamW: decay of matrices", minimum=0)
    clip_norm: float = option(1.0, "largest norm of a gradient; 0: any", minimum=0)
    ema_decay: float = option(0.0, "of averaged weights, which are the result; 0: no average", minimum=0, maximum=1)
    ema_every: int = option(1, "steps between two updates of the average", minimum=1)
    precision: Literal["float32", "float16", "bfloat16"] = option(
        "float32", "of matrix products; float16 with dynamic loss scaling; weights are always float32"
    )
    seed: int = option(0, "of initial weights, order and noise", minimum=0)
    save_every: int = option(500, "steps between checkpoints", minimum=1)
    keep: int = option(3, "checkpoints that are kept", minimum=1)
    log_every: int = option(50, "steps between lines of the log, which hold means", minimum=1)
    preview_every: int = option(1000, "steps between previews, and savings of the model; 0: none", minimum=0)
    resume: bool = option(False, "continue the run in --output from its last checkpoint")
    device: Literal["auto", "CPU", "Ascend"] = option("auto", "where to train; auto: what MindSpore chooses")

    def problems(self) -> list[str]:
        """What does not fit together."""
        found = []
        if self.batch_size % self.accumulation:
            found.append(f"accumulation is {self.accumulation}: it must divide batch_size, {self.batch_size}.")
        if self.device == "CPU" and self.precision == "bfloat16":
            found.append("precision is bfloat16, which MindSpore cannot run on a CPU: choose float32.")
        return found


class Training:
    """Base of the trainings: the loop around ``advance``.

    A subclass sets ``updates`` (``mindone_vq.training.updates.Updates``) and ``dataset``, and gives ``advance``,
    ``previews``, ``save``; and ``extra_parameters``, ``arrays``, ``restore_arrays`` where its state is more than that
    of ``updates``.
    """

    def __init__(self, settings: RunSettings, devices: Devices) -> None:
        parts = devices.count * settings.accumulation
        if settings.batch_size % parts:
            raise ValueError(
                f"batch_size is {settings.batch_size}; it must be a multiple of devices times accumulation, "
                f"{devices.count} x {settings.accumulation}."
            )
        self.settings, self.devices, self.step = settings, devices, 0
        self._said = ""  # of the dataset's problems
        self.learning_rate = LearningRate(
            settings.learning_rate,
            settings.steps,
            settings.warmup_steps,
            settings.schedule,
            settings.final_share,
            settings.plateau_factor,
            settings.plateau_patience,
            settings.plateau_window,
        )

    def advance(self) -> dict[str, float]:
        """One update of the weights; what to log of it, of which means are taken."""
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
        """Goes back to ``arrays``."""

    def window(self) -> dict[str, float]:
        """What to log beside the means, about all steps since it was last asked."""
        return {}

    def identity(self) -> dict[str, Any]:
        """What must be the same when a run is continued: the settings that change weights."""
        # only a cosine depends on where it ends: a run with another schedule can be made longer
        free = FREE if self.settings.schedule == "cosine" else FREE | {"steps"}
        kept = {name: value for name, value in asdict(self.settings).items() if name not in free}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in kept.items()}

    def run(self) -> None:
        """Trains to the end, from the last checkpoint where the run is continued, and saves the model."""
        settings, first = self.settings, self.devices.first
        self._begin()
        self._report_problems()
        if first:
            settings_files.save(settings, settings.output / SETTINGS_FILE)
        means: list[dict[str, float]] = []
        with TrainingLog(settings.output, self.step, first) as log, Progress(settings.steps, self.step, first) as bar:
            since = time.perf_counter()
            while self.step < settings.steps:
                rate = self.learning_rate.at(self.step)
                means.append(self.advance())
                self.learning_rate.observe(self.step, means[-1]["loss"])
                self.step += 1
                if self.step % settings.log_every == 0 or self.step == settings.steps:
                    now = time.perf_counter()
                    names = {name: None for each in means for name in each}  # in order
                    line = {name: float(np.mean([each[name] for each in means if name in each])) for name in names}
                    line.update(self.window(), learning_rate=rate, skipped=self.updates.skipped)
                    line["images_per_second"] = len(means) * settings.batch_size / (now - since)
                    log.scalars(self.step, line)
                    bar.update(self.step, {"loss": line["loss"], "images/s": line["images_per_second"]})
                    means, since = [], now
                if settings.preview_every and self.step % settings.preview_every == 0 and first:
                    for name, picture in self.previews().items():
                        log.picture(self.step, name, picture)
                    self.save(settings.output)
                if self.step % settings.save_every == 0 or self.step == settings.steps:
                    self._save_checkpoint()
                    self._report_problems()
        if first:
            self.save(settings.output)
        self.devices.wait()

    def _report_problems(self) -> None:
        """Says what is wrong in the dataset where that is new: pictures may be decoded while training goes on."""
        problems = self.dataset.problems
        summary = problems.summary() if problems.left_out or problems.undecodable else ""
        if summary != self._said and self.devices.first:
            logger.warning("%s: %s.", self.settings.data, summary)
        self._said = summary

    def _begin(self) -> None:
        folder = self.settings.output / CHECKPOINTS
        if not self.settings.resume:
            if folder.is_dir() and latest_checkpoint(folder) is not None:
                raise ValueError(
                    f"{self.settings.output} holds a run already: continue it with --resume, or choose another folder."
                )
            return
        path = find_checkpoint(folder) if folder.is_dir() else None
        if path is None:
            logger.info("%s holds no checkpoint: the run starts from the beginning.", self.settings.output)
            return
        arrays, state = load_checkpoint(path, self._parameters())
        ours = self.identity()
        different = [
            f"{name} was {state['identity'].get(name)!r} and is {ours.get(name)!r}"
            for name in {**state["identity"], **ours}
            if name not in FREE and state["identity"].get(name) != ours.get(name)
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
        if self.devices.first:
            state = {
                "step": self.step,
                "identity": self.identity(),
                "learning_rate": self.learning_rate.state(),
                "skipped": self.updates.skipped,
            }
            folder = self.settings.output / CHECKPOINTS
            save_checkpoint(folder, self.step, self._parameters(), self.arrays(), state, self.settings.keep)
        self.devices.wait()
