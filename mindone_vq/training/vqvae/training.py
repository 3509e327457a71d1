"""Training the VQ-VAE on pictures."""

import contextlib
import logging
from pathlib import Path
from typing import Any, Optional

import numpy as np
from mindspore import Parameter, Tensor, nn
from PIL import Image

from mindone_vq.pictures import grid, to_model_range, to_uint8
from mindone_vq.training.compilation import TrainingGraph
from mindone_vq.training.data.batches import PixelBatches, to_pixels
from mindone_vq.training.data.dataset import UnreadablePicture, open_dataset
from mindone_vq.training.devices import Devices
from mindone_vq.training.run import Training
from mindone_vq.training.update.updates import NotFiniteError, Update, Updates
from mindone_vq.training.vqvae.adversarial import AdversarialTerm, discriminator_updates, make_discriminator
from mindone_vq.training.vqvae.codebook import CodebookAverage, k_means
from mindone_vq.training.vqvae.loss import VQVAELoss
from mindone_vq.training.vqvae.model import VQVAESettings, make_vqvae
from mindone_vq.training.vqvae.perceptual import load_perceptual

logger = logging.getLogger("mindone_vq")

PREVIEW_PICTURES = 8
POINTS_PER_CODE = 32  # latents that k-means starts the codebook from
# The weight that switches a term on -> how the names of its settings begin.
TERM_SETTINGS = {"perceptual_weight": ("perceptual_",), "adversarial_weight": ("adversarial_", "discriminator_")}


