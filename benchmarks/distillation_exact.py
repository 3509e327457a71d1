"""How far a distilled student's pictures are from the data, where everything is known exactly.

    python benchmarks/distillation_exact.py

The data are those of benchmarks/samplers_exact.py, and the teacher is perfect. Its pictures are assigned to starts as
in a distillation, and the student's first step is the best there is of its kind: for every start, how often each code
is each pixel's x_0, by counting; the later steps are exact. The distance is the total variation between the student's
draws and the data. Without start codes the student is any factorised model.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import turns

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.diffusion.solvable import correlated, total_variation
from tests.training.solvable_student import draws_of_student

START_CODES, STEPS = [0, 1, 2, 3, 4], [1, 2, 4, 8]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=50_000, help="[%(default)s]")
    parser.add_argument("--seed", type=int, default=0, help="[%(default)s]")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    data, rows = correlated(rng), []
    for start_codes in START_CODES:
        drawn = draws_of_student(data, start_codes, STEPS, options.draws, rng)
        rows.append([str(start_codes), *(f"{total_variation(counts, data):.3f}" for counts in drawn)])
    print(turns.table(["start codes", *(f"{n} steps" for n in STEPS)], rows))


if __name__ == "__main__":
    main()
