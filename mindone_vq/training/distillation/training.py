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
        self.from_start = max(1, round(settings.batch_size * settings.start_share))  # rows of a batch
        self.order = Order(len(self.dataset.codes), settings.batch_size - self.from_start, settings.seed)
        # of the rows until the next assignment: start codes, and the pictures that they stand for
        rows = settings.assign_every * self.from_start
        self.starts, self.assigned = np.zeros((rows, settings.start_codes), np.int32), np.zeros(rows, np.int64)
        prompts_assigned = -(-rows // settings.pictures_per_prompt)
        self.order_of_groups = Order(len(self.dataset.groups), prompts_assigned, settings.seed)
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
        update, (nats, hits) = self._update(self._batch())
        n = self.from_start
        found = {"nats_from_start": nats[:n], "nats_later": nats[n:], "likeliest_is_right": hits}
        means = {name: float(values.mean()) for name, values in found.items() if values.size}
        return {"loss": update.loss, **means, "gradient_norm": update.norm}

    def _assign(self) -> None:
        """Start codes for the next steps, and the pictures that they stand for, by the weights as they are."""
        settings, groups = self.settings, self.dataset.groups
        rng = np.random.default_rng((settings.seed, self.step, 2))
        chosen, _ = self.order_of_groups.batch(self.step // settings.assign_every)
        starts, pictures = zip(*(self._assigned(groups[i], rng) for i in chosen))
        rows = rng.permutation(len(chosen) * settings.pictures_per_prompt)[: len(self.assigned)]
        self.starts, self.assigned = np.concatenate(starts)[rows], np.concatenate(pictures)[rows]

    def _assigned(self, group: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """``pictures_per_prompt`` start codes, and for each the picture of a prompt that it stands for."""
        dataset, devices, count = self.dataset, self.devices, self.settings.pictures_per_prompt
        starts = random_starts(count, self.settings.start_codes, self.pipe.scheduler.mask_class, rng)
        rows, pixels = -(-count // devices.count) * devices.count, dataset.codes.shape[1]
        # repeated up to one size for all prompts, for which the graph is compiled
        x_T = np.resize(repeated(starts, pixels), (rows, pixels))
        x_0 = np.resize(dataset.codes[group], (count, pixels))
        ids = np.resize(self.ids[group[:1]], (rows, self.ids.shape[1]))
        inputs = (Tensor(each) for each in (devices.part(x_T), x_0, devices.part(ids)))
        found = devices.gather(self._log_likelihoods(*inputs).asnumpy())[:count, : len(group)]
        return starts, group[assigned(found, self.settings.assignment_balance, rng)]

    def _batch(self) -> tuple[np.ndarray, ...]:
        """The arguments of ``TextToImageLoss`` for the whole batch of this step; rows with start codes come first."""
        settings, scheduler, n = self.settings, self.pipe.scheduler, self.from_start
        rng = np.random.default_rng((settings.seed, self.step, 1))  # of this step alone: a run can be continued
        first = self.step % settings.assign_every * n
        noisy, _ = self.order.batch(self.step)
        indices = np.concatenate((self.assigned[first : first + n], noisy))
        x_0, count = self.dataset.codes[indices], len(indices)
        t = rng.integers(0, scheduler.num_train_timesteps, count).astype(np.int32)
        t[:n] = scheduler.start_timestep
        x_t = scheduler.add_noise(x_0, t, rng).asnumpy()
        x_t = np.concatenate((repeated(self.starts[first : first + n], x_0.shape[1]), x_t[n:]))
        return x_0, x_t, t, np.ones(count, np.float32), self.ids[indices], np.zeros(count, bool)
