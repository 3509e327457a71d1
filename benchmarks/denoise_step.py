"""One denoising step of a transformer of the published size, beside diffusers' in PyTorch.

    python benchmarks/denoise_step.py

36 layers 1408 wide on 1024 latent pixels, as microsoft/vq-diffusion-ithq; random weights, one picture with guidance,
truncation 0.86: everything from x_t to x_{t-1}. "mindone_vq float16" keeps the weights in float16, and computes in
float32. Every side is a process of its own; they take turns, one step each, so
that the machine's moods fall on all alike. Before the first of those every side runs one step that is not counted, for
its compilation. The parts of our step are timed too, and the matrix products of one layer alone.
"""

import argparse
import functools
import os
import statistics
from collections.abc import Callable, Sequence

import numpy as np
import turns
from turns import Parts, Worker

SIZES = dict(
    num_attention_heads=16,
    attention_head_dim=88,
    num_layers=36,
    cross_attention_dim=512,
    attention_bias=True,
    sample_size=32,
    num_vector_embeds=4097,
    activation_fn="geglu-approximate",
    num_embeds_ada_norm=100,
    norm_type="ada_norm",
)
LENGTH, SCALE, RATE, TIMESTEP, SPREAD = 77, 5.0, 0.86, 50, 0.02


def inputs(sizes: dict, batch: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """x_t, half of it masked; text embeddings (2, batch, ...), every token of length 1, the null text first."""
    rng = np.random.default_rng(0)
    mask = sizes["num_vector_embeds"] - 1
    x_t = rng.integers(0, mask, (batch, sizes["sample_size"] ** 2))
    x_t[:, ::2] = mask
    text = rng.standard_normal((2, batch, LENGTH, sizes["cross_attention_dim"]), dtype=np.float32)
    return x_t, text / np.linalg.norm(text, axis=-1, keepdims=True)


def ours(sizes: dict, batch: int = 1, dtype: str = "float32") -> Parts:
    import mindspore as ms
    from mindspore import Tensor, nn, ops
    from mindspore.nn.utils import no_init_parameters

    from mindone_vq import Transformer2DModel, VQDiffusionScheduler
    from mindone_vq.diffusion.guidance import guide
    from mindone_vq.diffusion.options import SamplingOptions
    from mindone_vq.diffusion.sample_step import UNKNOWN
    from mindone_vq.pipelines.compilation import GraphCache
    from mindone_vq.pipelines.denoising import Denoiser, sample_step
    from mindone_vq.weights.store import assign

    with no_init_parameters():
        transformer = Transformer2DModel(**sizes).set_train(False)
    rng = np.random.default_rng(1)
    for parameter in transformer.get_parameters():
        values = rng.standard_normal(parameter.shape, dtype=np.float32) * np.float32(SPREAD)
        assign(parameter, values + 1 if parameter.name.endswith("gamma") else values, getattr(ms, dtype))
    scheduler, options = VQDiffusionScheduler(sizes["num_vector_embeds"]), SamplingOptions(100, SCALE, RATE)
    codes, (null, text) = inputs(sizes, batch)
    x_t, known = Tensor(codes.astype(np.int32)), np.full((1, *codes.shape), UNKNOWN, np.int32)
    denoiser, generator = Denoiser(transformer, GraphCache()), np.random.default_rng(2)
    denoise = denoiser.step(denoiser.condition(text, null), options)
    step = next(step for step in scheduler.steps(100) if step.t == TIMESTEP)

    def uniforms() -> np.ndarray:
        return options.sampler.draw_uniforms([generator], *x_t.shape)

    class GuideAndSample(nn.Cell):
        def __init__(self):
            super().__init__(auto_prefix=False)
            self.sample = sample_step(transformer, options.sampler.cell, options.truncation)

        def construct(self, hidden_states, logits, guidance_scale, *inputs):
            null, conditional = ops.chunk(hidden_states, 2, axis=0)
            return guide(null, (conditional,), guidance_scale), self.sample(logits, *inputs)

    sample = ms.jit(GuideAndSample(), fullgraph=True)
    scale, rate, parameters = (Tensor(each) for each in (np.float32([SCALE]), np.float32([RATE]), step.parameters))

    @functools.cache  # made when first asked for: the memory of the step alone is measured before
    def drawn_from() -> list[Tensor]:
        width = sizes["num_attention_heads"] * sizes["attention_head_dim"]
        shapes = (2 * batch, x_t.shape[1], width), (batch, x_t.shape[1], sizes["num_vector_embeds"] - 1)
        return [Tensor(rng.standard_normal(shape, dtype=np.float32) * 3) for shape in shapes]

    products = functools.lru_cache(maxsize=None)(lambda: _products(sizes))
    return {
        "step": lambda: wait(denoise(x_t, [step], uniforms()[None], known)),
        "guidance, truncation, posterior, draw": lambda: wait(
            sample(*drawn_from(), scale, x_t, rate, parameters, Tensor(uniforms()), Tensor(known[0]))[1]
        ),
        "matrix products of one layer": lambda: wait(products()()),
    }


def wait(output) -> None:
    """Until a tensor of MindSpore is there."""
    output.asnumpy()


def _products(sizes: dict) -> Callable:
    """Those of a layer, and nothing else: projections, attention to the pixels and to the text, feed-forward."""
    import mindspore as ms
    from mindspore import Tensor, nn, ops

    heads, size = sizes["num_attention_heads"], sizes["attention_head_dim"]
    dim, pixels = heads * size, sizes["sample_size"] ** 2
    rows = 2 * pixels
    rng = np.random.default_rng(3)

    def random(*shape: int) -> Tensor:
        return Tensor(rng.standard_normal(shape, dtype=np.float32))

    class Products(nn.Cell):
        def __init__(self):
            super().__init__()
            self.dense, self.scores, self.mix = ops.MatMul(False, True), ops.BatchMatMul(False, True), ops.BatchMatMul()

        def construct(self, x, square, up, wide, down, query, key, weights, text, text_weights):
            last = x
            for _ in range(6):
                last = ops.depend(self.dense(ops.depend(x, last), square), last)
            wider = self.dense(ops.depend(x, last), up)
            last = self.dense(ops.depend(wide, wider), down)
            scores = self.scores(ops.depend(query, last), key)
            mixed = self.mix(ops.depend(weights, scores), key)
            scores = self.scores(ops.depend(query, mixed), text)
            mixed = self.mix(ops.depend(text_weights, scores), text)
            return ops.depend(last, mixed)

    arguments = (
        random(rows, dim),
        random(dim, dim),
        random(4 * dim, dim),
        random(rows, 4 * dim),
        random(dim, 4 * dim),
        random(2, heads, pixels, size),
        random(2, heads, pixels, size),
        random(2, heads, pixels, pixels),
        random(2, heads, LENGTH, size),
        random(2, heads, pixels, LENGTH),
    )
    run = ms.jit(Products(), fullgraph=True)
    return lambda: run(*arguments)


def theirs(sizes: dict, kind: str) -> Parts:
    import torch
    from diffusers import Transformer2DModel, VQDiffusionScheduler
    from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import VQDiffusionPipeline

    torch.set_num_threads(os.cpu_count() or 1)
    torch.set_grad_enabled(False)
    dtype = torch.bfloat16 if kind == "bfloat16" else torch.float32
    with torch.device("meta"):
        transformer = Transformer2DModel(**sizes)
    transformer = transformer.to(dtype).to_empty(device="cpu").eval()
    for name, tensor in transformer.state_dict().items():
        if not tensor.is_floating_point():
            tensor.copy_(torch.arange(tensor.numel()).view(tensor.shape))  # positions
        else:
            tensor.normal_(1.0 if "norm3.weight" in name or "norm_out.weight" in name else 0.0, SPREAD)
    network = torch.compile(transformer) if kind == "compiled" else transformer
    scheduler = VQDiffusionScheduler(num_vec_classes=sizes["num_vector_embeds"])
    scheduler.set_timesteps(100)
    codes, text = inputs(sizes)
    x_t, text = torch.tensor(codes), torch.tensor(text).flatten(0, 1).to(dtype)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        output = network(torch.cat([x_t] * 2), encoder_hidden_states=text, timestep=torch.tensor(TIMESTEP)).sample
        null, conditional = output.chunk(2)
        output = null + SCALE * (conditional - null)
        output -= torch.logsumexp(output, dim=1, keepdim=True)
        output = VQDiffusionPipeline.truncate(None, output, RATE).clamp(-70)
        scheduler.step(output, timestep=torch.tensor(TIMESTEP), sample=x_t, generator=generator)

    return {"step": step}


SIDES = {
    "mindone_vq float32": ours,
    "mindone_vq float16": functools.partial(ours, dtype="float16"),
    "diffusers float32": lambda sizes: theirs(sizes, "eager"),
    "diffusers float32, torch.compile": lambda sizes: theirs(sizes, "compiled"),
    "diffusers bfloat16": lambda sizes: theirs(sizes, "bfloat16"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--layers", type=int, default=SIZES["num_layers"], help="[%(default)s]")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="[all]")
    options = parser.parse_args()
    sizes = {**SIZES, "num_layers": options.layers}
    workers = [turns.start(__file__, side, sizes=sizes) for side in options.sides]
    times = turns.take_turns(workers, options.rounds)
    for worker in workers:
        worker.close()
    report(times, workers, options.layers)


def report(times: dict[tuple[str, str], list[float]], workers: Sequence[Worker], layers: int) -> None:
    print(f"{layers} layers")
    for worker in workers:
        for part, first in worker.first.items():
            values = times[worker.name, part]
            rounds = ", ".join(f"{value:.2f}" for value in values)
            median = statistics.median(values)
            print(f"{worker.name:34s} {part:40s} median {median:.3f} s ({rounds}); first {first:.1f} s")
    for worker in workers:
        step, peak = statistics.median(times[worker.name, "step"]), worker.peaks["step"]
        print(f"{worker.name:34s} peak memory {peak / 1e9:.2f} GB; steps a minute {60 / step:.2f}")


if __name__ == "__main__":
    turns.run(SIDES, main)
