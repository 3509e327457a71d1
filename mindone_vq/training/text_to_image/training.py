"""Training the denoiser, and if wanted the text encoder, on captioned pictures."""

from pathlib import Path
from typing import Any

import numpy as np

from mindone_vq.training.data.batches import Order
from mindone_vq.training.data.codes import cached_codes
from mindone_vq.training.data.dataset import open_dataset
from mindone_vq.training.devices import Devices
from mindone_vq.training.run import SETTINGS_FILE
from mindone_vq.training.text_to_image.denoiser import DenoiserTraining
from mindone_vq.training.text_to_image.loss import VariationalLoss
from mindone_vq.training.text_to_image.pipeline import TextToImageSettings, make_pipeline
from mindone_vq.training.text_to_image.timesteps import TimestepSampler

BUCKETS = 10  # of timesteps, for the log


class TextToImageTraining(DenoiserTraining):
    """Trains VQ-Diffusion (arXiv 2111.14822, section 4; arXiv 2205.16007, section 3.1) on captioned pictures."""

    settings: TextToImageSettings

    def __init__(self, settings: TextToImageSettings, devices: Devices) -> None:
        super().__init__(settings, devices)
        self.dataset = open_dataset(settings.data, captions_required=True, background=settings.background)
        self.pipe = pipe = make_pipeline(settings, self.dataset.captions)
        self.num_timesteps = pipe.scheduler.num_train_timesteps
        size = pipe.transformer.height * pipe.vqvae.downscale
        self.codes, kept = cached_codes(self.dataset, pipe.vqvae, size, settings.output / "cache", devices)
        captions = [self.dataset.captions[i] for i in kept]
        self.ids, self.empty_ids = self.pipe.tokenize(captions), self.pipe.tokenize([""])[0]
        self.prompts = list(settings.preview_prompts) or list(dict.fromkeys(captions))[:4]
        self.order = Order(len(self.codes), settings.batch_size, settings.seed)
        self.timesteps = TimestepSampler(self.num_timesteps, settings.importance_sampling)
        self.updates = self._make_updates(
            VariationalLoss(
                pipe.scheduler.schedule, settings.mask_weight, settings.auxiliary_weight, settings.adaptive_auxiliary
            )
        )
        self._buckets = min(BUCKETS, self.num_timesteps)
        self._bucket_sums, self._bucket_counts = np.zeros(self._buckets), np.zeros(self._buckets)

    def advance(self) -> dict[str, float]:
        batch = x_0, _, timesteps, probabilities, _, _ = self._batch()
        update, (kl, auxiliary) = self._update(batch)
        pixels, drawn = x_0.shape[1], slice(self.settings.all_masked, None)
        timesteps, probabilities, kl = timesteps[drawn], probabilities[drawn], kl[drawn]
        if np.isfinite(update.norm):
            self.timesteps.update(timesteps, kl)
            buckets = timesteps.astype(int) * self._buckets // self.num_timesteps
            np.add.at(self._bucket_sums, buckets, kl / pixels)
            np.add.at(self._bucket_counts, buckets, 1)
        return {
            "loss": update.loss,
            # an estimate of the bound of all timesteps, in nats for each latent pixel
            "bound": float((kl / probabilities).mean() / pixels),
            "auxiliary": float(auxiliary[drawn].mean() / pixels),
            "gradient_norm": update.norm,
        }

    def _batch(self) -> tuple[np.ndarray, ...]:
        """The arguments of ``TextToImageLoss`` for the whole batch of this step."""
        settings, count = self.settings, self.settings.batch_size
        rng = np.random.default_rng((settings.seed, self.step, 1))  # of this step alone: a run can be continued
        indices, _ = self.order.batch(self.step)
        x_0 = self.codes[indices].astype(np.int32)
        timesteps, probabilities = self.timesteps.draw(count, rng)
        first = slice(settings.all_masked)
        timesteps[first], probabilities[first] = self.num_timesteps - 1, 1 / self.num_timesteps
        x_t = self.pipe.scheduler.add_noise(x_0, timesteps, rng).asnumpy()
        dropped = rng.random(count) < settings.caption_dropout
        ids = self.ids[indices]
        if self.pipe.learned_classifier_free_sampling_embeddings.embeddings is None:
            ids = np.where(dropped[:, None], self.empty_ids, ids)
        return x_0, x_t, timesteps, probabilities, ids, dropped

    def interval_values(self) -> dict[str, float]:
        """The mean divergence for each latent pixel, by timestep."""
        timesteps, values = self.num_timesteps, {}
        for i in np.flatnonzero(self._bucket_counts):
            first, after = -(-i * timesteps // self._buckets), -(-(i + 1) * timesteps // self._buckets)  # rounded up
            name = f"divergence_t{first:02d}_to_{after - 1:02d}"
            values[name] = float(self._bucket_sums[i] / self._bucket_counts[i])
        self._bucket_sums[:] = self._bucket_counts[:] = 0
        return values

    @property
    def call_settings(self) -> dict[str, Any]:
        settings = self.settings
        return {
            "guidance_scale": settings.preview_guidance_scale,
            "truncation_rate": settings.preview_truncation_rate,
        }

    def _preview_settings(self) -> dict[str, Any]:
        return {"num_inference_steps": min(self.settings.preview_steps, self.num_timesteps)}

    @property
    def training_notes(self) -> str:
        settings = self.settings
        return (
            f"{self.step} steps of {settings.batch_size} captioned pictures from `{Path(settings.data).name}`, with "
            f"mindone_vq's text-to-image training; `{SETTINGS_FILE}` beside this file has every setting."
        )

    def arrays(self) -> dict[str, np.ndarray]:
        return self.timesteps.state()

    def restore_arrays(self, arrays: dict[str, np.ndarray]) -> None:
        self.timesteps.restore(arrays)
