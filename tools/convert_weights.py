"""Converts any VQ-Diffusion checkpoint into a folder that mindone_vq loads, without PyTorch.

    python tools/convert_weights.py SOURCE DESTINATION

SOURCE is a pipeline folder or a hub id in diffusers' layout (.safetensors or .bin); a single state dict (.bin, .pth,
.pt, .safetensors); or a checkpoint of microsoft/VQ-Diffusion, with --config their.yaml. docs/porting.md goes through
each. Nothing in a file is executed.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tqdm import tqdm

from mindone_vq.conversion.options import Options
from mindone_vq.conversion.plan import ConversionError, Plan
from mindone_vq.conversion.report import as_text, report
from mindone_vq.conversion.sources import read_source
from mindone_vq.conversion.verify import verify
from mindone_vq.conversion.write import DTYPES, FORMATS, Target, write_plan
from mindone_vq.weights.files import check_destination, check_writable, write_json
from mindone_vq.weights.store import size_in_bytes


def size(text: str) -> int:
    try:
        return size_in_bytes(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", metavar="SOURCE")
    parser.add_argument("destination", metavar="DESTINATION", type=Path, help="a folder")
    reading = parser.add_argument_group("reading")
    reading.add_argument("--config", type=Path, help="config.json of a state dict, or a Microsoft model's YAML file")
    reading.add_argument("--codec", type=Path, help="the codec's own file, where the checkpoint does not hold it")
    reading.add_argument("--codec-config", type=Path, help="the codec's own YAML file, to be checked")
    reading.add_argument("--codes", type=Path, help="the map of full to reduced codes, taming_vqvae_*.pt")
    reading.add_argument("--tokenizer", help="CLIP's tokenizer for a Microsoft model: folder, hub id, or its .txt.gz")
    reading.add_argument("--no-ema", action="store_true", help="take the weights of training, not their moving average")
    reading.add_argument("--variant", help='the infix of the weight files of a folder, such as "fp16"')
    reading.add_argument("--revision", help="of a hub id")
    reading.add_argument(
        "--ignore-unknown-objects", action="store_true", help="pass over pickled objects beside the tensors"
    )
    writing = parser.add_argument_group("writing")
    writing.add_argument("--to", choices=["diffusers"], help="the same as --format diffusers")
    writing.add_argument("--format", choices=FORMATS, default="diffusers", help="[%(default)s]")
    writing.add_argument("--dtype", choices=DTYPES, help="type of the weights [that of the source]")
    writing.add_argument("--component", help="only this one: transformer, vqvae, text_encoder, ...")
    writing.add_argument("--max-shard-size", type=size, metavar="SIZE", help="split weights, for example 2GB")
    writing.add_argument("--overwrite", action="store_true", help="replace an existing DESTINATION")
    writing.add_argument("--dry-run", action="store_true", help="check and report, write nothing")
    writing.add_argument("--report", type=Path, help="also write the report to this JSON file")
    writing.add_argument("--verify", action="store_true", help="compare with PyTorch (needs mindone_vq[test])")
    options = parser.parse_args(arguments)
    if options.to:
        options.format = options.to
    if options.max_shard_size and options.format != "diffusers":
        parser.error("--max-shard-size goes with --format diffusers")
    return options


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    reading = Options(
        config=options.config,
        codec=options.codec,
        codec_config=options.codec_config,
        codes=options.codes,
        tokenizer=options.tokenizer,
        ema=not options.no_ema,
        variant=options.variant,
        revision=options.revision,
        ignore_unknown=options.ignore_unknown_objects,
    )
    check_outputs(options, [Path(options.source), *reading.files().values()])
    plan = read_source(options.source, reading)
    if options.component:
        plan = plan.only(options.component)
    plan.check()
    content = report(plan, options.dtype)
    if options.verify:
        content["relative_error_against_pytorch"] = verified(plan, Path(options.source))
    if not options.dry_run:
        target = Target(options.format, options.dtype, options.max_shard_size, options.overwrite)
        total = sum(len(component.fitted) for component in plan.components)
        with tqdm(total=total, unit=" tensors", desc="converting") as bar:
            write_plan(plan, options.destination, target, lambda _: bar.update())
    if options.report:
        write_json(options.report, content)
    print(as_text(content))
    for name, error in content.get("relative_error_against_pytorch", {}).items():
        print(f"verified: {name} agrees with PyTorch to {error:.1e}")
    print("Nothing was written (--dry-run)." if options.dry_run else f"Wrote {options.destination}.")


def check_outputs(options: argparse.Namespace, inputs: list[Path]) -> None:
    """Raises OSError where the result could not be written at the end, or would be written over an input."""
    destination = options.destination.resolve()
    inputs = [path.resolve() for path in inputs]
    if options.report:
        check_writable(options.report)
        report_path = options.report.resolve()
        if report_path in inputs or report_path == destination or report_path in destination.parents:
            raise FileExistsError(f"--report {options.report} is also an input or DESTINATION; give another name.")
    if options.dry_run:
        return
    check_destination(options.destination, options.overwrite)
    inside = [str(path) for path in inputs if path.exists() and destination in path.parents]
    if inside:
        raise FileExistsError(f"{', '.join(inside)} lies in DESTINATION, which is replaced; give another DESTINATION.")
    check_writable(options.destination / "model_index.json")


def sentence(error: Exception) -> str:
    """What went wrong; an error of the system with the name of its file, which it tells apart from the reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def verified(plan: Plan, source: Path) -> dict[str, float]:
    """The errors against PyTorch, which reads the source where it can and otherwise what we make of it."""
    if plan.source_is_diffusers and source.is_dir():
        return verify(plan, source)
    with tempfile.TemporaryDirectory() as folder:
        write_plan(plan, Path(folder) / "converted", Target())
        return verify(plan, Path(folder) / "converted")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ConversionError, ValueError, TypeError, ImportError, OSError) as error:
        sys.exit(f"{type(error).__name__}: {sentence(error)}")
    except KeyboardInterrupt:
        sys.exit("Interrupted; nothing was written.")
