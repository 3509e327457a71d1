"""CLIP's tokenizer: text is cleaned as in transformers; ``tokenizers`` does the byte-pair encoding."""

import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional, Union

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from mindone_vq.outputs import output
from mindone_vq.weights import hub
from mindone_vq.weights.files import read_json, write_atomically, write_json

START, END = MARKERS = ("<|startoftext|>", "<|endoftext|>")
# How a cleaned, lower-case text is split into words (OpenAI's CLIP, simple_tokenizer.py).
WORD = r"<\|startoftext\|>|<\|endoftext\|>|(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
WORDS = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
END_OF_WORD = "</w>"
SPECIAL_DEFAULTS = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": END}
# transformers writes a number near 1e30 where no length is set; CLIP's text encoders take 77 tokens.
NO_LENGTH, CLIP_LENGTH = 10**6, 77
CJK_RANGES = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)


@output
class TokenizerOutput(NamedTuple):
    """input_ids, and attention_mask: 1 for a token, 0 for padding."""

    input_ids: Any
    attention_mask: Any


def clean_text(text: str) -> str:
    """Removes control characters, separates ideographs, normalises (NFC), lower-cases, and joins white space."""
    kept = []
    for character in text:
        point = ord(character)
        if character in "\t\n\r" or unicodedata.category(character) == "Zs":
            kept.append(" ")
        elif point in (0, 0xFFFD) or unicodedata.category(character).startswith("C"):
            continue
        elif any(low <= point <= high for low, high in CJK_RANGES):
            kept.append(f" {character} ")
        else:
            kept.append(character)
    words = unicodedata.normalize("NFC", "".join(kept)).split()
    # In transformers' word pattern, which ignores case, an iota subscript is both a letter and none: it is lost.
    return " ".join(word.lower() for word in words).replace("\u0345", " ")


