"""How a source is to be read, and which of the options go with which source."""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Optional

from mindone_vq.conversion.plan import ConversionError

MERGES = (".txt.gz", ".txt")  # endings of the list of merges that is CLIP's vocabulary
ORIGINAL = "a whole model of microsoft/VQ-Diffusion"
# Field -> (its option on the command line, the sources that it is for).
FLAGS = {
    "config": ("--config", "a file"),
    "codec": ("--codec", ORIGINAL),
    "codec_config": ("--codec-config", ORIGINAL),
    "codes": ("--codes", ORIGINAL),
    "tokenizer": ("--tokenizer", f"{ORIGINAL} that takes text"),
    "ema": ("--no-ema", ORIGINAL),
    "variant": ("--variant", "a folder or a hub id"),
    "revision": ("--revision", "a hub id"),
}


@dataclass
class Options:
    """How a source is to be read; the command line documents them."""

    config: Optional[Path] = None
    codec: Optional[Path] = None
    codec_config: Optional[Path] = None
    codes: Optional[Path] = None
    tokenizer: Optional[str] = None
    ema: bool = True
    variant: Optional[str] = None
    revision: Optional[str] = None
    ignore_unknown: bool = False

    def files(self) -> dict[str, Path]:
        """The files that are named, by their option on the command line."""
        given = {name: getattr(self, name) for name in ("config", "codec", "codec_config", "codes")}
        if self.tokenizer is not None and self.tokenizer.endswith(MERGES):
            given["tokenizer"] = Path(self.tokenizer)
        return {FLAGS[name][0]: path for name, path in given.items() if path is not None}

    def check_files(self) -> None:
        """Raises OSError or ConversionError where a file that is named is not there, not a file, or empty."""
        for flag, path in self.files().items():
            check_file(path, flag)
        path = Path(self.tokenizer) if self.tokenizer is not None else None
        if path is not None and path.is_file() and not self.tokenizer.endswith(MERGES):
            raise ConversionError(
                f"--tokenizer {path} is no list of merges ({' or '.join(MERGES)}); give "
                "bpe_simple_vocab_16e6.txt.gz, or the folder or the hub id of a tokenizer."
            )

    def check_used(self, what: str, allowed: Iterable[str]) -> None:
        """Raises ConversionError for an option that is given and would have no effect.

        Args:
            what: the source, in words.
            allowed: the fields that have an effect with it.
        """
        for field in fields(self):
            if field.name in FLAGS and field.name not in allowed and getattr(self, field.name) != field.default:
                flag, wanted = FLAGS[field.name]
                raise ConversionError(f"{flag} is for {wanted}; SOURCE is {what}: leave {flag} out.")


def check_file(path: Path, name: str) -> None:
    """Raises OSError or ConversionError where ``path``, called ``name`` in the message, is no file with a content."""
    if path.is_dir():
        raise IsADirectoryError(f"{name} {path} is a folder; give a file.")
    if not path.exists():
        raise FileNotFoundError(f"{name} {path} does not exist.")
    if path.is_file() and path.stat().st_size == 0:
        raise ConversionError(f"{name} {path} is empty: was it downloaded whole?")
