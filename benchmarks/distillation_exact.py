"""How far a distilled student's pictures are from the data, where everything is known exactly.

    python benchmarks/distillation_exact.py

The data are those of benchmarks/samplers_exact.py, and the teacher is perfect. Groups of its pictures are assigned to
as many x_T as in a distillation, here by the number of equal codes; the student is the best there is of its kind: for
every x_t, how often each code is each pixel's x_0, by counting. The distance is the total variation between the
student's draws and the data; where all of x_T is masked, the student is any factorised model.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import turns

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.diffusion.solvable import correlated, total_variation
from tests.training.solvable_student import draws_of_student

SHARES, STEPS = [0.0, 0.3, 0.6, 1.0], [1, 2, 4, 8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200_000, help="[%(default)s]")
    parser.add_argument("--groups", type=int, nargs="+", default=[16, 128, 1024], help="[%(default)s]")
    parser.add_argument("--draws", type=int, default=50_000, help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    data, rows = correlated(rng), []
    for share in SHARES:
        for group in options.groups:
            drawn = draws_of_student(data, share, group, options.pairs, STEPS, options.draws, rng)
            rows.append([f"{share:.0%}", str(group), *(f"{total_variation(counts, data):.3f}" for counts in drawn)])
    print(turns.table(["masked in x_T", "pictures of a prompt", *(f"{n} steps" for n in STEPS)], rows))


if __name__ == "__main__":
    main()
