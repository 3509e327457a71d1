"""Decoding and encoding with the published VQ-VAE, beside diffusers' in PyTorch.

    python benchmarks/codec.py

Sizes of microsoft/vq-diffusion-ithq, 256 x 256 pixels, the same random weights on both sides, float32: codes to
pictures, and pictures to codes. Every side, direction and batch size is a process of its own; both sides take turns.
A side that would take most of the machine's memory, going by the batch size before, is not run.
"""

import argparse
import os
import statistics
import zlib
from collections.abc import Iterator
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
SHARE = 0.8  # of the machine's memory that a side may take


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


def measure(direction: str, batches: list[int], pixels: int, rounds: int) -> Iterator[list[Any]]:
    """Rows of the table; a side that would not fit into memory is left out."""
    available = SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    peaks: dict[str, float] = dict.fromkeys(SIDES, 0.0)  # for each picture of the batch before
    for batch in batches:
        settings = dict(direction=direction, batch=batch, pixels=pixels)
        fitting = [side for side in SIDES if peaks[side] * batch < available]
        workers = [turns.start(__file__, side, **settings) for side in fitting]
        times = turns.take_turns(workers, rounds)
        peer = statistics.median(times.get(("diffusers", direction), [float("nan")]))
        results = [worker.values[direction] for worker in workers]
        same = all(np.allclose(result, results[0], rtol=TOLERANCE, atol=TOLERANCE) for result in results)
        for worker in workers:
            worker.close()
            values, peak = times[worker.name, direction], worker.peaks[direction]
            peaks[worker.name], median = peak / batch, statistics.median(values)
            numbers = [spread(values), f"{batch / median:.3g}", f"{peer / median:.2f}"]
            first = f"{worker.first[direction]:.1f} s"
            yield [direction, batch, worker.name, *numbers, gigabytes(peak), first, "yes" if same else "NO"]
        for side in set(SIDES) - set(fitting):
            guess = gigabytes(peaks[side] * batch)
            yield [direction, batch, side, "not run", "", "", f"some {guess} by the batch before", "", ""]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16], help="rising [%(default)s]")
    parser.add_argument("--pixels", type=int, default=256, help="along each axis of a picture [%(default)s]")
    options = parser.parse_args()
    rows = []
    for direction in ("decode", "encode"):
        rows += measure(direction, options.batches, options.pixels, options.rounds)
    header = ["", "batch", "", "a batch", "pictures a second", "speed beside diffusers", "largest resident memory"]
    print(table([*header, "first", "same result"], rows))


if __name__ == "__main__":
    turns.run(SIDES, main)
