"""Token ids against transformers' CLIPTokenizer, with the vocabulary of the real CLIP."""

import gzip
import importlib.util
import json
import unicodedata
from pathlib import Path

import pytest
from transformers import CLIPTokenizer as TorchTokenizer
from transformers import CLIPTokenizerFast
from transformers.models.clip.tokenization_clip import bytes_to_unicode

from mindone_vq import CLIPTokenizer
from tests.parity.peers import without_ftfy

# fmt: off
FRAGMENTS = [
    "a photo", "It's", "we'll", "they'VE", "'S", "''s", "I'M", "don't", "!!!", "cat!", "1234", "3.14", "x²", "½", "①",
    "<|endoftext|>", "<|STARTOFTEXT|>", "<|startoftext|>", "<|start\x00oftext|>", "…", "—", "'ſ", "a" * 300,
    "日本語", "한국어", "ＦＵＬＬ", "ﬁ", "İstanbul", "ΣΊΣΥΦΟΣ", "é", "e\u0301", "नमस्ते", "ไทย", "שלום", "مرحبا",
    "👩‍👩‍👧", "🙂", "\U0001f9ff", "\U000e0041", "𝔘𝔫𝔦", "\U00020000", "々", "〇", "ー", "ǅ", "ß", "ẞ",
    "\x00", "\x07", "\u200b", "\u00a0", "\ufeff", "\t\n", "\u2028", "\x85", "\x1c", "\u00ad", "\u3000", "\u0345",
]
# fmt: on


@pytest.fixture(scope="module", params=["<|endoftext|>", "!"], ids=["padded with the end", "padded with !"])
def tokenizers(request, tmp_path_factory):
    """Both tokenizers on the 49,408 tokens of CLIP; "!" is the padding of the published VQ-Diffusion."""
    folder = tmp_path_factory.mktemp("clip")
    package = Path(importlib.util.find_spec("open_clip").submodule_search_locations[0])
    lines = gzip.decompress((package / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode().split("\n")
    merges = lines[1 : 49152 - 256 - 2 + 1]
    letters = list(bytes_to_unicode().values())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(merge.split()) for merge in merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    assert len(tokens) == 49408
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": request.param, "model_max_length": 77}))
    theirs = without_ftfy(TorchTokenizer.from_pretrained(folder))
    return CLIPTokenizer.from_pretrained(folder), theirs, folder


def texts(rng, count):
    for i in range(count):
        if i % 2:
            picked = rng.choice(FRAGMENTS, rng.integers(0, 14))
            yield "".join(fragment + " " * rng.integers(0, 3) for fragment in picked)
        else:
            ranges = [(32, 127), (32, 0x250), (0x250, 0xD800), (0xE000, 0x1FFFF)]
            picked = (ranges[j] for j in rng.integers(0, 4, rng.integers(0, 30)))
            yield "".join(chr(rng.integers(low, high)) for low, high in picked)


def test_ids_and_decoded_text_agree_on_varied_strings(tokenizers, rng):
    ours, theirs, _ = tokenizers
    for text in texts(rng, 1000):
        ids = theirs(text).input_ids
        assert ours.encode(text) == ids, repr(text)
        assert ours.decode(ids) == theirs.decode(ids), repr(text)
        assert ours.decode(ids, skip_special_tokens=True) == theirs.decode(ids, skip_special_tokens=True), repr(text)


@pytest.mark.parametrize("tokenizers", ["<|endoftext|>"], indirect=True)
def test_ids_agree_on_every_kind_of_character(tokenizers):
    ours, theirs, _ = tokenizers
    points = [*range(0xD800), *range(0xE000, 0x20000, 3), *range(0x20000, 0x110000, 997)]
    points = [point for point in points if unicodedata.category(chr(point)) != "Cn" or point % 50 == 0]
    for start in range(0, len(points), 100):
        text = " ".join(f"a{chr(point)}b {chr(point)}" for point in points[start : start + 100])
        assert ours.encode(text) == theirs(text).input_ids, hex(points[start])


def test_padding_and_cutting_agree(tokenizers):
    ours, theirs, _ = tokenizers
    prompts = ["a cat", "a " + "very " * 100 + "long prompt", ""]
    options = dict(padding="max_length", truncation=True, max_length=77, return_tensors="np")
    expected = theirs(prompts, **options)
    result = ours(prompts, **options)
    assert (result.input_ids == expected.input_ids).all()
    assert (result.attention_mask == expected.attention_mask).all()
    assert result.input_ids[1, -1] == ours.eos_token_id


def test_tokenizer_json_alone_is_enough(tokenizers, tmp_path):
    ours, _, folder = tokenizers
    CLIPTokenizerFast.from_pretrained(folder).save_pretrained(tmp_path)
    (tmp_path / "vocab.json").unlink(missing_ok=True)
    (tmp_path / "merges.txt").unlink(missing_ok=True)
    assert (tmp_path / "tokenizer.json").is_file()
    from_json = CLIPTokenizer.from_pretrained(tmp_path)
    for text in FRAGMENTS:
        assert from_json.encode(text) == ours.encode(text)
    assert from_json.pad_token_id == ours.pad_token_id
