"""Pictures of nothing in particular, with a converted FFHQ model of microsoft/VQ-Diffusion.

    python examples/unconditional.py --model converted/ffhq --num-images 4

docs/from_microsoft.md says how to convert one.
"""

import argparse

import common

from mindone_vq import UnconditionalPipeline


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = common.parser(__doc__, "outputs/unconditional.png")
    parser.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID", help="a pipeline folder or a hub id")
    parser.add_argument("--truncation-rate", type=float, default=0.86, help="share of probability kept [%(default)s]")
    parser.add_argument("--num-images", type=int, default=1, help="[%(default)s]")
    common.add_profile(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    pipe = UnconditionalPipeline.from_pretrained(options.model, mindspore_dtype=common.set_up(options))
    arguments = dict(
        batch_size=options.num_images,
        num_inference_steps=options.steps,
        truncation_rate=options.truncation_rate,
        generator=[options.seed + i for i in range(options.num_images)],
    )
    with common.profiled(options, pipe, **arguments):
        pictures = pipe(**arguments)[0]
    common.save_pictures(pictures, options.num_images, [""], options.output)


if __name__ == "__main__":
    common.run(main)
