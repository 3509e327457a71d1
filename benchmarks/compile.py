"""How long compiling a denoising step takes, against the number of layers.

    python benchmarks/compile.py

Layers 1408 wide on 1024 latent pixels, one picture with guidance, float32, weights of zero. Three forms:

layers      one compiled layer called for each, as on a CPU. Compiling is here, summed over the graphs of a step,
            the first call minus the later ones (the median).
whole       the whole step as one graph, as an NPU gets it, here for the kernels of the CPU: compiled and not run. That
            is parsing, type inference, optimisation, choice and creation of kernels.
whole, run  the same, run: the first run minus the second. With its buffers this takes some 0.5 GB a layer, so only up
            to --run layers.

Beside it, where it runs, all that the first step took longer than the second, making the step included. Each in a new
process, then in another that finds MindSpore's compile cache (MS_COMPILER_CACHE_ENABLE) filled. That the cache is
correct the framework itself does not promise: the codes drawn with and without it are compared.
"""

import argparse
import statistics
import tempfile
import time
import zlib
from typing import Any

import denoise_step
import numpy as np
import turns
from turns import Parts, Worker, gigabytes, spread, table

TARGETS = {"layers": "CPU", "whole": "Ascend"}


def build(form: str, layers: int) -> tuple[Any, dict[str, Any]]:
    """The transformer, its weights zeros; x_t, the texts, the step, its uniforms and known codes, which are none."""
    import mindspore as ms
    from mindspore import Tensor
    from mindspore.nn.utils import no_init_parameters

    from mindone_vq import Transformer2DModel, VQDiffusionScheduler
    from mindone_vq.diffusion.sample_step import UNKNOWN
    from mindone_vq.nn import device
    from mindone_vq.weights.store import assign

    device.LARGE = 0  # layer by layer on a CPU, whatever the size
    sizes = {**denoise_step.SIZES, "num_layers": layers}
    with device.built_for(TARGETS[form]), no_init_parameters():
        transformer = Transformer2DModel(**sizes).set_train(False)
    for parameter in transformer.get_parameters():
        assign(parameter, np.zeros(parameter.shape, np.float32), ms.float32)  # no memory until it is written to
    scheduler = VQDiffusionScheduler(sizes["num_vector_embeds"])
    x_t, text = denoise_step.inputs(sizes)
    inputs = dict(
        x_t=Tensor(x_t.astype(np.int32)),
        text=text,
        step=next(step for step in scheduler.steps(100) if step.t == denoise_step.TIMESTEP),
        uniforms=np.random.default_rng(0).random((1, *x_t.shape), dtype=np.float32),
        known=np.full((1, *x_t.shape), UNKNOWN, np.int32),
    )
    return transformer, inputs


def by_layers(layers: int) -> Parts:
    from mindone_vq.diffusion.options import SamplingOptions
    from mindone_vq.pipelines import compilation
    from mindone_vq.pipelines.denoising import Denoiser

    transformer, inputs = build("layers", layers)
    denoiser, made = Denoiser(transformer, compilation.GraphCache()), []
    calls: dict[str, list[float]] = {}

    def timed(graph: compilation.CompiledGraph, *tensors: Any) -> Any:
        began = time.perf_counter()
        output = call(graph, *tensors)
        calls.setdefault(graph.name, []).append(time.perf_counter() - began)
        return output

    call, compilation.CompiledGraph.__call__ = compilation.CompiledGraph.__call__, timed

    def make() -> None:
        null, text = inputs["text"]
        options = SamplingOptions(100, denoise_step.SCALE, denoise_step.RATE)
        made[:] = [denoiser.step(denoiser.condition(text, null), options)]

    def step() -> int:
        return checksum(made[0](inputs["x_t"], [inputs["step"]], inputs["uniforms"][None], inputs["known"]))

    def again() -> float:
        make()
        step()
        return sum(first - statistics.median(later) for first, *later in calls.values())

    return {"make": make, "step": step, "again": again}


