"""Largest resident memory at the published size: of one denoising step, and of loading the transformer.

    python benchmarks/memory.py

36 layers 1408 wide, beside diffusers in PyTorch. Loading is from_pretrained of a folder with random weights,
5.4 GB, as safetensors and as PyTorch's .bin; then every weight is read once, because diffusers only maps the file into
memory. Resident memory includes the pages of mapped files that were read, which the system can take back; the rest is
reported too (the greatest of samples, one every 5 ms). Every row is a process of its own, one after the other. Needs
11 GB of disk.
"""

import argparse
import functools
import importlib.util
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

import convert
import denoise_step
import numpy as np
import turns
from turns import Parts, Worker, gigabytes, spread, table

STEM = "diffusion_pytorch_model"
# Side -> bytes of a weight.
STEP_SIDES = {"mindone_vq float32": 4, "mindone_vq float16": 2, "diffusers float32": 4, "diffusers bfloat16": 2}


def write_safetensors(folder: str, layers: int) -> Parts:
    """A folder as diffusers writes it, one tensor after another."""

    def write() -> None:
        from mindone_vq.weights.lazy import LazyTensor
        from mindone_vq.weights.safetensors_file import write_safetensors

        rng = np.random.default_rng(0)

        def random(shape: tuple[int, ...]) -> LazyTensor:
            return LazyTensor(shape, "float32", lambda: rng.standard_normal(shape, dtype=np.float32))

        shapes = convert.state_dict_shapes(layers)
        write_config(Path(folder), layers)
        write_safetensors(Path(folder, f"{STEM}.safetensors"), {name: random(shape) for name, shape in shapes.items()})

    return {"write": write}


def write_bin(source: str, folder: str, layers: int) -> Parts:
    """The same weights in PyTorch's format, from the mapped file."""

    def write() -> None:
        import torch
        from safetensors.torch import load_file

        write_config(Path(folder), layers)
        torch.save(load_file(Path(source, f"{STEM}.safetensors")), Path(folder, f"{STEM}.bin"))

    return {"write": write}


def write_config(folder: Path, layers: int) -> None:
    folder.mkdir()
    config = {"_class_name": "Transformer2DModel", **denoise_step.SIZES, "num_layers": layers}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def own_memory() -> int:
    """Bytes of this process that are no pages of files."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def watch(seen: list[int]) -> None:
    while True:
        seen[0] = max(seen[0], own_memory())
        time.sleep(0.005)


def parts(make: Callable[[], type], load: Callable[[type], Any], read: Callable[[Any], int]) -> Parts:
    """What a process does one after the other; the last returns the bytes of the weights, and of ``own_memory``."""
    network, seen = [], [0]

    def load_once() -> None:
        threading.Thread(target=watch, args=[seen], daemon=True).start()
        network[:] = [load(make())]

    return {"import": lambda: make() and None, "load": load_once, "read": lambda: [read(network[0]), seen[0]]}


def load_ours(folder: str, dtype: Optional[str] = None) -> Parts:
    def make() -> type:
        import mindspore as ms

        from mindone_vq import Transformer2DModel

        ms.Tensor(np.zeros(1, np.float32)).asnumpy()
        return Transformer2DModel

    def read(network: Any) -> int:
        return sum(parameter.nbytes for parameter in network.get_parameters() if parameter.asnumpy().max() < np.inf)

    def load(kind: type) -> Any:
        import mindspore as ms

        return kind.from_pretrained(folder, mindspore_dtype=dtype and getattr(ms, dtype))

    return parts(make, load, read)


def load_theirs(folder: str) -> Parts:
    def make() -> type:
        from diffusers import Transformer2DModel

        return Transformer2DModel

    def read(network: Any) -> int:
        return sum(parameter.nbytes for parameter in network.parameters() if parameter.max() < np.inf)

    options = {} if list(Path(folder).glob("*.safetensors")) else {"use_safetensors": False}
    return parts(make, lambda kind: kind.from_pretrained(folder, **options), read)


LOADING = {
    "mindone_vq": load_ours,
    "mindone_vq, mindspore_dtype=float16": functools.partial(load_ours, dtype="float16"),
    "diffusers": load_theirs,
}
SIDES = {"safetensors": write_safetensors, "bin": write_bin, **LOADING}


def finished(script: str, side: str, **settings) -> Worker:
    """A side's process, which ran its parts once."""
    with turns.start(script, side, **settings) as worker:
        return worker


def steps(layers: int) -> Iterator[list[str]]:
    """Rows of the first table."""
    sizes = {**denoise_step.SIZES, "num_layers": layers}
    count = sum(int(np.prod(shape)) for shape in convert.state_dict_shapes(layers).values())
    for side, size in STEP_SIDES.items():
        peak, weights = finished(denoise_step.__file__, side, sizes=sizes).peaks["step"], size * count
        yield [side, gigabytes(peak), gigabytes(weights), f"{peak / weights:.2f}"]


def loading(folder: Path, layers: int, rounds: int) -> Iterator[list[str]]:
    """Rows of the second table."""
    folders = {"safetensors": str(folder / "safetensors"), "bin": str(folder / "bin")}
    finished(__file__, "safetensors", folder=folders["safetensors"], layers=layers)
    finished(__file__, "bin", source=folders["safetensors"], folder=folders["bin"], layers=layers)
    for form, place in folders.items():
        runs: dict[str, list[Worker]] = {side: [] for side in LOADING}
        for _ in range(rounds):
            for side, workers in runs.items():
                workers.append(finished(__file__, side, folder=place))
        for side, workers in runs.items():
            weights = workers[0].values["read"][0]
            before, peak = (statistics.median(each.peaks[part] for each in workers) for part in ("import", "read"))
            own = statistics.median(worker.values["read"][1] for worker in workers)
            seconds = [spread([worker.first[part] for worker in workers]) for part in ("load", "read")]
            ratios = [f"{peak / weights:.2f}", f"{own / weights:.2f}"]
            yield [side, form, *map(gigabytes, (weights, before, peak, own)), *ratios, *seconds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="of loading [%(default)s]")
    parser.add_argument("--layers", type=int, default=denoise_step.SIZES["num_layers"], help="[%(default)s]")
    options = parser.parse_args()
    print(f"{options.layers} layers\n")
    header = ["a denoising step", "largest resident memory", "weights", "ratio"]
    print(table(header, steps(options.layers)), end="\n\n", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        memory = ["weights", "after imports", "largest resident memory", "of it no files", "ratios to the weights", ""]
        header = ["from_pretrained", "of", *memory, "loading", "then reading every weight"]
        print(table(header, loading(Path(folder), options.layers, options.rounds)))
    with_accelerate = "with" if importlib.util.find_spec("accelerate") else "without"
    print(f"\ndiffusers {with_accelerate} accelerate, which it loads in another way with.")


if __name__ == "__main__":
    turns.run(SIDES, main)
