"""A vocabulary of one's own, for a text encoder that is trained from scratch."""

import json
from collections.abc import Iterable, Iterator

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from mindone_vq.text.tokenizer import CLIP_LENGTH, END_OF_WORD, MARKERS, WORD, CLIPTokenizer, clean_text

# Each byte inside a word and at its end, and the two markers: with these any text can be encoded.
ALWAYS_THERE = 2 * 256 + len(MARKERS)
# A pair of tokens that comes but once is more likely a name or a typing error than a part of a word.
LEAST_FREQUENCY = 2


def train_tokenizer(
    captions: Iterable[str], vocab_size: int = 1024, model_max_length: int = CLIP_LENGTH
) -> CLIPTokenizer:
    """Learns a byte-pair vocabulary in CLIP's form from captions.

    Captions are cleaned and split into words as ``CLIPTokenizer`` does it, and the pairs of tokens that come most
    often in them are joined, the more frequent first. Tokens are numbered as CLIP numbers them: bytes, bytes at the
    end of a word, joined pairs, start, end; what is padded is padded with the end. The same captions give the same
    vocabulary, in whatever order they come.

    Args:
        captions: texts such as the model will be prompted with; gone through once.
        vocab_size: most tokens to have, 514 or more; fewer come out where the captions hold too few pairs.
            transformers' ``CLIPTokenizer`` reads a vocabulary whole up to CLIP's own 49,408.
        model_max_length: tokens that a prompt is padded or cut to, start and end among them.

    Raises:
        TypeError: ``captions`` is one string, or holds what is no string.
        ValueError: ``vocab_size`` is too small, or there is no caption.
    """
    if vocab_size < ALWAYS_THERE:
        raise ValueError(
            f"vocab_size is {vocab_size}; it must be at least {ALWAYS_THERE}: {ALWAYS_THERE - len(MARKERS)} for single "
            f"bytes and {len(MARKERS)} markers are always there."
        )
    if isinstance(captions, str):
        raise TypeError(f"captions is one string, {captions[:40]!r}; give a list of strings.")
    bpe, trainer = _untrained(vocab_size - len(MARKERS))
    bpe.train_from_iterator(_cleaned(captions), trainer)
    learned = json.loads(bpe.to_str())["model"]
    # Older releases of tokenizers write a pair as one string; no token has a space in it.
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in learned["merges"]]
    tokens = [*sorted(learned["vocab"], key=learned["vocab"].get), *MARKERS]
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, merges, model_max_length)


def _untrained(size: int) -> tuple[Tokenizer, trainers.BpeTrainer]:
    """An empty model that splits as ``CLIPTokenizer`` does, and what trains it to ``size`` tokens."""
    # The trainer numbers the letters that it meets as it meets them, which differs from run to run, and breaks ties by
    # number. Special tokens it numbers first and in order: given as such, all letters have their numbers beforehand.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # by code point, which is CLIP's order
    letters += [letter + END_OF_WORD for letter in letters]
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=LEAST_FREQUENCY,
        special_tokens=letters,
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    bpe = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return bpe, trainer


def _cleaned(captions: Iterable[str]) -> Iterator[str]:
    """The captions without their markers, which are tokens as they are: their letters must not count."""
    empty = True
    for caption in captions:
        if not isinstance(caption, str):
            raise TypeError(f"a caption is a string, given {type(caption).__name__}: {caption!r}.")
        empty = False
        text = clean_text(caption)
        for marker in MARKERS:
            text = text.replace(marker, " ")
        yield text
    if empty:
        raise ValueError("captions is empty; give at least one.")
