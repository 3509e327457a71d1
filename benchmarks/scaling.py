"""Time and memory of a denoising step against batch, latent pixels and layers.

    python benchmarks/scaling.py

Layers 1408 wide, one compiled layer called for each, guidance, float32, random weights. One of the three is varied, the
others stay; every point is a process of its own. Exponents are fitted by least squares to the logarithms: of time, of
memory, and of what the first step adds to the memory that the weights and everything else took before it. The numbers
are written as JSON, from which --plot-only draws the picture again.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import denoise_step
import numpy as np
import turns
from turns import Parts, gigabytes, spread, table

PICTURES = Path(__file__).resolve().parents[1] / "docs" / "pictures"
BASE = {"batch": 1, "side": 32, "layers": 4}
NAMES = {"batch": "batch", "side": "latent pixels", "layers": "layers"}


def a_step(batch: int, side: int, layers: int) -> Parts:
    from mindone_vq.nn import device

    device.LARGE = 0  # layer by layer, whatever the size
    sizes = {**denoise_step.SIZES, "num_layers": layers, "sample_size": side}
    parts = denoise_step.ours(sizes, batch)
    return {"before": lambda: None, "step": parts["step"]}


SIDES = {"step": a_step}


def axis(varied: str, value: int) -> int:
    """What is drawn and fitted against: pixels, not the side of their square."""
    return value**2 if varied == "side" else value


def measure(points: dict[str, list[int]], rounds: int) -> list[dict[str, Any]]:
    results = []
    for varied, values in points.items():
        for value in values:
            settings = {**BASE, varied: value}
            with turns.start(__file__, "step", **settings) as worker:
                seconds = [worker.run("step") for _ in range(rounds)]
            peaks = worker.peaks
            point = {"varied": varied, "value": value, "seconds": seconds, "first": worker.first["step"], **settings}
            results.append({**point, "peak": peaks["step"], "before": peaks["before"]})
            print(f"{varied} {value}: {spread(seconds)}, {gigabytes(peaks['step'])}", flush=True)
    return results


def exponent(points: list[dict[str, Any]], what: list[float]) -> str:
    """The slope between the logarithms."""
    if len(points) < 2 or min(what) <= 0:
        return ""
    x = np.log([axis(point["varied"], point["value"]) for point in points])
    return f"{np.polyfit(x, np.log(what), 1)[0]:.2f}"


def report(results: list[dict[str, Any]]) -> None:
    rows, fits = [], []
    for varied, name in NAMES.items():
        points = [point for point in results if point["varied"] == varied]
        if not points:
            continue
        for point in points:
            numbers = [spread(point["seconds"]), gigabytes(point["before"]), gigabytes(point["peak"])]
            rows.append([name, axis(varied, point["value"]), *numbers])
        beyond = [point["peak"] - point["before"] for point in points]
        fits.append([name, *(exponent(points, what) for what in (medians(points), beyond, peaks(points)))])
    print(f"\nwhat is not varied: {BASE}\n")
    print(table(["varied", "", "a step", "memory before the step", "largest resident memory"], rows), end="\n\n")
    print(table(["exponent of", "time", "memory that the step adds", "memory as a whole"], fits))


def medians(points: list[dict[str, Any]]) -> list[float]:
    return [statistics.median(point["seconds"]) for point in points]


def peaks(points: list[dict[str, Any]]) -> list[float]:
    return [point["peak"] for point in points]


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Three panels; seconds and gigabytes share an axis, everything is logarithmic."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    figure, panels = pyplot.subplots(1, len(NAMES), figsize=(4.5 * len(NAMES), 3.4), sharey=True)
    for panel, (varied, name) in zip(panels, NAMES.items()):
        points = [point for point in results if point["varied"] == varied]
        x = [axis(varied, point["value"]) for point in points]
        drawn = {
            "seconds a step": medians(points),
            "largest resident memory, GB": [peak / 1e9 for peak in peaks(points)],
        }
        for label, values in drawn.items():
            panel.loglog(x, values, "o-", linewidth=1, label=label)
            for place, value in zip(x, values):
                panel.annotate(f"{value:.2g}", (place, value), (0, 5), textcoords="offset points", fontsize="x-small")
        panel.set_xlabel(name)
        panel.set_xticks(x, [str(value) for value in x])
        panel.xaxis.set_minor_locator(ticker.NullLocator())
        panel.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
        panel.grid(alpha=0.3)
        panel.legend(fontsize="x-small")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"\nWrote {path}.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="[%(default)s]")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 2, 4, 8], help="[%(default)s]")
    parser.add_argument("--side", type=int, nargs="+", default=[16, 32, 64], help="of the latent square [%(default)s]")
    parser.add_argument("--layers", type=int, nargs="+", default=[6, 12, 24, 36], help="[%(default)s]")
    parser.add_argument("--output", type=Path, default=Path("outputs/scaling.json"), help="[%(default)s]")
    parser.add_argument("--picture", type=Path, default=PICTURES / "scaling.png", help="[%(default)s]")
    parser.add_argument("--plot-only", action="store_true", help="from --output as it is")
    options = parser.parse_args()
    if not options.plot_only:
        results = measure({name: getattr(options, name) for name in NAMES}, options.rounds)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    results = json.loads(options.output.read_text(encoding="utf-8"))
    report(results)
    plot(results, options.picture)


if __name__ == "__main__":
    turns.run(SIDES, main)
