"""Training the VQ-VAE on pictures."""

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn
from PIL import Image

from mindone_vq.models.vq_model import VQModel
from mindone_vq.pictures import grid
from mindone_vq.training.adversarial import AdversarialTerm, DiscriminatorUpdates, smallest_picture
from mindone_vq.training.batches import PixelBatches, to_model_range, to_pixels
from mindone_vq.training.codebook import CodebookAverage, k_means
from mindone_vq.training.codec_loss import CodecLoss
from mindone_vq.training.data import UnreadablePicture, open_dataset
from mindone_vq.training.devices import Devices
from mindone_vq.training.perceptual import SMALLEST, load_perceptual
from mindone_vq.training.run import RunSettings, Training
from mindone_vq.training.settings import option
from mindone_vq.training.updates import Update, Updates

PREVIEW_PICTURES = 8
POINTS_PER_CODE = 32  # latents that k-means starts the codebook from
# The weight that switches a term on -> how the names of its settings begin.
TERM_SETTINGS = {"perceptual_weight": ("perceptual_",), "adversarial_weight": ("adversarial_", "discriminator_")}
MODEL = {
    "block_out_channels": [64, 128, 256],
    "layers_per_block": 1,
    "latent_channels": 64,
    "num_vq_embeddings": 1024,
    "norm_num_groups": 32,
}


@dataclass(frozen=True)
class CodecSettings(RunSettings):
    """Settings of ``CodecTraining``."""

    output: Path = option(Path("outputs/vqvae"), "the folder of the run: model, checkpoints, log, previews")
    size: int = option(64, "side of the pictures, in pixels", minimum=8)
    crop: Literal["center", "random"] = option("center", "which square of a picture that is longer than wide")
    flip: bool = option(False, "turn every second picture left to right")
    model: dict[str, Any] = option(MODEL, "arguments of VQModel")
    model_from: str = option("", "a folder or hub id whose VQModel is trained further, instead of --model")
    l1_weight: float = option(1.0, "of the mean absolute error", minimum=0)
    l2_weight: float = option(1.0, "of the mean squared error", minimum=0)
    commitment_weight: float = option(0.25, "of the term that draws latents to their code", minimum=0)
    codebook: Literal["ema", "loss"] = option("ema", "the codebook follows running means, or a term of the loss")
    codebook_decay: float = option(0.99, "of those running means", minimum=0, maximum=0.999999)
    codebook_weight: float = option(1.0, "of that term", above=0)
    dead_below: float = option(0.1, "latents in a batch, as a running mean, below which a code is dead", minimum=0)
    quantize_from: int = option(0, "step at which k-means makes the codebook; before it there is none", minimum=0)
    perceptual_weight: float = option(0.0, "of the distance between features of VGG16 (LPIPS); 0: off", minimum=0)
    perceptual_weights: str = option("", "file with torchvision's vgg16, .pth or .safetensors, for that distance")
    perceptual_linear_weights: str = option("", "file with LPIPS' weights of its channels [all count the same]")
    adversarial_weight: float = option(0.0, "of what a discriminator of patches says (VQGAN); 0: off", minimum=0)
    adversarial_from: int = option(0, "step from which it is trained, and counts", minimum=0)
    discriminator_learning_rate: float = option(2e-4, "its peak; follows the schedule of learning_rate", above=0)
    discriminator_channels: int = option(64, "of the discriminator's first layer", minimum=1)
    discriminator_layers: int = option(3, "convolutions of stride 2 in the discriminator", minimum=1)
    memory_limit: int = option(512 * 2**20, "bytes of decoded pictures kept in memory", minimum=0)

    def problems(self) -> list[str]:
        found = super().problems()
        if self.perceptual_weight > 0 and not self.perceptual_weights:
            found.append(
                f"perceptual_weight is {self.perceptual_weight}, but perceptual_weights is not given: it must be a "
                "file with the weights of torchvision's vgg16."
            )
        if self.perceptual_weight > 0 and self.size < SMALLEST:
            found.append(f"size is {self.size}: with perceptual_weight it must be at least {SMALLEST}.")
        smallest = smallest_picture(self.discriminator_layers)
        if self.adversarial_weight > 0 and self.size < smallest:
            found.append(
                f"size is {self.size}: with adversarial_weight and {self.discriminator_layers} discriminator_layers it "
                f"must be at least {smallest}."
            )
        return found


