"""The VQ-VAE that is trained, and the settings of its training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

import numpy as np
from mindspore import Tensor, nn

from mindone_vq.models.vq_model import VQModel
from mindone_vq.training.networks import initialize
from mindone_vq.training.run_settings import RunSettings
from mindone_vq.training.settings import option
from mindone_vq.training.vqvae.adversarial import smallest_picture
from mindone_vq.training.vqvae.perceptual import SMALLEST

MODEL = {
    "block_out_channels": [64, 128, 256],
    "layers_per_block": 1,
    "latent_channels": 64,
    "num_vq_embeddings": 1024,
    "norm_num_groups": 32,
}


@dataclass(frozen=True)
class VQVAESettings(RunSettings):
    """Settings of ``VQVAETraining``."""

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
    perceptual_linear_weights: str = option("", "file with LPIPS' weights of its channels; none: all count the same")
    adversarial_weight: float = option(0.0, "of the logits of a patch discriminator (VQGAN); 0: off", minimum=0)
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


def make_vqvae(settings: VQVAESettings) -> VQModel:
    """The VQ-VAE that the settings describe, with the weights of its seed, or the one to train further.

    Raises:
        ValueError: the arguments do not fit ``VQModel``, or the size of the pictures does not fit the model.
    """
    model = load_vqvae(settings.model_from) if settings.model_from else _from_scratch(settings)
    if settings.size % model.downscale:
        raise ValueError(
            f"size is {settings.size}; it must be a multiple of {model.downscale}, by which this model makes a picture "
            "smaller."
        )
    return model


def load_vqvae(source: str) -> VQModel:
    """A VQModel from its own folder, or from a pipeline's."""
    inside = Path(source).is_dir() and (Path(source) / "vqvae").is_dir()
    return VQModel.from_pretrained(source, subfolder="vqvae" if inside else "")


def _from_scratch(settings: VQVAESettings) -> VQModel:
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
    rng = np.random.default_rng((settings.seed, 0))
    initialize(model, rng, _deviation)
    table = model.quantize.embedding.embedding_table
    table.set_data(Tensor(rng.uniform(-1, 1, table.shape).astype(np.float32) / len(table)))
    return model


def _deviation(name: str, part: nn.Cell) -> Optional[float]:
    """Convolutions keep the variance, and residual branches add nothing yet.

    MindSpore's default, as PyTorch's, makes a signal 1.7 times smaller at each convolution; after the dozen between a
    picture and its reconstruction the biases outweigh the colours, and training takes several times as long.
    """
    if isinstance(part, nn.Embedding):
        return None  # the codebook
    return 0.0 if name.endswith(".conv2") else np.prod(part.weight.shape[1:]) ** -0.5
