"""Classes to pictures, with a converted ImageNet model of microsoft/VQ-Diffusion.

    python examples/class_to_image.py 207 388 --model converted/imagenet

docs/from_microsoft.md says how to convert one. The numbers are ImageNet's classes, 0 to 999.
"""

import argparse

import common

from mindone_vq import ClassToImagePipeline


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = common.parser(__doc__, "outputs/class_to_image.png")
    parser.add_argument("classes", nargs="+", type=int, metavar="CLASS", help="several make a labelled grid")
    parser.add_argument("--model", required=True, metavar="DIR_OR_HUB_ID", help="a pipeline folder or a hub id")
    parser.add_argument("--guidance-scale", type=float, help="above 1 guidance is on [the model's setting]")
    parser.add_argument("--truncation-rate", type=float, default=0.86, help="share of probability kept [%(default)s]")
    parser.add_argument("--num-images", type=int, default=1, help="pictures of each class [%(default)s]")
    common.add_profile(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    pipe = ClassToImagePipeline.from_pretrained(options.model, mindspore_dtype=common.set_up(options))
    arguments = dict(
        class_labels=options.classes,
        num_inference_steps=options.steps,
        guidance_scale=options.guidance_scale,
        truncation_rate=options.truncation_rate,
        num_images_per_class=options.num_images,
        generator=[options.seed + i for i in range(len(options.classes) * options.num_images)],
    )
    with common.profiled(options, pipe, **arguments):
        pictures = pipe(**arguments)[0]
    labels = [f"class {label}" for label in options.classes]
    common.save_pictures(pictures, options.num_images, labels, options.output)


if __name__ == "__main__":
    common.run(main)