def make_model(settings: CodecSettings) -> VQModel:
    """The VQ-VAE that the settings describe, with the weights that its seed gives, or the one to train further."""
    if settings.model_from:
        return load_codec(settings.model_from)
    arguments = {"sample_size": settings.size, **settings.model}
    levels = len(arguments.get("block_out_channels", (64,)))
    arguments.setdefault("down_block_types", ["DownEncoderBlock2D"] * levels)
    arguments.setdefault("up_block_types", ["UpDecoderBlock2D"] * levels)
    if "latent_channels" in arguments:  # diffusers' pipeline reads the size of a code from the config, and no default
        arguments.setdefault("vq_embed_dim", arguments["latent_channels"])
    try:
        model = VQModel(**arguments)
    except TypeError as error:
        raise ValueError(f"model is {settings.model}, which VQModel does not take: {error}.") from error
    initialize(model, np.random.default_rng((settings.seed, 0)))
    return model


def initialize(model: VQModel, rng: np.random.Generator) -> None:
    """Weights to train from: convolutions keep the variance, and residual branches add nothing yet.

    MindSpore's default, as PyTorch's, shrinks a signal by 1.7 at each convolution; after the dozen between a picture
    and its reconstruction colours drown in the biases, and training takes several times as long to find them.
    """
    for name, part in model.cells_and_names():
        if isinstance(part, nn.Conv2d):
            spread = 0.0 if name.endswith(".conv2") else np.prod(part.weight.shape[1:]) ** -0.5
            part.weight.set_data(Tensor(rng.normal(0, spread, part.weight.shape).astype(np.float32)))
            part.bias.set_data(Tensor(np.zeros(part.bias.shape, np.float32)))
        elif isinstance(part, nn.Dense):
            part.weight.set_data(Tensor(rng.normal(0, part.in_channels**-0.5, part.weight.shape).astype(np.float32)))
            part.bias.set_data(Tensor(np.zeros(part.bias.shape, np.float32)))
    table = model.quantize.embedding.embedding_table
    table.set_data(Tensor(rng.uniform(-1, 1, table.shape).astype(np.float32) / len(table)))


def load_codec(source: str) -> VQModel:
    """A VQModel from its own folder, or from a pipeline's."""
    inside = Path(source).is_dir() and (Path(source) / "vqvae").is_dir()
    return VQModel.from_pretrained(source, subfolder="vqvae" if inside else "")


