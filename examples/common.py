"""Options, set-up and the saving of pictures for all examples."""

import argparse
import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Optional, Union

import mindspore as ms
from PIL import Image

from mindone_vq.demo import MODELS
from mindone_vq.diffusion.samplers import SAMPLERS
from mindone_vq.diffusion.spacing import SPACINGS
from mindone_vq.pictures import enlarge, grid
from mindone_vq.pipelines.base import DiffusionPipeline
from mindone_vq.profiling import traced
from mindone_vq.training.data.dataset import METADATA
from mindone_vq.training.devices import connect
from mindone_vq.weights.files import check_writable, write_atomically
from mindone_vq.weights.pretrained import FLOAT_TYPES


def parser(description: str, output: str) -> argparse.ArgumentParser:
    """The options of every example that generates pictures."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--steps", type=int, help="denoising steps [the model's setting]")
    result.add_argument("--seed", type=int, default=0, help="picture i uses seed + i [%(default)s]")
    result.add_argument("--dtype", choices=FLOAT_TYPES, default="float32", help="type of the weights [%(default)s]")
    result.add_argument("--device", choices=["CPU", "Ascend"], help="[MindSpore's choice]")
    result.add_argument("--output", type=Path, default=Path(output), help="[%(default)s]")
    return result


def text_parser(description: str, output: str, sampler: bool = True) -> argparse.ArgumentParser:
    """The options of every example with prompts; ``sampler``: whether --sampler is one of them."""
    result = parser(description, output)
    names = " or ".join(MODELS)
    result.add_argument("--model", default="shapes", help=f"{names}, a pipeline folder or a hub id [%(default)s]")
    result.add_argument("--guidance-scale", type=float, help="above 1 guidance is on [the model's setting]")
    result.add_argument("--truncation-rate", type=float, help="share of probability kept [the model's setting]")
    if sampler:
        result.add_argument("--sampler", choices=SAMPLERS, help="[the model's setting]")
    result.add_argument("--spacing", choices=SPACINGS, help="spacing of the timesteps [the model's setting]")
    return result


def write_image_folder(folder: Path, pictures: Iterable[tuple[str, Image.Image, Sequence[str]]]) -> int:
    """An image folder to train on: pictures with their file names and captions, a line of metadata for each caption.

    Returns:
        The number of captions.

    Raises:
        ValueError: the folder has metadata already.
    """
    index = folder / METADATA
    if index.exists():
        raise ValueError(f"{index} exists already: choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for name, picture, captions in pictures:
        picture.save(folder / name)
        lines += [json.dumps({"file_name": name, "text": caption}, ensure_ascii=False) for caption in captions]
    write_atomically(index, ("\n".join(lines) + "\n").encode())
    return len(lines)


def add_profile(parser: argparse.ArgumentParser) -> None:
    """The option of those examples that can trace a call; see ``profiled``."""
    parser.add_argument("--profile", type=Path, metavar="DIR", help="write a trace of mindspore.profiler, too")


@contextlib.contextmanager
def profiled(options: argparse.Namespace, pipe: DiffusionPipeline, **arguments: Any) -> Iterator[None]:
    """Traces what runs inside, with --profile; what calls with these ``arguments`` need is compiled before."""
    if options.profile:
        pipe.warm_up(**arguments)
    with traced(options.profile) as step_ended:
        yield
        step_ended()


def source(options: argparse.Namespace) -> Union[str, Path]:
    """What ``from_pretrained`` loads for --model; a folder called as a bundled model is ./shapes."""
    return MODELS.get(options.model, options.model)


def call_settings(options: argparse.Namespace) -> dict[str, Any]:
    """The options of ``text_parser`` that were given, as arguments of a pipeline's call."""
    names = ("guidance_scale", "truncation_rate", "sampler", "spacing")
    chosen = {"num_inference_steps": options.steps, **{name: getattr(options, name, None) for name in names}}
    return {name: value for name, value in chosen.items() if value is not None}


def set_up(options: argparse.Namespace, number: Optional[int] = None) -> ms.Type:
    """Prints log messages, checks what is written to, selects the device; returns the type of the weights.

    Args:
        number: of the device, if there are several.

    Raises:
        OSError: the output cannot be written.
        ValueError: there is no such device.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    check_writable(options.output, is_folder=not options.output.suffix)
    if getattr(options, "profile", None):
        check_writable(options.profile, is_folder=True)
    device = options.device or ms.get_context("device_target")
    if number is not None and device != "CPU":
        choose_device(device, number)
    elif options.device:
        choose_device(options.device)
    return FLOAT_TYPES[options.dtype]


def choose_device(device: str, *number: int) -> None:
    """``mindspore.set_device`` with an error of one line."""
    try:
        ms.set_device(device, *number)
    except RuntimeError as error:
        reason = str(error).split(". Please")[0].split("\n")[0]
        raise ValueError(
            f"--device {device} cannot be used here: {reason}. python -m mindone_vq.doctor reports what is missing."
        ) from error


def save_pictures(pictures: list[Image.Image], per_row: int, labels: list[str], path: Path) -> None:
    """Saves one picture, or several as a labelled grid; small pictures are enlarged."""
    shown = [enlarge(picture) for picture in pictures]
    rows = [shown[i : i + per_row] for i in range(0, len(shown), per_row)]
    save(shown[0] if len(shown) == 1 else grid(rows, labels), path)


def save(picture: Image.Image, path: Path) -> None:
    """Writes a PNG under a temporary name and renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    picture.save(temporary, format="PNG")
    temporary.replace(path)
    print(f"Wrote {path} ({picture.width} x {picture.height}).")


def run_training(settings_class: type, training_class: type, description: str) -> None:
    """Trains with the settings of the command line, under msrun on all devices."""

    def main(arguments: list[str]) -> None:
        from mindone_vq.training.command_line import parse  # needs the extra [train], other examples do not

        options = parse(settings_class, arguments, description)
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        if options.device != "auto":
            choose_device(options.device)
        training_class(options, connect()).run()

    run(main)


def run(main: Callable[[list[str]], None]) -> None:
    """Runs an example; prints a user's mistake as one line."""
    try:
        main(sys.argv[1:])
    except (ValueError, TypeError, OSError, FloatingPointError, MemoryError, ImportError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