def arguments_of_whole(layers: int) -> tuple[Any, tuple]:
    """The cell and what it takes."""
    from mindspore import Tensor, mutable

    from mindone_vq.diffusion.samplers import Ancestral
    from mindone_vq.nn.device import built_for
    from mindone_vq.pipelines.denoising import DenoisingStep
    from mindone_vq.pipelines.prepared import PreparedNetwork

    transformer, inputs = build("whole", layers)
    with built_for("Ascend"):
        prepared = PreparedNetwork(transformer)
        cell = DenoisingStep(transformer, prepared, 2, Ancestral.cell, "rate").set_train(False)
    heads, size = denoise_step.SIZES["num_attention_heads"], denoise_step.SIZES["attention_head_dim"]
    table = np.zeros((100, 4 * layers * heads * size), np.float32)
    context = np.zeros((2, 2 * layers, heads, denoise_step.LENGTH, size), np.float32)
    arrays = (
        np.int32([denoise_step.TIMESTEP]),
        np.float32([denoise_step.SCALE]),
        np.float32([denoise_step.RATE]),
        inputs["step"].parameters,
        inputs["uniforms"],
        inputs["known"][0],
    )
    timestep, *rest = map(Tensor, arrays)
    return cell, (inputs["x_t"], timestep, mutable((Tensor(table), Tensor(context))), *rest)


def whole(layers: int) -> Parts:
    import mindspore as ms

    cell, arguments = arguments_of_whole(layers)
    ms.set_context(mode=ms.GRAPH_MODE)
    return {"compile": lambda: cell.compile(*arguments) and None}


def whole_run(layers: int) -> Parts:
    import mindspore as ms

    cell, arguments = arguments_of_whole(layers)
    run = ms.jit(cell, fullgraph=True)
    return {"step": lambda: checksum(run(*arguments)), "again": lambda: checksum(run(*arguments)) and None}


def checksum(codes: Any) -> int:
    return zlib.crc32(codes.asnumpy().tobytes())


SIDES = {"layers": by_layers, "whole": whole, "whole, run": whole_run}


def seconds(worker: Worker) -> tuple[float, float]:
    """Of compiling; and what the first step took longer than the second."""
    later = worker.first.get("again", 0.0)
    longer = sum(worker.first.values()) - 2 * later
    return worker.values.get("again") or longer, longer


def measure(side: str, layers: int, rounds: int) -> dict[str, Any]:
    """Both ``seconds`` of all rounds without and with the cache; memory; and what was drawn."""
    result: dict[str, Any] = {"new": [], "cached": [], "peak": 0, "drawn": set()}
    with tempfile.TemporaryDirectory() as folder:
        cache = {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": folder}
        turns.start(__file__, side, cache, layers=layers).close()
        for _ in range(rounds):
            for name, variables in (("new", {"MINDONE_VQ_GRAPHS": "off"}), ("cached", cache)):
                with turns.start(__file__, side, variables, layers=layers) as worker:
                    result[name].append(seconds(worker))
                result["drawn"].add(worker.values.get("step"))
                result["peak"] = max(result["peak"], *worker.peaks.values())
    return result


def fitted(layers: list[int], seconds: list[float]) -> str:
    """The line of least squares."""
    if len(layers) < 2:
        return ""
    slope, constant = np.polyfit(layers, seconds, 1)
    return f"{slope:.3f} s a layer {'+' if constant >= 0 else '-'} {abs(constant):.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 12, 24, 36], help="[%(default)s]")
    parser.add_argument("--run", type=int, default=12, help="layers up to which the whole step runs too [%(default)s]")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), help="[all]")
    options = parser.parse_args()
    rows, fits = [], []
    for side in options.sides:
        medians: dict[str, list[float]] = {"new": [], "cached": []}
        counts = [count for count in options.layers if side != "whole, run" or count <= options.run]
        for count in counts:
            result = measure(side, count, options.rounds)
            (new, longer), (cached, longer_cached) = (zip(*result[name]) for name in ("new", "cached"))
            for name, values in (("new", new), ("cached", cached)):
                medians[name].append(statistics.median(values))
            ratio = f"{medians['new'][-1] / medians['cached'][-1]:.2f}"
            ran = result["drawn"] != {None}
            same = ("yes" if len(result["drawn"]) == 1 else "NO") if ran else ""
            first = [spread(longer), spread(longer_cached)] if ran else ["", ""]
            rows.append([side, count, spread(new), spread(cached), ratio, *first, same, gigabytes(result["peak"])])
        fits.append([side, *(fitted(counts, values) for values in medians.values())])
    longer = ["first step minus second", "from the cache"]
    header = [
        "form",
        "layers",
        "compiling",
        "from the cache",
        "ratio",
        *longer,
        "same codes",
        "largest resident memory",
    ]
    print(table(header, rows), end="\n\n")
    print(table(["form", "compiling", "from the cache"], fits))


if __name__ == "__main__":
    turns.run(SIDES, main)
