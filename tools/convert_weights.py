"""Converts any VQ-Diffusion checkpoint into a folder that mindone_vq loads, without PyTorch.

    python tools/convert_weights.py SOURCE DESTINATION

SOURCE is a pipeline folder or a hub id in diffusers' layout (.safetensors or .bin); a single state dict (.bin, .pth,
.pt, .safetensors); or a checkpoint of microsoft/VQ-Diffusion, with its YAML file as --config. Nothing in a file is
executed. docs/from_diffusers.md and docs/from_microsoft.md describe each.
"""

import argparse
import sys
from pathlib import Path

from mindone_vq.conversion.convert import as_text, convert
from mindone_vq.conversion.options import DTYPES, FORMATS, Options
from mindone_vq.weights.store import size_in_bytes


def size(text: str) -> int:
    try:
        return size_in_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_arguments(arguments: list[str]) -> Options:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("destination", metavar="DESTINATION", type=Path, help="a folder")
    reading = parser.add_argument_group("reading")
    reading.add_argument("--config", type=Path, help="config.json of a state dict, or a Microsoft model's YAML file")
    reading.add_argument("--codec", type=Path, help="the VQ-VAE's own file, where the checkpoint does not hold it")
    reading.add_argument("--codec-config", type=Path, help="the VQ-VAE's own YAML file, to be checked")
    reading.add_argument("--codes", type=Path, help="the map of full to reduced codes, taming_vqvae_*.pt")
    reading.add_argument("--tokenizer", help="CLIP's tokenizer for a Microsoft model: folder, hub id, or its .txt.gz")
    reading.add_argument("--no-ema", action="store_true", help="use the trained weights, not their moving average")
    reading.add_argument("--variant", help='the infix of the weight files of a folder, such as "fp16"')
    reading.add_argument("--revision", help="of a hub id")
    reading.add_argument(
        "--ignore-unknown-objects", action="store_true", help="skip pickled objects that are no tensors"
    )
    writing = parser.add_argument_group("writing")
    writing.add_argument("--format", choices=FORMATS, default="diffusers", help="[%(default)s]")
    writing.add_argument("--to", choices=["diffusers"], dest="format", default=argparse.SUPPRESS, help="as --format")
    writing.add_argument("--dtype", choices=DTYPES, help="type of the weights [that of the source]")
    writing.add_argument("--component", help="only this one: transformer, vqvae, text_encoder, ...")
    writing.add_argument("--max-shard-size", type=size, metavar="SIZE", help="split weights, for example 2GB")
    writing.add_argument("--overwrite", action="store_true", help="replace an existing DESTINATION")
    writing.add_argument("--dry-run", action="store_true", help="check and report, write nothing")
    writing.add_argument("--report", type=Path, help="also write the report to this JSON file")
    writing.add_argument("--verify", action="store_true", help="compare with PyTorch (needs mindone_vq[test])")
    options = Options(**vars(parser.parse_args(arguments)))
    if options.max_shard_size and options.format != "diffusers":
        parser.error("--max-shard-size goes with --format diffusers")
    return options


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    print(as_text(convert(options)))
    print("Nothing was written (--dry-run)." if options.dry_run else f"Wrote {options.destination}.")


def message(error: Exception) -> str:
    """The text of an error; of the operating system's errors without the number, but with the file."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, TypeError, ImportError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {message(error)}")
    except KeyboardInterrupt:
        sys.exit("Interrupted; nothing was written.")
