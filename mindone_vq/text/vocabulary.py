"""Training a tokenizer for a text encoder that is trained from scratch."""

import json
from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from mindone_vq.text.tokenizer import BYTES, CLIP_LENGTH, END_OF_WORD, MARKERS, WORDS, CLIPTokenizer, clean_text, pairs

# Each byte within a word and at its end, and the two markers: with these any text can be encoded.
MIN_VOCAB_SIZE = 2 * 256 + len(MARKERS)
# A pair of tokens that occurs once is more likely a name or a typing error than a part of a word.
MIN_FREQUENCY = 2


def train_tokenizer(
    captions: Iterable[str], vocab_size: int = 1024, model_max_length: int = CLIP_LENGTH
) -> CLIPTokenizer:
    """Learns a byte-pair vocabulary in the form of CLIP's from captions.

    Captions are cleaned and split into words as ``CLIPTokenizer`` does it. Tokens are numbered as in CLIP: bytes, bytes
    at the end of a word, merged pairs by frequency, start, end; the end token also pads. The same captions give the
    same vocabulary in any order.

    Args:
        captions: texts such as the model will be prompted with; iterated once.
        vocab_size: maximum number of tokens, 514 or more; there are fewer if the captions hold too few pairs.
            transformers' ``CLIPTokenizer`` reads at most CLIP's own 49,408.
        model_max_length: tokens that a prompt is padded or cut to, including start and end.

    Raises:
        TypeError: ``captions`` is one string, or an element is not a string.
        ValueError: ``vocab_size`` is too small, or there is no caption.
    """
    if vocab_size < MIN_VOCAB_SIZE:
        raise ValueError(
            f"vocab_size is {vocab_size}; it must be at least {MIN_VOCAB_SIZE}: one token for each byte, one for each "
            f"byte at the end of a word, and {len(MARKERS)} markers."
        )
    if isinstance(captions, str):
        raise TypeError(f"captions is one string, {captions[:40]!r}; give a list of strings.")
    # The trainer numbers letters as it meets them, which differs from run to run, and breaks ties by number. Special
    # tokens it numbers first and in order: with all letters among them, their numbers are fixed.
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # by code point, as in CLIP
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(MARKERS),
        min_frequency=MIN_FREQUENCY,
        special_tokens=[*letters, *(letter + END_OF_WORD for letter in letters)],
        end_of_word_suffix=END_OF_WORD,
        show_progress=False,
    )
    bpe = Tokenizer(models.BPE(end_of_word_suffix=END_OF_WORD))
    bpe.pre_tokenizer = pre_tokenizers.Sequence([WORDS, BYTES])
    bpe.train_from_iterator(_cleaned(captions), trainer)
    learned = json.loads(bpe.to_str())["model"]
    tokens = [*sorted(learned["vocab"], key=learned["vocab"].get), *MARKERS]
    return CLIPTokenizer({token: i for i, token in enumerate(tokens)}, pairs(learned["merges"]), model_max_length)


def _cleaned(captions: Iterable[str]) -> Iterator[str]:
    """The captions without markers: these are tokens, and their letters must not count."""
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
