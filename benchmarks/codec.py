"""Decoding and encoding with the published VQ-VAE, beside diffusers' in PyTorch.

    python benchmarks/codec.py

Sizes of microsoft/vq-diffusion-ithq, 256 x 256 pixels, the same random weights on both sides, float32: codes to
pictures, and pictures to codes. Every side, direction and batch size is a process of its own; both sides take turns.
"""

import argparse
import os
import statistics
import zlib
from typing import Any

import numpy as np
import turns
from turns import Parts, gigabytes, spread, table

LEVELS = (64, 128, 256, 512)
CODEC = dict(
    in_channels=3,
    out_channels=3,
    block_out_channels=LEVELS,
    down_block_types=(*("DownEncoderBlock2D",) * 3, "AttnDownEncoderBlock2D"),
    up_block_types=("AttnUpDecoderBlock2D", *("UpDecoderBlock2D",) * 3),
    layers_per_block=2,
    norm_num_groups=32,
    latent_channels=256,
    num_vq_embeddings=4096,
    vq_embed_dim=128,
    sample_size=32,
)
FACTOR = 2 ** (len(LEVELS) - 1)  # pixels of a picture to a code, along each axis
TOLERANCE = 1e-3


def weight(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The same random values for a name on both sides, of a size that keeps activations near 1."""
    values = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape, dtype=np.float32)
    if len(shape) == 1:
        return 0.1 * values + (1 if "norm" in name and name.endswith("weight") else 0)
    return values / np.float32(np.sqrt(np.prod(shape[1:])))


def inputs(direction: str, batch: int, pixels: int) -> np.ndarray:
    """Codes (batch, h, w), or pictures (batch, 3, H, W) in [-1, 1]."""
    rng = np.random.default_rng(0)
    if direction == "decode":
        return rng.integers(0, CODEC["num_vq_embeddings"], (batch, pixels // FACTOR, pixels // FACTOR), dtype=np.int32)
    return rng.uniform(-1, 1, (batch, 3, pixels, pixels)).astype(np.float32)


def summary(output: np.ndarray) -> list[float]:
    """Numbers by which both sides compare what they computed."""
    return [float(output.mean(dtype=np.float64)), float(output.std(dtype=np.float64))]


def ours(direction: str, batch: int, pixels: int) -> Parts:
    import mindspore as ms
    from mindspore import Tensor, nn
    from mindspore.nn.utils import no_init_parameters

    from mindone_vq import VQModel
    from mindone_vq.weights.rules import state_dict_parameters
    from mindone_vq.weights.store import assign

    with no_init_parameters():
        codec = VQModel(**CODEC).set_train(False)
    for name, parameter in state_dict_parameters(codec).items():
        assign(parameter, weight(name, tuple(parameter.shape)), ms.float32)

    class Decoding(nn.Cell):
        def __init__(self, codec: VQModel):
            super().__init__(auto_prefix=False)
            self.codec = codec

        def construct(self, codes):
            return self.codec.decode_codes(codes)

    class Encoding(Decoding):
        def construct(self, pictures):
            return self.codec.quantize.nearest(self.codec.encode(pictures)[0].transpose(0, 2, 3, 1))

    graph = ms.jit({"decode": Decoding, "encode": Encoding}[direction](codec), fullgraph=True)
    x = Tensor(inputs(direction, batch, pixels))
    return {direction: lambda: summary(graph(x).asnumpy())}


def theirs(direction: str, batch: int, pixels: int) -> Parts:
    import torch
    from diffusers import VQModel

    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_grad_enabled(False)
    codec = VQModel(**CODEC).eval()
    for name, tensor in codec.state_dict().items():
        tensor.copy_(torch.from_numpy(weight(name, tuple(tensor.shape))))
    x = torch.from_numpy(inputs(direction, batch, pixels))

    def decode() -> Any:
        shape = (*x.shape, CODEC["vq_embed_dim"])
        quantized = codec.quantize.get_codebook_entry(x.reshape(batch, -1).long(), shape)
        sample = codec.decode(quantized, force_not_quantize=True).sample
        return (sample / 2 + 0.5).clamp(0, 1)

    def encode() -> Any:
        return codec.quantize(codec.encode(x).latents)[2][2]

    run = {"decode": decode, "encode": encode}[direction]
    return {direction: lambda: summary(run().numpy())}


SIDES = {"mindone_vq": ours, "diffusers": theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], help="[%(default)s]")
    parser.add_argument("--pixels", type=int, default=256, help="along each axis of a picture [%(default)s]")
    options = parser.parse_args()
    rows = []
    for direction in ("decode", "encode"):
        for batch in options.batches:
            settings = dict(direction=direction, batch=batch, pixels=options.pixels)
            workers = [turns.start(__file__, side, **settings) for side in SIDES]
            times = turns.take_turns(workers, options.rounds)
            peer = statistics.median(times["diffusers", direction])
            results = [worker.values[direction] for worker in workers]
            same = "yes" if np.allclose(*results, rtol=TOLERANCE, atol=TOLERANCE) else "NO"
            for worker in workers:
                worker.close()
                values = times[worker.name, direction]
                median, peak = statistics.median(values), gigabytes(worker.peaks[direction])
                speeds = [f"{batch / median:.3g}", f"{peer / median:.2f}"]
                first = f"{worker.first[direction]:.1f} s"
                rows.append([direction, batch, worker.name, spread(values), *speeds, peak, first, same])
    header = ["", "batch", "", "a batch", "pictures a second", "speed beside diffusers", "largest resident memory"]
    print(table([*header, "first", "same result"], rows))


if __name__ == "__main__":
    turns.run(SIDES, main)
