"""One training step of each network, beside the same step in PyTorch with diffusers' modules.

    python benchmarks/training_step.py

Forward, backward, clipping and AdamW, at the sizes of the model of shapes, random weights and inputs, float32. The two
sides take turns, five rounds of a few steps each; the first, with its compilation, is not counted.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import mindspore as ms
import numpy as np
import torch
from diffusers import Transformer2DModel as TorchTransformer
from diffusers import VQModel as TorchVQModel
from diffusers.models.normalization import AdaLayerNorm as TorchAdaLayerNorm
from mindspore import Tensor

from mindone_vq import Transformer2DModel, VQDiffusionScheduler, VQModel
from mindone_vq.training.text_to_image.loss import VariationalLoss
from mindone_vq.training.update.optimizer import AdamW
from mindone_vq.training.update.step import TrainingStep
from mindone_vq.training.vqvae.loss import VQVAELoss

LEVELS = (16, 16, 32, 64)
VQVAE = dict(
    block_out_channels=LEVELS,
    down_block_types=("DownEncoderBlock2D",) * len(LEVELS),
    up_block_types=("UpDecoderBlock2D",) * len(LEVELS),
    norm_num_groups=1,
    latent_channels=16,
    num_vq_embeddings=256,
    mid_block_add_attention=False,
    sample_size=64,
)
DENOISER = dict(
    num_attention_heads=5,
    attention_head_dim=32,
    num_layers=6,
    cross_attention_dim=128,
    attention_bias=True,
    sample_size=8,
    num_vector_embeds=257,
    activation_fn="geglu-approximate",
    num_embeds_ada_norm=100,
    norm_type="ada_norm",
)
TIMESTEPS, LENGTH, RATE = 100, 24, 1e-4


class Denoising(ms.nn.Cell):
    """The transformer and its loss, with text embeddings as given."""

    def __init__(self, transformer: Transformer2DModel, loss: VariationalLoss) -> None:
        super().__init__(auto_prefix=False)
        self.transformer, self.loss = transformer, loss

    def construct(self, x_0, x_t, timestep, probability, condition):
        return self.loss(self.transformer.log_p_x_0(x_t, condition, timestep), x_0, x_t, timestep, probability)


@dataclass
class Side:
    """name: of the framework; step: runs one training step and waits for it."""

    name: str
    step: Callable[[], None]


def ours(loss: ms.nn.Cell, arguments: tuple[Tensor, ...]) -> Side:
    optimizer = AdamW(loss.set_train(True).trainable_params())
    step = ms.jit(TrainingStep(loss, optimizer, clip_norm=1.0), fullgraph=True)
    rate, one = Tensor(RATE, ms.float32), Tensor(1.0, ms.float32)
    return Side("mindone_vq", lambda: step(rate, one, *arguments)[1].asnumpy())


def theirs(network: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Side:
    optimizer = torch.optim.AdamW(network.train().parameters(), RATE)

    def step() -> None:
        optimizer.zero_grad()
        loss().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()

    return Side("PyTorch", step)


def vqvae(batch: int, rng: np.random.Generator) -> list[Side]:
    pictures = rng.integers(0, 256, (batch, 3, 64, 64), dtype=np.uint8)
    network, x = TorchVQModel(**VQVAE), torch.tensor(pictures).float() / 127.5 - 1

    def loss() -> torch.Tensor:
        output = network(x)
        difference = output.sample - x
        return difference.abs().mean() + difference.square().mean() + output.commit_loss.mean()

    quantized = Tensor(1.0, ms.float32)
    return [ours(VQVAELoss(VQModel(**VQVAE)), (Tensor(pictures), quantized)), theirs(network, loss)]


def per_image_norm(self, x, timestep=None, temb=None):
    """diffusers' AdaLayerNorm takes one timestep for the batch; this takes one for each image."""
    scale, shift = self.linear(self.silu(self.emb(timestep)))[:, None].chunk(2, dim=-1)
    return self.norm(x) * (1 + scale) + shift


def denoiser(batch: int, rng: np.random.Generator) -> list[Side]:
    TorchAdaLayerNorm.forward = per_image_norm
    network, scheduler = TorchTransformer(**DENOISER), VQDiffusionScheduler(257, TIMESTEPS)
    x_0, t = rng.integers(0, 256, (batch, 64)).astype(np.int32), rng.integers(0, TIMESTEPS, batch).astype(np.int32)
    x_t = scheduler.add_noise(x_0, t, rng)
    condition = rng.normal(0, 128**-0.5, (batch, LENGTH, 128)).astype(np.float32)
    variational = VariationalLoss(scheduler.schedule)
    arguments = (Tensor(x_0), x_t, Tensor(t), Tensor(np.full(batch, 1 / TIMESTEPS, np.float32)), Tensor(condition))
    codes, noisy = torch.tensor(x_0).long(), torch.tensor(x_t.asnumpy()).long()
    steps, text = torch.tensor(t).long(), torch.tensor(condition)

    def loss() -> torch.Tensor:
        # cross-entropy in place of the variational loss: less work than ours does
        log_p = network(noisy, encoder_hidden_states=text, timestep=steps).sample
        return torch.nn.functional.nll_loss(log_p.float(), codes)

    return [ours(Denoising(Transformer2DModel(**DENOISER), variational), arguments), theirs(network, loss)]


def measure(name: str, sides: list[Side], rounds: int, steps: int) -> None:
    times: dict[str, list[float]] = {side.name: [] for side in sides}
    for i in range(rounds + 1):
        for side in sides:
            start = time.perf_counter()
            for _ in range(steps):
                side.step()
            if i:
                times[side.name].append((time.perf_counter() - start) / steps)
    medians = {side: statistics.median(values) for side, values in times.items()}
    print(f"{name}:")
    for side, values in times.items():
        print(f"  {side:12s} {medians[side]:.3f} s a step ({', '.join(f'{value:.3f}' for value in values)})")
    print(f"  speed beside PyTorch: {medians['PyTorch'] / medians['mindone_vq']:.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--steps", type=int, default=4, help="in a round [%(default)s]")
    options = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    rng = np.random.default_rng(0)
    measure("transformer, 64 captions and pictures", denoiser(64, rng), options.rounds, options.steps)
    measure("VQ-VAE, 16 pictures of 64 x 64", vqvae(16, rng), options.rounds, options.steps)


if __name__ == "__main__":
    main()
