"""Pictures of any number of prompts, on one device or many, into one folder.

    python examples/generate_batch.py prompts.jsonl --output outputs/many
    msrun --worker_num 8 --local_worker_num 8 --log_dir logs --join True \\
        examples/generate_batch.py prompts.jsonl --output outputs/many

A .jsonl file has a JSON object on each line: "text", and if wanted "seed" and "id" (what the picture's file is called);
any other file has a prompt on each line. Writes into --output:

    pictures/        a PNG for each picture; inside it stand prompt, seed and settings
    manifest.jsonl   when all are there: file, prompt, seed and settings of each, in the order of the prompts

The same command again, with as many devices as you like, makes what is not there yet; after a kill nothing is lost or
made twice but the batch that each was at. Prompts may be added at the end. What a picture shows depends on its prompt,
its seed and the settings; not on the number of devices, nor, but for rounding, on the batch size. A folder that holds
pictures of other settings is refused.
"""

import argparse
from pathlib import Path
from typing import Any

import common

from mindone_vq import Transformer2DModel, VQDiffusionPipeline
from mindone_vq.demo import MODEL
from mindone_vq.pipelines.checks import check_settings
from mindone_vq.pipelines.many import default_batch_size, generate_missing, share
from mindone_vq.pipelines.picture_folder import PictureFolder, plan
from mindone_vq.pipelines.pretrained import PUBLISHED_SETTINGS, check_index, settings_of_call
from mindone_vq.text.prompts import read_prompts
from mindone_vq.training.devices import Devices, side_by_side
from mindone_vq.weights.fingerprint import fingerprint
from mindone_vq.weights.hub import resolve


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = common.text_parser(__doc__, "outputs/generate_batch")
    parser.add_argument("prompts", type=Path, metavar="PROMPTS", help="the file of prompts")
    parser.add_argument("--images-per-prompt", type=int, default=1, help="pictures of each prompt [%(default)s]")
    parser.add_argument(
        "--batch-size",
        type=int,
        help="pictures at a time; fewer if memory runs out [what should take 4 GB beside the weights, at most 64]",
    )
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    devices = side_by_side()
    if devices is None:
        return
    check(options)
    pictures = plan(read_prompts(options.prompts), options.seed, options.images_per_prompt)
    model = resolve(options.model or MODEL, VQDiffusionPipeline.component_classes)
    settings = find_settings(options, model)
    folder = PictureFolder(
        options.output,
        pictures,
        {"weights": fingerprint(model, VQDiffusionPipeline.component_classes), "dtype": options.dtype, **settings},
        {"model": options.model or f"bundled: {MODEL.name}"},
    )
    make(folder, model, settings, options, devices)
    if folder.finish():
        print(f"All {len(pictures)} pictures are in {options.output}.")
    else:
        print("This device has done its part; manifest.jsonl comes with the last of the others.")


def check(options: argparse.Namespace) -> None:
    """Mistakes are told before a model is loaded."""
    for name in ("steps", "batch_size", "images_per_prompt"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be at least 1.")
    if options.seed < 0:
        raise ValueError(f"--seed is {options.seed}; it must be 0 or more.")


def find_settings(options: argparse.Namespace, model: Path) -> dict[str, Any]:
    """Steps, sampler, guidance and truncation, as given or else as the model has them."""
    defaults = {**PUBLISHED_SETTINGS, **check_index(VQDiffusionPipeline, model)}
    settings = settings_of_call(defaults, options.guidance_scale, options.truncation_rate)
    check_settings(**settings, num_images=options.images_per_prompt, output_type="pil", callback_steps=1)
    return {**common.call_settings(options), **settings}


def config_of_transformer(model: Path) -> dict[str, Any]:
    """The denoiser's arguments: as the file has them, or else the usual ones."""
    usual = {name: argument.default for name, argument in Transformer2DModel.arguments().items()}
    return {**usual, **Transformer2DModel.load_config(model / "transformer")}


def make(
    folder: PictureFolder, model: Path, settings: dict[str, Any], options: argparse.Namespace, devices: Devices
) -> None:
    """This device's part of what is not there yet."""
    done = folder.done()
    size = options.batch_size or default_batch_size(config_of_transformer(model))
    batches = share(len(folder.pictures), size, devices.rank, devices.count)
    if not batches:
        print("There are fewer batches than devices; a smaller --batch-size would give each something to do.")
    if all(number in done for batch in batches for number in batch):
        return
    dtype = common.set_up(options, devices.number)
    print(f"Loading {options.model or 'the bundled model'} ...")
    pipe = VQDiffusionPipeline.from_pretrained(model, mindspore_dtype=dtype)
    title = f"device {devices.rank + 1} of {devices.count}" if devices.count > 1 else ""
    generate_missing(pipe, folder, batches, size, done, settings, title)


if __name__ == "__main__":
    common.run(main)