class CLIPTokenizer:
    """Prompts to token ids: those of transformers' ``CLIPTokenizer`` in an environment without ftfy.

    Args:
        vocab: token -> id.
        merges: pairs of tokens in order of rank.
        model_max_length: tokens that a prompt is padded or cut to.
        special_tokens: bos_token, eos_token, unk_token, pad_token; by default CLIP's.
    """

    def __init__(
        self,
        vocab: dict[str, int],
        merges: Sequence[tuple[str, str]],
        model_max_length: int = CLIP_LENGTH,
        **special_tokens: str,
    ) -> None:
        names = {**SPECIAL_DEFAULTS, **special_tokens}
        missing = {key: token for key, token in names.items() if token not in vocab}
        if missing:
            raise ValueError(f"The vocabulary lacks the special tokens {missing}.")
        self.bos_token, self.eos_token, self.unk_token, self.pad_token = (names[key] for key in SPECIAL_DEFAULTS)
        self.bos_token_id, self.eos_token_id = vocab[self.bos_token], vocab[self.eos_token]
        self.pad_token_id = vocab[self.pad_token]
        self.model_max_length = model_max_length
        self._vocab, self._merges = dict(vocab), list(merges)
        self._tokens = {index: token for token, index in vocab.items()}
        longest_first = sorted(set(names.values()), key=len, reverse=True)
        self._special = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")")
        self._bpe = Tokenizer(
            models.BPE(self._vocab, self._merges, unk_token=self.unk_token, end_of_word_suffix=END_OF_WORD)
        )
        self._bpe.pre_tokenizer = BYTES
        self._bpe.decoder = decoders.ByteLevel()

    @property
    def vocab_size(self) -> int:
        return len(self._vocab)

    def encode(self, text: str) -> list[int]:
        """One prompt -> [start, tokens..., end], of any length."""
        if not isinstance(text, str):
            raise TypeError(f"a prompt is a string, given {type(text).__name__}: {text!r}.")
        ids = []
        for piece in self._special.split(text):
            if self._special.fullmatch(piece):
                ids.append(self._vocab[piece])
                continue
            for word, _ in WORDS.pre_tokenize_str(clean_text(piece)):
                is_marker = word in MARKERS and word in self._vocab
                ids += [self._vocab[word]] if is_marker else self._bpe.encode(word).ids
        return [self.bos_token_id, *ids, self.eos_token_id]

    def __call__(
        self,
        text: Union[str, Sequence[str]],
        padding: Union[bool, str] = False,
        truncation: bool = False,
        max_length: Optional[int] = None,
        return_tensors: Optional[str] = None,
    ) -> TokenizerOutput:
        """Prompts -> ids, with transformers' arguments.

        Args:
            text: a prompt or a list of prompts.
            padding: False; True or "longest" (to the longest prompt); "max_length".
            truncation: cut to ``max_length``, keeping the end token.
            max_length: None: ``model_max_length``.
            return_tensors: "np" for int64 arrays (batch, length); None for lists.
        """
        if return_tensors not in (None, "np"):
            raise ValueError(f"return_tensors is {return_tensors!r}; it must be 'np' or None.")
        if padding not in (False, True, "longest", "max_length", "do_not_pad"):
            raise ValueError(f"padding is {padding!r}; it must be False, True, 'longest' or 'max_length'.")
        single = isinstance(text, str)
        limit = max_length or self.model_max_length
        rows = [self.encode(prompt) for prompt in ([text] if single else text)]
        if truncation:
            rows = [row if len(row) <= limit else [*row[: limit - 1], self.eos_token_id] for row in rows]
        length = {False: 0, "do_not_pad": 0, "max_length": limit}.get(padding, max(map(len, rows), default=0))
        masks = [[1] * len(row) + [0] * (length - len(row)) for row in rows]
        rows = [row + [self.pad_token_id] * (length - len(row)) for row in rows]
        if return_tensors == "np":
            if len({len(row) for row in rows}) > 1:
                raise ValueError("prompts of different lengths make no array: pass padding=True.")
            return TokenizerOutput(np.array(rows, np.int64), np.array(masks, np.int64))
        return TokenizerOutput(rows[0], masks[0]) if single else TokenizerOutput(rows, masks)

    def decode(self, token_ids: Iterable[int], skip_special_tokens: bool = False) -> str:
        """Ids -> the cleaned text."""
        names = [self._tokens[int(index)] for index in token_ids]
        if skip_special_tokens:
            names = [name for name in names if not self._special.fullmatch(name)]
        # The byte decoder knows no spaces; the ends of words pass through it.
        return self._bpe.decoder.decode(names).replace(END_OF_WORD, " ").strip()

    def batch_decode(self, sequences: Iterable[Iterable[int]], skip_special_tokens: bool = False) -> list[str]:
        """``decode`` for each of ``sequences``."""
        return [self.decode(ids, skip_special_tokens) for ids in sequences]

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Union[str, os.PathLike], subfolder: str = "", **hub_options: Any
    ) -> "CLIPTokenizer":
        """Reads vocab.json and merges.txt, or tokenizer.json; and tokenizer_config.json if it exists.

        Raises:
            FileNotFoundError: neither form is in the folder.
            ValueError: a file is invalid.
        """
        folder = hub.resolve(pretrained_model_name_or_path, [subfolder], **hub_options) / subfolder
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            vocab = read_json(folder / "vocab.json")
            lines = (folder / "merges.txt").read_text(encoding="utf-8").strip().split("\n")
            merges = pairs(line for line in lines if line and not line.startswith("#version"))
        elif (folder / "tokenizer.json").is_file():
            vocab, merges = _read_tokenizer_json(folder / "tokenizer.json")
        else:
            raise FileNotFoundError(f"{folder} holds neither vocab.json with merges.txt nor tokenizer.json.")
        if any(len(pair) != 2 for pair in merges):
            raise ValueError(f"a merge in {folder} is not a pair of tokens.")
        files = [folder / "special_tokens_map.json", folder / "tokenizer_config.json"]
        config = {key: value for file in files if file.is_file() for key, value in read_json(file).items()}
        special = {key: config[key] for key in SPECIAL_DEFAULTS if config.get(key) is not None}
        # An object has the text of a token as its content.
        special = {key: token["content"] if isinstance(token, dict) else token for key, token in special.items()}
        length = config.get("model_max_length", CLIP_LENGTH)
        return cls(vocab, merges, int(length) if length < NO_LENGTH else CLIP_LENGTH, **special)

    def save_pretrained(self, save_directory: Union[str, os.PathLike]) -> None:
        """Writes the four files that transformers' CLIPTokenizer reads."""
        folder = Path(save_directory)
        special = {key: getattr(self, key) for key in SPECIAL_DEFAULTS}
        lines = ["#version: 0.2", *(" ".join(pair) for pair in self._merges)]
        write_json(folder / "vocab.json", self._vocab)
        write_atomically(folder / "merges.txt", ("\n".join(lines) + "\n").encode())
        write_json(folder / "special_tokens_map.json", special)
        config = {"tokenizer_class": type(self).__name__, "model_max_length": self.model_max_length, **special}
        write_json(folder / "tokenizer_config.json", config)


def pairs(merges: Iterable[Union[str, Sequence[str]]]) -> list[tuple[str, ...]]:
    """Merges as tuples. Older releases write a pair as one string; no token has a space in it."""
    return [tuple(pair.split() if isinstance(pair, str) else pair) for pair in merges]


def _read_tokenizer_json(path: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    content = read_json(path)
    model = content.get("model") or {}
    if model.get("type", "BPE") != "BPE" or "vocab" not in model or "merges" not in model:
        raise ValueError(f"{path} does not hold a byte-pair encoding (model of type {model.get('type')!r}).")
    vocab = dict(model["vocab"])
    vocab.update({token["content"]: token["id"] for token in content.get("added_tokens", [])})
    return vocab, pairs(model["merges"])
