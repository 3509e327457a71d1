"""The files that a conversion reads."""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import yaml
from tokenizers import pre_tokenizers

from mindone_vq import CLIPTokenizer
from mindone_vq.conversion.networks import ConversionError
from mindone_vq.weights.files import read_json
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.safetensors_file import read_safetensors
from mindone_vq.weights.torch_pickle import open_checkpoint

CONTAINERS, MAX_CONTAINERS = ("state_dict", "model", "module"), 4
TORCH_ENDINGS = (".bin", ".pth", ".pt", ".ckpt")
MERGES = (".txt.gz", ".txt")  # the names of a list of merges, CLIP's vocabulary in the original repository
PADDING = "!"  # the token of id 0


class _Loader(yaml.SafeLoader):
    """YAML's safe loader, and the one Python tag of the original configs."""


_Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node)))


def read_config(path: Optional[Path]) -> Optional[dict[str, Any]]:
    """A config in JSON or YAML; tags that would execute something are refused. None for None."""
    if path is None or path.suffix not in (".yaml", ".yml"):
        return None if path is None else read_json(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path} is not readable as YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConversionError(f"{path} holds no settings.")
    return content


Opened = tuple[dict[str, LazyTensor], dict[str, LazyTensor], set[str]]


def open_tensors(path: Path, option: str, ignore_unknown: bool) -> Opened:
    """The weights in a file, in whatever container; their moving averages; the classes of objects that were skipped."""
    if path.suffix == ".safetensors":
        return read_safetensors(path), {}, set()
    if path.suffix not in TORCH_ENDINGS:
        raise ConversionError(f"{option} {path} ends in none of .safetensors, {', '.join(TORCH_ENDINGS)}.")
    content, skipped = open_checkpoint(path, ignore_unknown)
    if not isinstance(content, dict):
        raise ConversionError(f"{option} {path} holds a {type(content).__name__}, not a state dict.")
    return _state_dict(content), _state_dict(content.get("ema") or {}), skipped


def _state_dict(content: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """The tensors of the innermost container."""
    for _ in range(MAX_CONTAINERS):
        content = next((content[name] for name in CONTAINERS if isinstance(content.get(name), dict)), content)
    return {str(key): value for key, value in content.items() if isinstance(value, LazyTensor)}


def read_tokenizer(source: Optional[str], vocab_size: int) -> CLIPTokenizer:
    """The tokenizer of a text encoder with ``vocab_size`` tokens: of a folder, a hub id or a list of merges."""
    if source is None:
        raise ConversionError(
            "this is a text model, and CLIP's vocabulary is not in the file: pass --tokenizer with a folder, a hub id "
            "(openai/clip-vit-base-patch32) or the file bpe_simple_vocab_16e6.txt.gz of the original repository."
        )
    if source.endswith(MERGES):
        return _from_merges(source, vocab_size)
    try:
        given = CLIPTokenizer.from_pretrained(source)
    except (OSError, ValueError) as error:
        raise ConversionError(f"--tokenizer: {error}") from error
    if given.vocab_size != vocab_size:
        raise ConversionError(
            f"the tokenizer has {given.vocab_size} tokens, the text encoder {vocab_size}: give another --tokenizer."
        )
    return CLIPTokenizer(given._vocab, given._merges, given.model_max_length, pad_token=PADDING)


def _from_merges(source: str, vocab_size: int) -> CLIPTokenizer:
    """bpe_simple_vocab_16e6.txt has a title, then pairs; CLIP uses the first, as many as give ``vocab_size``."""
    try:
        data = Path(source).read_bytes()
        lines = (gzip.decompress(data) if source.endswith(".gz") else data).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConversionError(f"--tokenizer {source} is not a complete list of merges: {error}.") from error
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # by code point, which is CLIP's order
    special = ["<|startoftext|>", "<|endoftext|>"]
    merges = [tuple(line.split()) for line in lines[1 : 1 + vocab_size - 2 * len(letters) - len(special)]]
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in merges), *special]
    if len(tokens) != vocab_size or any(len(pair) != 2 for pair in merges):
        raise ConversionError(f"--tokenizer {source} does not give {vocab_size} tokens: it is not CLIP's.")
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges, pad_token=PADDING)
