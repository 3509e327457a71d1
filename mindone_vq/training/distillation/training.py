"""Training a student of a few steps on what its teacher draws."""

from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor

from mindone_vq.diffusion.scheduler import VQDiffusionScheduler, repeated
from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.text.prompts import read_prompts
from mindone_vq.training.compilation import TrainingGraph
from mindone_vq.training.data.batches import Order
from mindone_vq.training.devices import Devices
from mindone_vq.training.distillation.assignment import StartLikelihood, assigned, random_starts
from mindone_vq.training.distillation.settings import DistillationSettings
from mindone_vq.training.distillation.teacher import drawn_pictures
from mindone_vq.training.run import SETTINGS_FILE
from mindone_vq.training.text_to_image.denoiser import DenoiserTraining
from mindone_vq.training.text_to_image.loss import LikelihoodLoss
from mindone_vq.weights.fingerprint import fingerprint
from mindone_vq.weights.hub import resolve


class DistillationTraining(DenoiserTraining):
    """Trains a copy of a pipeline on pictures that it drew (ReDi, arXiv 2507.15897) and their starts (``assignment``).

    A part of each batch learns log p(x_0 | start codes), at the last timestep; the others log p(x_0 | x_t), as in every
    step after the first. The teacher's guidance is in x_0, so the student needs none.
    """

    settings: DistillationSettings

    def __init__(self, settings: DistillationSettings, devices: Devices) -> None:
        super().__init__(settings, devices)
        model = resolve(settings.data, VQDiffusionPipeline.component_classes)
        teacher = VQDiffusionPipeline.from_pretrained(model)
        teacher.set_progress_bar_config(disable=True)
        scheduler = VQDiffusionScheduler.from_config(teacher.scheduler.config, num_start_codes=settings.start_codes)
        prompts = [prompt.text for prompt in read_prompts(Path(settings.prompts))]
        weights = fingerprint(model, VQDiffusionPipeline.component_classes)
        self.dataset = drawn_pictures(teacher, prompts, settings, weights, devices)
        self.pipe = VQDiffusionPipeline.from_pipe(teacher, scheduler=scheduler)
        self.ids = self.pipe.tokenize(self.dataset.prompts)
        self.prompts = list(settings.preview_prompts) or list(dict.fromkeys(prompts))[:4]
        self.order = Order(len(self.dataset.codes), settings.batch_size, settings.seed)
        # of each row: start codes, and the picture of the same prompt that they stand for
        self.starts = np.zeros((len(self.dataset.codes), settings.start_codes), np.int32)
        self.assigned = np.arange(len(self.dataset.codes))
        self.updates = self._make_updates(LikelihoodLoss())
        likelihood = StartLikelihood(self.updates.cell, scheduler.start_timestep)
        self._log_likelihoods = TrainingGraph(likelihood, "log-likelihoods of the starts")

    @property
    def call_settings(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "guidance_scale": 1.0,
            "truncation_rate": settings.student_truncation_rate,
            "num_inference_steps": settings.student_steps,
            "sampler": settings.student_sampler,
            "spacing": settings.student_spacing,
        }

    @property
    def training_notes(self) -> str:
        settings, count = self.settings, len(self.dataset.codes)
        return (
            f"Distilled from `{Path(settings.data).name}` to {settings.student_steps} steps without guidance, by "
            f"{self.step} steps of {settings.batch_size} of {count} pictures that it drew; `{SETTINGS_FILE}` "
            "beside this file has every setting."
        )

    def arrays(self) -> dict[str, np.ndarray]:
        return {"starts": self.starts, "assigned": self.assigned}

    def restore_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self.starts, self.assigned = arrays["starts"], arrays["assigned"]

    def advance(self) -> dict[str, float]:
        if self.step % self.settings.assign_every == 0:
            self._assign()
        batch, from_start = self._batch()
        update, (nats, hits) = self._update(batch)
        found = {"nats_from_start": nats[from_start], "nats_later": nats[~from_start], "likeliest_is_right": hits}
        means = {name: float(values.mean()) for name, values in found.items() if values.size}
        return {"loss": update.loss, **means, "gradient_norm": update.norm}

    def _assign(self) -> None:
        """New start codes, and the pictures that they stand for, by the weights as they are."""
        settings, dataset, devices = self.settings, self.dataset, self.devices
        classes, pixels = self.pipe.scheduler.mask_class, dataset.codes.shape[1]
        rng = np.random.default_rng((settings.seed, self.step, 2))
        pictures = settings.pictures_per_prompt
        rows = -(-pictures // devices.count) * devices.count
        for group in dataset.groups:
            starts, n = random_starts(len(group), settings.start_codes, classes, rng), len(group)
            # repeated up to one size for all prompts, for which the graph is compiled
            x_T = np.resize(repeated(starts, pixels), (rows, pixels))
            x_0 = np.resize(dataset.codes[group], (pictures, pixels))
            ids = np.resize(self.ids[group[:1]], (rows, self.ids.shape[1]))
            inputs = (Tensor(each) for each in (devices.part(x_T), x_0, devices.part(ids)))
            found = devices.gather(self._log_likelihoods(*inputs).asnumpy())
            self.starts[group] = starts
            self.assigned[group] = group[assigned(found[:n, :n], settings.assignment_balance, rng)]

    def _batch(self) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
        """The arguments of ``TextToImageLoss`` for the whole batch of this step, and which rows are start codes."""
        settings, scheduler, count = self.settings, self.pipe.scheduler, self.settings.batch_size
        rng = np.random.default_rng((settings.seed, self.step, 1))  # of this step alone: a run can be continued
        indices, _ = self.order.batch(self.step)
        from_start = rng.random(count) < settings.start_share
        x_0 = self.dataset.codes[np.where(from_start, self.assigned[indices], indices)]
        t = rng.integers(0, scheduler.num_train_timesteps, count)
        x_t = scheduler.add_noise(x_0, t, rng).asnumpy()
        x_t = np.where(from_start[:, None], repeated(self.starts[indices], x_0.shape[1]), x_t)
        timesteps = np.where(from_start, scheduler.start_timestep, t).astype(np.int32)
        batch = x_0, x_t, timesteps, np.ones(count, np.float32), self.ids[indices], np.zeros(count, bool)
        return batch, from_start
