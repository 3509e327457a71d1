"""How far each sampler's pictures are from the data, where everything is known exactly.

    python benchmarks/samplers_exact.py

Four pixels of five codes, neighbours often alike; the network's answer is computed, not learned. A step that draws
several codes at once draws them independently: whatever the sampler, fewer steps than pixels cannot be exact. The
distance is the total variation between 50,000 draws and the data; as many draws from the data itself have one too,
which is the floor.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import turns
from matplotlib import pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mindone_vq.diffusion.samplers import Ancestral, Confidence, Halton, Purity
from tests.diffusion.solvable import correlated, draws, total_variation

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "pictures" / "samplers_exact.png"
SAMPLERS = {
    "ancestral": Ancestral(),
    "purity, r = 1": Purity(),
    "purity, r = 0": Purity(r=0.0),
    "confidence, temperature 0.5": Confidence(),
    "confidence, temperature 4.5": Confidence(temperature=4.5),
    "halton": Halton(),
}
STEPS = [1, 2, 3, 4, 8, 16, 32, 100]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=50_000, help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="[%(default)s]")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    data = correlated(rng)
    floor = total_variation(rng.multinomial(options.draws, data), data)
    rows, tables = [], {}
    for name, sampler in SAMPLERS.items():
        held = tables.setdefault(sampler.is_exact, {})
        found = [total_variation(draws(data, sampler, n, options.draws, rng, tables=held), data) for n in STEPS]
        rows.append([name, *(f"{value:.3f}" for value in found)])
        plt.plot(STEPS, found, marker="o", label=name)
    print(turns.table(["total variation at so many steps", *map(str, STEPS)], rows))
    print(f"\nDraws from the data themselves: {floor:.3f}.")
    plt.axhline(floor, color="gray", linestyle=":", label="draws from the data")
    plt.xscale("log")
    plt.xticks(STEPS, map(str, STEPS))
    plt.minorticks_off()
    plt.ylim(bottom=0)
    plt.xlabel("steps")
    plt.ylabel("total variation from the data")
    plt.legend()
    plt.savefig(options.picture, dpi=100, bbox_inches="tight")


if __name__ == "__main__":
    main()
