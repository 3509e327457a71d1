"""Time and memory of converting the transformer of the published size, 5.4 GB, from PyTorch's .bin.

    python benchmarks/convert.py

Beside it, alternating in the same run: copying the same file. Each starts from a synchronised disk without the other's
output. Needs PyTorch (mindone_vq[test]) and 17 GB of disk.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LAYERS, WIDTH, TEXT_WIDTH, CLASSES, TIMESTEPS, SIDE = 36, 1408, 512, 4097, 100, 32


def state_dict_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of microsoft/vq-diffusion-ithq's transformer."""
    shapes = {
        "latent_image_embedding.emb.weight": (CLASSES, WIDTH),
        "latent_image_embedding.height_emb.weight": (SIDE, WIDTH),
        "latent_image_embedding.width_emb.weight": (SIDE, WIDTH),
    }
    for i in range(layers):
        block = f"transformer_blocks.{i}."
        for norm in ("norm1", "norm2"):
            shapes[f"{block}{norm}.emb.weight"] = (TIMESTEPS, WIDTH)
            shapes[f"{block}{norm}.linear.weight"] = (2 * WIDTH, WIDTH)
            shapes[f"{block}{norm}.linear.bias"] = (2 * WIDTH,)
        for attention, context in (("attn1", WIDTH), ("attn2", TEXT_WIDTH)):
            for name, width in (("to_q", WIDTH), ("to_k", context), ("to_v", context), ("to_out.0", WIDTH)):
                shapes[f"{block}{attention}.{name}.weight"] = (WIDTH, width)
                shapes[f"{block}{attention}.{name}.bias"] = (WIDTH,)
        for name, shape in (("net.0.proj", (4 * WIDTH, WIDTH)), ("net.2", (WIDTH, 4 * WIDTH))):
            shapes[f"{block}ff.{name}.weight"] = shape
            shapes[f"{block}ff.{name}.bias"] = shape[:1]
        shapes[f"{block}norm3.weight"] = shapes[f"{block}norm3.bias"] = (WIDTH,)
    shapes["norm_out.weight"] = shapes["norm_out.bias"] = (WIDTH,)
    shapes["out.weight"], shapes["out.bias"] = (CLASSES - 1, WIDTH), (CLASSES - 1,)
    return shapes


def make_checkpoint(path: Path) -> None:
    """Random weights, written by PyTorch in a process of its own."""
    import torch

    torch.manual_seed(0)
    torch.save({name: torch.randn(shape) for name, shape in state_dict_shapes(LAYERS).items()}, path)


def measure(command: list[str]) -> tuple[float, float]:
    """Seconds, and the largest resident memory in GB, of a command in a process of its own."""
    script = (
        "import resource, subprocess, sys, time; start = time.perf_counter(); subprocess.run(sys.argv[1:], check=True,"
        " stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL);"
        "print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    output = subprocess.run([sys.executable, "-c", script, *command], check=True, capture_output=True, text=True).stdout
    seconds, kilobytes = output.split()
    return float(seconds), int(kilobytes) / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="where to work [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="[%(default)s]")
    parser.add_argument("--make", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.make:
        return make_checkpoint(options.make)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source, copy, converted = (Path(folder) / name for name in ("diffusion_pytorch_model.bin", "copy", "converted"))
        subprocess.run([sys.executable, __file__, "--make", str(source)], check=True)
        tool = [sys.executable, str(ROOT / "tools" / "convert_weights.py"), str(source), str(converted)]
        copies, conversions = [], []
        for _ in range(options.rounds):
            for results, command in ((copies, ["cp", str(source), str(copy)]), (conversions, tool)):
                os.sync()  # neither pays for what was written before
                results.append(measure(command))
                shutil.rmtree(converted, ignore_errors=True)
                copy.unlink(missing_ok=True)
        size = source.stat().st_size / 1e9
    copy_time = statistics.median(seconds for seconds, _ in copies)
    times = [seconds for seconds, _ in conversions]
    print(f"file: {size:.2f} GB")
    print(f"copy: median {copy_time:.1f} s of {', '.join(f'{seconds:.1f}' for seconds, _ in copies)}")
    print(f"conversion: median {statistics.median(times):.1f} s of {', '.join(f'{seconds:.1f}' for seconds in times)}")
    print(f"ratio: {statistics.median(times) / copy_time:.2f}")
    print(f"largest resident memory of the conversion: {max(memory for _, memory in conversions):.2f} GB")


if __name__ == "__main__":
    main()
