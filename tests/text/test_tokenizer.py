import shutil

import numpy as np
import pytest

from mindone_vq import CLIPTokenizer
from mindone_vq.text.tokenizer import clean_text
from tests.shapes32_model import MODEL


@pytest.fixture
def tokenizer():
    return CLIPTokenizer.from_pretrained(MODEL / "tokenizer")


def test_a_prompt_starts_and_ends_and_is_padded_as_configured(tokenizer):
    tokens = tokenizer(["a red ring", ""], padding="max_length", return_tensors="np")
    assert tokens.input_ids.shape == tokens.attention_mask.shape == (2, 12)
    assert tokens.input_ids[0, 0] == tokenizer.bos_token_id
    assert tokens.input_ids[1].tolist() == [590] + [591] * 11
    assert tokens.attention_mask.sum(1).tolist() == [5, 2]


def test_case_and_white_space_do_not_matter(tokenizer):
    assert tokenizer.encode("  A\tRED \n ring ") == tokenizer.encode("a red ring")


def test_text_comes_back(tokenizer):
    ids = tokenizer.encode("A large Blue diamond, 日本!")
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a large blue diamond , 日 本 !"
    assert tokenizer.batch_decode([ids])[0].startswith("<|startoftext|>")


def test_cutting_keeps_the_end_token(tokenizer):
    ids = tokenizer("word " * 50, truncation=True).input_ids
    assert len(ids) == 12
    assert ids[-1] == tokenizer.eos_token_id


def test_cleaning_drops_what_cannot_be_seen():
    assert clean_text("A\x00b\u200b  C\u00a0日本\ufeff") == "ab c 日 本"


def test_padding_to_the_longest(tokenizer):
    tokens = tokenizer(["a ring", "a large ring"], padding=True)
    assert [len(row) for row in tokens.input_ids] == [5, 5]
    with pytest.raises(ValueError, match="different lengths"):
        tokenizer(["a ring", "a large ring"], return_tensors="np")


@pytest.mark.parametrize("options", [dict(return_tensors="pt"), dict(padding="left")])
def test_unknown_options_are_refused(tokenizer, options):
    with pytest.raises(ValueError, match="must be"):
        tokenizer("a", **options)


def test_what_is_no_string_is_refused(tokenizer):
    with pytest.raises(TypeError, match="a prompt is a string"):
        tokenizer.encode(7)


def test_missing_files_and_a_poor_vocabulary_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"neither vocab\.json"):
        CLIPTokenizer.from_pretrained(tmp_path)
    shutil.copy(MODEL / "tokenizer" / "merges.txt", tmp_path)
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    with pytest.raises(ValueError, match="lacks the special tokens"):
        CLIPTokenizer.from_pretrained(tmp_path)


def test_a_tokenizer_is_saved_and_loaded(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    assert again.encode("a small cyan cross!") == tokenizer.encode("a small cyan cross!")
    assert (again.model_max_length, again.pad_token) == (tokenizer.model_max_length, tokenizer.pad_token)
    assert np.array_equal(again("a", return_tensors="np").input_ids, tokenizer("a", return_tensors="np").input_ids)
