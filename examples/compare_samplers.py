"""One prompt and one seed: a grid of samplers and numbers of steps.

python examples/compare_samplers.py "a large red circle to the left of a small blue cross on a white background"
"""

import argparse

import common

from mindone_vq import VQDiffusionPipeline
from mindone_vq.diffusion.samplers import SAMPLERS
from mindone_vq.pictures import enlarge, grid


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = common.text_parser(__doc__, "outputs/compare_samplers.png", sampler=False)
    parser.add_argument("prompt", metavar="PROMPT", help="what to show")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS), help="the rows [all]")
    parser.add_argument(
        "--columns", type=int, nargs="+", default=[5, 10, 16, 25, 50, 100], help="numbers of steps [%(default)s]"
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    dtype = common.set_up(options)
    pipe = VQDiffusionPipeline.from_pretrained(common.source(options), mindspore_dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    settings = common.call_settings(options)
    rows = []
    for sampler in options.samplers:
        rows.append([])
        for steps in options.columns:
            given = {**settings, "num_inference_steps": steps, "sampler": sampler, "generator": [options.seed]}
            rows[-1] += [enlarge(picture, 128) for picture in pipe(options.prompt, **given)[0]]
    columns = ", ".join(map(str, options.columns))
    common.save(grid(rows, [f"{sampler}: {columns} steps" for sampler in options.samplers]), options.output)


if __name__ == "__main__":
    common.run(main)