class VQVAETraining(Training):
    """Trains a VQ-VAE (arXiv 1711.00937) on a folder of pictures."""

    settings: VQVAESettings

    def __init__(self, settings: VQVAESettings, devices: Devices) -> None:
        super().__init__(settings, devices)
        self.dataset = open_dataset(settings.data, captions_required=False, background=settings.background)
        self.model = make_vqvae(settings)
        self.codebook = self.model.quantize.embedding.embedding_table
        self.average = None
        if settings.codebook == "ema":
            self.codebook.requires_grad = False
            self.average = CodebookAverage(self.codebook, settings.codebook_decay, settings.dead_below, devices.count)
            self._average = TrainingGraph(self.average, "average of the codebook")
        self.discriminator: Optional[Updates] = None
        self.terms = self._make_terms()
        loss = VQVAELoss(
            self.model,
            settings.l1_weight,
            settings.l2_weight,
            settings.commitment_weight,
            settings.codebook_weight if settings.codebook == "loss" else 0.0,
            list(self.terms.values()),
            report_reconstructions=self.discriminator is not None,
        )
        self.updates = Updates(loss, self.model.trainable_params(), settings, devices)
        self.counts = np.zeros(self.codebook.shape[0])
        self.batches = PixelBatches(
            self.dataset,
            settings.size,
            settings.batch_size // settings.accumulation,
            settings.seed,
            devices=devices,
            crop=settings.crop,
            flip=settings.flip,
            memory_limit=settings.memory_limit,
        )

    def close(self) -> None:
        self.batches.close()

    def _make_terms(self) -> dict[str, nn.Cell]:
        """The terms of the loss that are switched on, beside those it always has, by their names."""
        settings, terms = self.settings, {}
        if settings.perceptual_weight > 0:
            terms["perceptual"] = load_perceptual(settings.perceptual_weights, settings.perceptual_linear_weights)
        if settings.adversarial_weight > 0:
            sizes = (settings.discriminator_layers, settings.discriminator_channels)
            discriminator = make_discriminator(*sizes, settings.seed)
            self.discriminator = discriminator_updates(discriminator, settings, self.devices)
            terms["adversarial"] = AdversarialTerm(discriminator)
        return terms

    def advance(self) -> dict[str, float]:
        settings = self.settings
        if self.step == settings.quantize_from and not settings.model_from:
            self._start_codebook()
        quantized = self.step >= settings.quantize_from
        adversarial = settings.adversarial_weight if self.step >= settings.adversarial_from else 0.0
        weights = {"perceptual": settings.perceptual_weight, "adversarial": adversarial}
        weights = {name: weights[name] for name in self.terms}
        given = tuple(map(np.float32, (quantized, *weights.values())))
        first = self.step * settings.accumulation
        parts = [(self.batches.batch(first + i), *given) for i in range(settings.accumulation)]
        update = self.updates(self.step, self.learning_rate.at(self.step), parts)
        values = {"loss": update.loss, "gradient_norm": update.norm}
        names = ("l1", "l2", "commitment", *weights)
        terms = [[float(each.asnumpy()) for each in report[: len(names)]] for report in update.reports]
        gathered = [self.devices.gather(np.array([each], np.float32)) for each in terms]
        values.update(zip(names, map(float, np.concatenate(gathered).mean(0, dtype=np.float64))))
        values["psnr"] = 10 * np.log10(4 / max(values["l2"], 1e-10))  # pictures are 2 from black to white
        if weights.get("adversarial") and np.isfinite(update.norm):
            values["discriminator_loss"] = self._train_discriminator(parts, update)
        for report in update.reports:
            latents, codes = report[len(names) : len(names) + 2]
            self.counts += np.bincount(codes.asnumpy(), minlength=len(self.counts))
            # a step that was skipped may have latents that are not finite, and a codebook would never forget them
            if self.average is not None and quantized and np.isfinite(update.norm):
                values["dead_codes"] = self._move_codebook(latents, codes)
        return values

    def _train_discriminator(self, parts: list[tuple], update: Update) -> float:
        """One update of the discriminator, on the same pictures and their reconstructions; its loss."""
        batch = [(part[0], report[-1]) for part, report in zip(parts, update.reports)]
        share = self.settings.discriminator_learning_rate / self.settings.learning_rate
        try:
            return self.discriminator(self.step, share * self.learning_rate.at(self.step), batch).loss
        except NotFiniteError as error:  # if it persists, the update of the VQ-VAE ends the run
            logger.warning("The discriminator: %s", error)
            return float("nan")

    def _move_codebook(self, latents: Tensor, codes: Tensor) -> float:
        """Lets the codebook follow the latents of a batch; how many codes were dead."""
        rng = np.random.default_rng((self.settings.seed, self.step, 1))
        count = latents.shape[0]  # those of all devices are one after the other, as on a single one
        candidates = rng.integers(0, count * self.devices.count, len(self.counts)) - count * self.devices.rank
        here = ((candidates >= 0) & (candidates < count)).astype(np.float32)[:, None]  # (classes, 1)
        candidates = candidates.clip(0, count - 1).astype(np.int32)
        _, dead = self._average(latents, codes, Tensor(candidates), Tensor(here))
        return float(dead.asnumpy())

    def _start_codebook(self) -> None:
        """Puts the codes where the latents of the coming batches are."""
        logger.info("Starting the codebook by k-means ...")
        encode = TrainingGraph(self.model.encode, "encoder")
        needed, points, step = POINTS_PER_CODE * len(self.counts), [], self.step * self.settings.accumulation
        while sum(map(len, points)) < needed:
            latents = encode(Tensor(to_model_range(self.batches.batch(step))))[0].asnumpy()  # (batch, channels, h, w)
            rows = latents.transpose(0, 2, 3, 1).reshape(-1, latents.shape[1])
            points.append(self.devices.gather(rows))
            step += 1
        rng = np.random.default_rng((self.settings.seed, self.step, 2))
        codebook = k_means(np.concatenate(points), len(self.counts), rng)
        if self.average is not None:
            self.average.restart(codebook)
        else:
            self.codebook.copy_(Tensor(codebook))
            self.updates.restart_average(self.codebook)

    def interval_values(self) -> dict[str, float]:
        """The share of codes that were used since the last call, and the perplexity of their frequencies."""
        counts = self.devices.gather(self.counts.astype(np.int32)[None]).sum(0)
        p = counts / max(counts.sum(), 1)
        used = p > 0
        entropy = -(p[used] * np.log(p[used])).sum()
        self.counts[:] = 0
        return {"codebook_usage": float(used.mean()), "codebook_perplexity": float(np.exp(entropy))}

    def previews(self) -> dict[str, Image.Image]:
        """Pictures above, their reconstructions below."""
        pixels: list[np.ndarray] = []
        for i in range(len(self.dataset)):
            with contextlib.suppress(UnreadablePicture):  # counted and named by the dataset
                pixels.append(to_pixels(self.dataset.picture(i), self.settings.size))
            if len(pixels) == PREVIEW_PICTURES:
                break
        with self.updates:
            latents = self.model.encode(Tensor(to_model_range(np.stack(pixels))))[0]
            codes = self.model.quantize.nearest(latents.transpose(0, 2, 3, 1))  # (batch, h, w)
            decoded = to_uint8(self.model.decode_codes(codes).asnumpy())
        rows = [[Image.fromarray(each.transpose(1, 2, 0)) for each in row] for row in (pixels, decoded)]
        return {"reconstructions": grid(rows)}

    def extra_parameters(self) -> list[Parameter]:
        """The codebook and its running means, where no gradient moves it; the discriminator, where there is one."""
        codebook = [] if self.average is None else [self.codebook, *self.average.state()]
        return codebook if self.discriminator is None else [*codebook, *self.discriminator.parameters()]

    def identity(self) -> dict[str, Any]:
        identity = super().identity()
        # settings of a term that is off change nothing; nor were they there before there was the term
        off = [begin for switch, begins in TERM_SETTINGS.items() if not identity[switch] for begin in begins]
        return {name: value for name, value in identity.items() if not name.startswith(tuple(off))}

    def save(self, folder: Path) -> None:
        """config.json and the weights, as ``VQModel.from_pretrained`` reads them."""
        with self.updates:
            self.model.save_pretrained(folder)
