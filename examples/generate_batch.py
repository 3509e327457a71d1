"""Pictures of any number of prompts, on one device or many, into one folder.

    python examples/generate_batch.py prompts.jsonl --output outputs/many
    msrun --worker_num 8 --local_worker_num 8 --log_dir logs --join True \\
        examples/generate_batch.py prompts.jsonl --output outputs/many
    python examples/generate_batch.py prompts.jsonl --output /shared/many --ray auto --workers 16

A .jsonl file has a JSON object on each line: "text", and optionally "seed" and "id" (the name of the picture's file).
Any other file has a prompt on each line. Writes into --output:

    pictures/        a PNG for each picture, with its prompt, seed and settings inside
    manifest.jsonl   written when all exist: file, prompt, seed and settings of each picture, in order of the prompts

The same command again, with any number of devices, makes the missing pictures; a kill loses no more than the batch
of each device. Prompts can be added at the end. A picture depends on its prompt, its seed and the settings; not on the
number of devices, and on the batch size only by rounding. A folder with pictures of other settings is refused.

--ray shares the work out on a Ray cluster whose machines see --output, the model and this repository at the same paths;
the part of a worker that is lost is done by another. It needs the extra [serve].
"""

import argparse
from pathlib import Path
from typing import Any, Optional

import common

from mindone_vq import VQDiffusionPipeline
from mindone_vq.batch import PictureFolder, default_batch_size, generate_missing, plan
from mindone_vq.text.prompts import read_prompts
from mindone_vq.training.devices import side_by_side
from mindone_vq.weights.fingerprint import fingerprint
from mindone_vq.weights.hub import resolve

RETRIES = 10  # of a task whose worker is lost


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = common.text_parser(__doc__, "outputs/generate_batch")
    parser.add_argument("prompts", type=Path, metavar="PROMPTS", help="the file of prompts")
    parser.add_argument("--images-per-prompt", type=int, default=1, help="pictures of each prompt [%(default)s]")
    parser.add_argument(
        "--batch-size", type=int, help="pictures at a time [an estimate for 4 GB beside the weights, at most 64]"
    )
    parser.add_argument(
        "--ray", nargs="?", const="local", metavar="ADDRESS", help="on a Ray cluster, or on a local one [local]"
    )
    parser.add_argument("--workers", type=int, default=1, help="tasks on the cluster, a device each [%(default)s]")
    common.add_profile(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    if options.ray:
        on_ray(options)
    elif (devices := side_by_side()) is not None:
        generate(options, devices.number, devices.rank, devices.count)


def on_ray(options: argparse.Namespace) -> None:
    """One task for each worker; Ray begins a task anew whose process or machine is lost."""
    import ray

    from mindone_vq.serving.ray_environment import ENVIRONMENT

    check(options)
    examples = str(Path(__file__).resolve().parent)
    environment = {"env_vars": {**ENVIRONMENT, "PYTHONPATH": examples}}
    ray.init(None if options.ray == "local" else options.ray, runtime_env=environment, include_dashboard=False)
    resources = {"NPU": 1} if options.device == "Ascend" else None
    task = ray.remote(num_cpus=1, resources=resources, max_retries=RETRIES)(generate)
    options.prompts, options.output = options.prompts.resolve(), options.output.resolve()
    ray.get([task.remote(options, None, rank, options.workers) for rank in range(options.workers)])


def generate(options: argparse.Namespace, device: Optional[int], rank: int, workers: int) -> None:
    """The part of one process: it generates what is missing of every ``workers``-th batch."""
    check(options)
    pictures = plan(read_prompts(options.prompts), options.seed, options.images_per_prompt)
    dtype = common.set_up(options, device)
    print(f"Loading {options.model} ...")
    model = resolve(common.source(options), VQDiffusionPipeline.component_classes)
    pipe = VQDiffusionPipeline.from_pretrained(model, mindspore_dtype=dtype)
    settings = {**pipe.default_settings, **common.call_settings(options)}
    weights = fingerprint(model, VQDiffusionPipeline.component_classes)
    made_with = {"weights": weights, "dtype": options.dtype, **settings}
    folder = PictureFolder(options.output, pictures, made_with, {"model": options.model})
    size = options.batch_size or default_batch_size(pipe.transformer.config)
    if options.profile:
        trace_one_batch(options, pipe, [picture.prompt for picture in pictures][:size], settings)
    generate_missing(pipe, folder, size, settings, rank, workers)
    if folder.finish():
        print(f"All {len(pictures)} pictures are in {options.output}.")
    else:
        print("This device has finished; the last device writes manifest.jsonl.")


def trace_one_batch(
    options: argparse.Namespace, pipe: VQDiffusionPipeline, prompts: list[str], settings: dict[str, Any]
) -> None:
    """A batch before the others, whose pictures are not kept: a trace of all would be very large."""
    with common.profiled(options, pipe, prompt=prompts, **settings):
        pipe(prompts, generator=options.seed, **settings)


def check(options: argparse.Namespace) -> None:
    """Reports mistakes before a model is loaded."""
    for name, least in (("steps", 1), ("batch_size", 1), ("images_per_prompt", 1), ("workers", 1), ("seed", 0)):
        value = getattr(options, name)
        if value is not None and value < least:
            raise ValueError(f"--{name.replace('_', '-')} is {value}; it must be at least {least}.")


if __name__ == "__main__":
    common.run(main)