class CodecTraining(Training):
    """Trains a VQ-VAE (arXiv 1711.00937) on a folder of pictures."""

    def __init__(self, settings: CodecSettings, devices: Devices) -> None:
        super().__init__(settings, devices)
        self.dataset = open_dataset(settings.data, captions_required=False)
        self.model = make_model(settings)
        if settings.size % self.model.downscale:
            raise ValueError(
                f"size is {settings.size}; it must be a multiple of {self.model.downscale}, by which this model "
                "makes a picture smaller."
            )
        self.codebook = self.model.quantize.embedding.embedding_table
        self.average = None
        if settings.codebook == "ema":
            self.codebook.requires_grad = False
            self.average = CodebookAverage(self.codebook, settings.codebook_decay, settings.dead_below, devices.count)
            self._average = ms.jit(self.average, fullgraph=True)
        self.discriminator = DiscriminatorUpdates(settings, devices) if settings.adversarial_weight > 0 else None
        self.terms = self._make_terms()
        loss = CodecLoss(
            self.model,
            settings.l1_weight,
            settings.l2_weight,
            settings.commitment_weight,
            settings.codebook_weight if settings.codebook == "loss" else 0.0,
            list(self.terms.values()),
            report_reconstructions=self.discriminator is not None,
        )
        self.updates = Updates(loss, self.model.trainable_params(), settings, devices)
        self.batches = PixelBatches(
            self.dataset,
            settings.size,
            settings.batch_size // settings.accumulation,
            settings.seed,
            rank=devices.rank,
            world_size=devices.count,
            crop=settings.crop,
            flip=settings.flip,
            memory_limit=settings.memory_limit,
        )
        self.counts = np.zeros(self.codebook.shape[0])

    def _make_terms(self) -> dict[str, nn.Cell]:
        """The terms of the loss that are switched on, beside those it always has, by their names in the log."""
        settings, terms = self.settings, {}
        if settings.perceptual_weight > 0:
            terms["perceptual"] = load_perceptual(settings.perceptual_weights, settings.perceptual_linear_weights)
        if self.discriminator is not None:
            terms["adversarial"] = AdversarialTerm(self.discriminator.discriminator)
        return terms

    def _term_weights(self) -> dict[str, float]:
        """What each of them counts in this step."""
        settings = self.settings
        adversarial = settings.adversarial_weight if self.step >= settings.adversarial_from else 0.0
        weights = {"perceptual": settings.perceptual_weight, "adversarial": adversarial}
        return {name: weights[name] for name in self.terms}

    def advance(self) -> dict[str, float]:
        settings = self.settings
        if self.step == settings.quantize_from and not settings.model_from:
            self._start_codebook()
        quantized = np.float32(self.step >= settings.quantize_from)
        weights = self._term_weights()
        given = (quantized, *map(np.float32, weights.values()))
        parts = []
        for i in range(settings.accumulation):
            parts.append((self.batches.batch(self.step * settings.accumulation + i), *given))
        update = self.updates(self.step, self.learning_rate.at(self.step), parts)
        values = {"loss": update.loss, "gradient_norm": update.norm}
        names = ("l1", "l2", "commitment", *weights)
        terms = [
            np.array([[float(each.asnumpy()) for each in report[: len(names)]]], np.float32)
            for report in update.reports
        ]
        terms = np.concatenate([self.devices.gather(each) for each in terms]).mean(0, dtype=np.float64)
        values.update(zip(names, map(float, terms)))
        values["psnr"] = 10 * np.log10(4 / max(values["l2"], 1e-10))  # pictures are 2 from black to white
        if weights.get("adversarial") and np.isfinite(update.norm):
            values["discriminator_loss"] = self._teach_discriminator(parts, update)
        for report in update.reports:
            latents, codes = report[len(names) : len(names) + 2]
            self.counts += np.bincount(codes.asnumpy(), minlength=len(self.counts))
            # a step that was skipped may have latents that are not finite, and a codebook would never forget them
            if self.average is not None and quantized and np.isfinite(update.norm):
                values["dead_codes"] = self._move_codebook(latents, codes)
        return values

    def _teach_discriminator(self, parts: list[tuple], update: Update) -> float:
        """One update of the discriminator, on the same pictures and their reconstructions; its loss."""
        shown = [(part[0], report[-1]) for part, report in zip(parts, update.reports)]
        share = self.settings.discriminator_learning_rate / self.settings.learning_rate
        return self.discriminator(self.step, share * self.learning_rate.at(self.step), shown).loss

    def _move_codebook(self, latents: Tensor, codes: Tensor) -> float:
        rng = np.random.default_rng((self.settings.seed, self.step, 1))
        count = latents.shape[0]  # those of all devices are one after the other, as on a single one
        candidates = rng.integers(0, count * self.devices.count, len(self.counts)) - count * self.devices.rank
        here = ((candidates >= 0) & (candidates < count)).astype(np.float32)[:, None]  # (classes, 1)
        candidates = candidates.clip(0, count - 1).astype(np.int32)
        _, dead = self._average(latents, codes, Tensor(candidates), Tensor(here))
        return float(dead.asnumpy())

    def _start_codebook(self) -> None:
        """Puts the codes where the latents of the coming batches are."""
        latents = ms.jit(self.model.encode, fullgraph=True)
        needed, points, step = POINTS_PER_CODE * len(self.counts), [], self.step * self.settings.accumulation
        while sum(map(len, points)) < needed:
            pixels = to_model_range(self.batches.batch(step))
            grid_of_latents = latents(Tensor(pixels))[0].asnumpy()  # (batch, channels, h, w)
            rows = grid_of_latents.transpose(0, 2, 3, 1).reshape(-1, grid_of_latents.shape[1])
            points.append(self.devices.gather(rows))
            step += 1
        rng = np.random.default_rng((self.settings.seed, self.step, 2))
        codebook = k_means(np.concatenate(points), len(self.counts), rng)
        if self.average is not None:
            self.average.restart(codebook)
        else:
            self.codebook.copy_(Tensor(codebook))
            if self.updates.average is not None:  # would remember the codebook that there was before
                for parameter, average in zip(self.updates.average.parameters, self.updates.average.averages):
                    if parameter is self.codebook:
                        average.copy_(Tensor(codebook))

    def window(self) -> dict[str, float]:
        """The share of codes that were used since the last time, and the perplexity of their frequencies."""
        counts = self.devices.gather(self.counts.astype(np.int32)[None]).sum(0)
        p = counts / max(counts.sum(), 1)
        used = p > 0
        entropy = -(p[used] * np.log(p[used])).sum()
        self.counts[:] = 0
        return {"codebook_usage": float(used.mean()), "codebook_perplexity": float(np.exp(entropy))}

    def previews(self) -> dict[str, Image.Image]:
        """Pictures above, their reconstructions below."""
        pixels = self._first_pictures()
        with self.updates:
            decoded = self.reconstruct(pixels)
        rows = [[Image.fromarray(each.transpose(1, 2, 0)) for each in row] for row in (pixels, decoded)]
        return {"reconstructions": grid(rows)}

    def _first_pictures(self) -> np.ndarray:
        """The first of those that can be decoded, (count, 3, size, size) uint8."""
        found: list[np.ndarray] = []
        for i in range(len(self.dataset)):
            with contextlib.suppress(UnreadablePicture):  # counted and named by the dataset
                found.append(to_pixels(self.dataset.picture(i), self.settings.size))
            if len(found) == PREVIEW_PICTURES:
                break
        return np.stack(found)

    def reconstruct(self, pixels: np.ndarray) -> np.ndarray:
        """(batch, 3, size, size) uint8 through the codes and back."""
        latents = self.model.encode(Tensor(to_model_range(pixels)))[0]
        quantized, _, _ = self.model.quantize(latents)
        decoded = self.model.decode_quantized(quantized).asnumpy()
        return ((decoded / 2 + 0.5).clip(0, 1) * 255).round().astype(np.uint8)

    def extra_parameters(self) -> list[Parameter]:
        """The codebook and its running means, where no gradient moves it; the discriminator, where there is one."""
        codebook = [] if self.average is None else [self.codebook, *self.average.state()]
        return codebook if self.discriminator is None else [*codebook, *self.discriminator.parameters()]

    def identity(self) -> dict[str, Any]:
        identity = {**super().identity(), "dataset": self.dataset.fingerprint()}
        # settings of a term that is off change nothing; nor were they there before there was the term
        off = [begin for switch, begins in TERM_SETTINGS.items() if not identity[switch] for begin in begins]
        return {name: value for name, value in identity.items() if not name.startswith(tuple(off))}

    def save(self, folder: Path) -> None:
        """config.json and the weights, as ``VQModel.from_pretrained`` reads them."""
        with self.updates:
            self.model.save_pretrained(folder)
