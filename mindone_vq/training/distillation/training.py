"""Training a student of a few steps on what its teacher draws."""

import functools
import pkgutil
from pathlib import Path
from typing import Any

import numpy as np

from mindone_vq.diffusion.samplers import Flow
from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.text.prompts import read_prompts
from mindone_vq.training.data.batches import Order
from mindone_vq.training.devices import Devices
from mindone_vq.training.distillation.coupling import assigned_starts, code_vectors
from mindone_vq.training.distillation.settings import DistillationSettings
from mindone_vq.training.distillation.teacher import drawn_pictures
from mindone_vq.training.run import SETTINGS_FILE
from mindone_vq.training.text_to_image.denoiser import DenoiserTraining
from mindone_vq.training.text_to_image.loss import LikelihoodLoss
from mindone_vq.weights.fingerprint import fingerprint
from mindone_vq.weights.hub import resolve

NEARLY = 0.99999  # the published share of masks at the end of the forward process


def student_scheduler(teacher: VQDiffusionScheduler, masked_share: float) -> VQDiffusionScheduler:
    """The teacher's scheduler, but with an x_T of which ``masked_share`` are masks and the rest random codes."""
    end = min(max(masked_share, 1 - NEARLY), NEARLY)
    return VQDiffusionScheduler.from_config(teacher.config, initial_masked_share=masked_share, gamma_cum_end=end)


class DistillationTraining(DenoiserTraining):
    """Trains a copy of a pipeline on pairs of x_T and the teacher's x_0 (ReDi, arXiv 2507.15897; ``coupling``).

    x_t is, pixel by pixel, x_0 with probability A_t, else x_T, for the timesteps of the student's own steps; the
    student learns p(x_0 | x_t). The teacher's guidance is in x_0, so the student needs none.
    """

    settings: DistillationSettings

    def __init__(self, settings: DistillationSettings, devices: Devices) -> None:
        super().__init__(settings, devices)
        model = resolve(settings.data, VQDiffusionPipeline.component_classes)
        teacher = VQDiffusionPipeline.from_pretrained(model)
        teacher.set_progress_bar_config(disable=True)
        scheduler = student_scheduler(teacher.scheduler, settings.initial_masked_share)
        prompts = [prompt.text for prompt in read_prompts(Path(settings.prompts))]
        self.dataset = drawn_pictures(
            teacher,
            prompts,
            settings.pictures_per_prompt,
            settings.teacher_batch_size,
            {"num_inference_steps": settings.teacher_steps, "spacing": settings.teacher_spacing},
            settings.seed,
            fingerprint(model, VQDiffusionPipeline.component_classes),
            settings.output / "cache",
            devices,
            pkgutil.resolve_name(settings.accept) if settings.accept else None,
        )
        self.vectors = code_vectors(teacher.vqvae)
        self.pipe = VQDiffusionPipeline.from_pipe(teacher, scheduler=scheduler)
        steps = scheduler.steps(settings.student_steps, Flow(), settings.student_spacing)
        self.timesteps = np.array([step.timestep for step in steps])
        self.ids = self.pipe.tokenize(self.dataset.prompts)
        self.prompts = list(settings.preview_prompts) or list(dict.fromkeys(prompts))[:4]
        self.order = Order(len(self.dataset.codes), settings.batch_size, settings.seed)
        groups = len({int(group[0]) for group in self.dataset.groups})
        self._starts = functools.lru_cache(maxsize=groups)(self._assign)  # once an epoch; as large as the codes
        self.updates = self._make_updates(LikelihoodLoss())

    @property
    def call_settings(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "guidance_scale": 1.0,
            "truncation_rate": settings.student_truncation_rate,
            "num_inference_steps": settings.student_steps,
            "sampler": Flow.name,
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

    def advance(self) -> dict[str, float]:
        update, (nats, hits) = self._update(self._batch())
        return {
            "loss": update.loss,
            "likeliest_is_right": float(hits.mean()),
            "gradient_norm": update.norm,
            "nats": float(nats.mean()),
        }

    def _batch(self) -> tuple[np.ndarray, ...]:
        """The arguments of ``TextToImageLoss`` for the whole batch of this step."""
        settings, count = self.settings, self.settings.batch_size
        rng = np.random.default_rng((settings.seed, self.step, 1))  # of this step alone: a run can be continued
        indices, epochs = self.order.batch(self.step)
        x_0 = self.dataset.codes[indices]
        x_T = np.stack([self._start(int(i), int(epoch)) for i, epoch in zip(indices, epochs)])
        timesteps = rng.choice(self.timesteps, count).astype(np.int32)
        keep = self.pipe.scheduler.schedule.keep[timesteps][:, None]
        x_t = np.where(rng.random(x_0.shape) < keep, x_0, x_T).astype(np.int32)
        ones = np.ones(count, np.float32)
        return x_0, x_t, timesteps, ones, self.ids[indices], np.zeros(count, bool)

    def _start(self, index: int, epoch: int) -> np.ndarray:
        """x_T of a picture, (pixels,): in every epoch those of a prompt are drawn and assigned anew."""
        group = self.dataset.groups[index]
        return self._starts(int(group[0]), epoch)[np.searchsorted(group, index)]

    def _assign(self, first: int, epoch: int) -> np.ndarray:
        """x_T of all pictures of the prompt whose first one is ``first``, (pictures, pixels)."""
        x_0 = self.dataset.codes[self.dataset.groups[first]]
        rng = np.random.default_rng((self.settings.seed, epoch, first, 2))
        x_T = self.pipe.scheduler.initial_codes(*x_0.shape, rng).asnumpy()
        return assigned_starts(x_0, x_T, self.vectors)
