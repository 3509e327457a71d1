"""Draws the curves of training logs.

    python benchmarks/plot_training.py PICTURE.png LOG.jsonl:NAME[,NAME...] ...

Each argument is one panel: a log.jsonl as the trainings write it, and the values to draw over the steps.
"""

import json
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot


def draw(axes: pyplot.Axes, log: Path, names: list[str]) -> None:
    """One panel; a name that ends in '*' stands for all that begin so."""
    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    for name in names:
        found = [key for key in entries[-1] if key.startswith(name[:-1])] if name.endswith("*") else [name]
        for key in found:
            points = [(entry["step"], entry[key]) for entry in entries if entry.get(key) is not None]
            axes.plot(*zip(*points), label=key, linewidth=1)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="x-small")


def main(arguments: list[str]) -> None:
    if len(arguments) < 2:
        sys.exit(__doc__)
    panels = [panel.rsplit(":", 1) for panel in arguments[1:]]
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.2), squeeze=False)
    for each, (log, names) in zip(axes[0], panels):
        draw(each, Path(log), names.split(","))
    figure.tight_layout()
    figure.savefig(arguments[0], dpi=120)


if __name__ == "__main__":
    main(sys.argv[1:])
