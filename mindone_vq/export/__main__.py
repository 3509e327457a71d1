"""Exports a pipeline as MINDIR files for MindSpore Lite.

    python -m mindone_vq.export MODEL --output DIR --batch-size N

DIR/pipeline.json then says what each file takes and gives, and how to generate with them.
"""

import argparse
import sys
from pathlib import Path

import mindspore as ms

import mindone_vq
from mindone_vq.export.folder import DTYPES, export_pipeline
from mindone_vq.export.graphs import CONDITIONS
from mindone_vq.nn.device import TARGETS, built_for, device
from mindone_vq.weights import hub
from mindone_vq.weights.files import read_json


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m mindone_vq.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", metavar="MODEL", help="a pipeline folder or a hub id")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--batch-size", type=int, default=1, metavar="N", help="pictures at a time [%(default)s]")
    parser.add_argument(
        "--dtype", choices=list(DTYPES.values()), default="float32", help="of the weights [%(default)s]"
    )
    parser.add_argument(
        "--for", choices=TARGETS, dest="target", help="the device that will run them [the one that computes here]"
    )
    parser.add_argument("--unguided", action="store_true", help="a step without classifier-free guidance")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing DIR")
    return parser.parse_args(arguments)


def main(arguments: list[str]) -> None:
    options = parse_arguments(arguments)
    folder = hub.resolve(options.model)
    kinds = {kind.__name__: kind for kind in CONDITIONS}
    named = read_json(folder / "model_index.json").get("_class_name", mindone_vq.VQDiffusionPipeline.__name__)
    if named not in kinds:
        raise ValueError(f"{folder} holds a {named}; only a {' or a '.join(kinds)} can be exported.")
    with built_for(options.target or device()):
        pipe = kinds[named].from_pretrained(folder, mindspore_dtype=getattr(ms, options.dtype))
        described = export_pipeline(pipe, options.output, options.batch_size, not options.unguided, options.overwrite)
    print(f"Wrote {described}, which describes the files beside it.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, TypeError, OSError, RuntimeError) as error:
        sys.exit(f"{type(error).__name__}: {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted; nothing was written.")
