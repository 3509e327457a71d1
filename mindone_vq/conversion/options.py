"""The options of a conversion, and what can be checked of them before any work."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Optional

from mindone_vq.conversion.files import MERGES
from mindone_vq.conversion.networks import ConversionError
from mindone_vq.weights.files import check_destination, check_writable

FORMATS = ("diffusers", "ckpt", "mindspore-safetensors")
DTYPES = ("float32", "float16", "bfloat16")
# Kind of source -> those options that have an effect with some kinds only.
FOLDER, HUB, MINDSPORE = "a folder", "a hub id", "a MindSpore checkpoint"
NETWORK, VQVAE, MODEL = "the weights of one network", "a VQ-VAE alone", "a whole model of microsoft/VQ-Diffusion"
OPTIONS_OF = {
    FOLDER: {"variant"},
    HUB: {"variant", "revision"},
    MINDSPORE: {"config"},
    NETWORK: {"config"},
    VQVAE: {"config"},
    MODEL: {"config", "codec", "codec_config", "codes", "tokenizer", "no_ema"},
}


@dataclass
class Options:
    """The options of tools/convert_weights.py, which documents them; ``max_shard_size`` in bytes."""

    source: str
    destination: Path
    config: Optional[Path] = None
    codec: Optional[Path] = None
    codec_config: Optional[Path] = None
    codes: Optional[Path] = None
    tokenizer: Optional[str] = None
    no_ema: bool = False
    variant: Optional[str] = None
    revision: Optional[str] = None
    ignore_unknown_objects: bool = False
    format: str = "diffusers"
    dtype: Optional[str] = None
    component: Optional[str] = None
    max_shard_size: Optional[int] = None
    overwrite: bool = False
    dry_run: bool = False
    report: Optional[Path] = None
    verify: bool = False

    def files(self) -> dict[str, Path]:
        """The given files to read, by option."""
        given = {
            "--config": self.config,
            "--codec": self.codec,
            "--codec-config": self.codec_config,
            "--codes": self.codes,
            "--tokenizer": Path(self.tokenizer) if (self.tokenizer or "").endswith(MERGES) else None,
        }
        return {option: path for option, path in given.items() if path is not None}

    def check_files(self) -> None:
        """Raises OSError or ConversionError where a given file does not exist, is not a file, or is empty."""
        for option, path in self.files().items():
            check_file(path, option)
        if self.tokenizer is not None and not self.tokenizer.endswith(MERGES) and Path(self.tokenizer).is_file():
            raise ConversionError(
                f"--tokenizer {self.tokenizer} is no list of merges ({' or '.join(MERGES)}); give "
                "bpe_simple_vocab_16e6.txt.gz, or the folder or the hub id of a tokenizer."
            )

    def check_used(self, kind: str) -> None:
        """Raises ConversionError for a given option that has no effect with this kind of source."""
        for field in fields(self):
            kinds = [known for known, names in OPTIONS_OF.items() if field.name in names]
            if kinds and kind not in kinds and getattr(self, field.name) != field.default:
                option = f"--{field.name.replace('_', '-')}"
                raise ConversionError(f"{option} is for {' or '.join(kinds)}; SOURCE is {kind}: leave {option} out.")

    def check_outputs(self) -> None:
        """Raises OSError where the result could not be written at the end, or would replace an input."""
        destination = self.destination.resolve()
        inputs = [path.resolve() for path in (Path(self.source), *self.files().values())]
        if self.report:
            check_writable(self.report)
            if self.report.resolve() in (*inputs, destination, *destination.parents):
                raise FileExistsError(f"--report {self.report} is also an input or DESTINATION; give another name.")
        if self.dry_run:
            return
        check_destination(self.destination, self.overwrite)
        inside = ", ".join(str(path) for path in inputs if path.exists() and destination in path.parents)
        if inside:
            raise FileExistsError(f"{inside} lies in DESTINATION, which is replaced; give another DESTINATION.")
        check_writable(self.destination / "model_index.json")


def check_file(path: Path, name: str) -> None:
    """Raises OSError or ConversionError where ``path``, called ``name`` in the message, is no file with content."""
    if path.is_dir():
        raise IsADirectoryError(f"{name} {path} is a folder; give a file.")
    if not path.exists():
        raise FileNotFoundError(f"{name} {path} does not exist.")
    if path.is_file() and path.stat().st_size == 0:
        raise ConversionError(f"{name} {path} is empty: was the download complete?")
