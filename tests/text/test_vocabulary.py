import numpy as np
import pytest
from tokenizers import Regex, pre_tokenizers

from mindone_vq import CLIPTokenizer
from mindone_vq.demo.shapes import caption, random_scene
from mindone_vq.text.tokenizer import WORD, clean_text
from mindone_vq.text.vocabulary import train_tokenizer


@pytest.fixture(scope="module")
def captions():
    rng = np.random.default_rng(0)
    return [caption(random_scene(rng), rng) for _ in range(2000)]


@pytest.fixture(scope="module")
def tokenizer(captions):
    return train_tokenizer(captions, model_max_length=32)


def test_every_byte_has_its_number_and_the_markers_come_last(tokenizer):
    vocab = tokenizer._vocab
    assert sorted(vocab.values()) == list(range(len(vocab)))
    assert (vocab["!"], vocab["!</w>"], vocab["a"], vocab["a</w>"]) == (0, 256, 64, 320)  # as in CLIP
    assert tokenizer.bos_token_id == len(vocab) - 2
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == len(vocab) - 1
    assert tokenizer("a ring", padding="max_length", return_tensors="np").input_ids.shape == (1, 32)


def test_frequent_words_are_one_token(tokenizer, captions):
    words = {word for text in captions for word in clean_text(text).replace(",", " ").split()}
    assert len(words) > 30
    for word in words:
        assert len(tokenizer.encode(word)) == 3, word
    assert len(tokenizer.encode("zebra")) > 3


def test_any_text_is_encoded_and_comes_back(tokenizer, rng):
    split = pre_tokenizers.Split(Regex(WORD), behavior="removed", invert=True)
    ranges = [(0, 0x80), (0x80, 0x800), (0x800, 0xD800), (0xE000, 0x110000)]
    for _ in range(1000):
        picked = (ranges[i] for i in rng.integers(0, 4, rng.integers(0, 30)))
        text = "".join(chr(rng.integers(low, high)) for low, high in picked)
        ids = tokenizer.encode(text)
        assert tokenizer.eos_token_id not in ids[:-1]  # which is also the unknown token
        words = [word for word, _ in split.pre_tokenize_str(clean_text(text))]
        assert tokenizer.decode(ids, skip_special_tokens=True) == " ".join(words), repr(text)


def test_the_same_captions_give_the_same_vocabulary_in_any_order(rng):
    # Words of random letters come equally often, and their pairs too: it is ties that are tried here.
    words = ["".join(rng.choice(list("abcdeéü!?"), 5)) for _ in range(300)] * 2
    first = train_tokenizer(words, vocab_size=700)
    for _ in range(5):
        again = train_tokenizer(list(rng.permutation(words)), vocab_size=700)
        assert again._vocab == first._vocab
        assert again._merges == first._merges


def test_the_size_asked_for_is_kept(captions):
    assert train_tokenizer(captions, vocab_size=514).vocab_size == 514
    assert train_tokenizer(captions, vocab_size=530).vocab_size == 530
    assert train_tokenizer(["a ring"], vocab_size=600).vocab_size == 514


def test_letters_of_markers_do_not_count():
    plain = train_tokenizer(["a ring", "a ring"])
    marked = train_tokenizer(["a <|endoftext|>ring", "<|STARTOFTEXT|> a ring <|endoftext|>"])
    assert marked._vocab == plain._vocab


def test_it_is_saved_and_loaded(tokenizer, captions, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    again = CLIPTokenizer.from_pretrained(tmp_path)
    for text in [*captions[:200], "Ünïcode, 日本!", ""]:
        assert again.encode(text) == tokenizer.encode(text)
    assert (again.model_max_length, again.pad_token_id) == (32, tokenizer.pad_token_id)


@pytest.mark.parametrize(
    "captions, vocab_size, error, said",
    [
        (["a"], 513, ValueError, "vocab_size is 513; it must be at least 514"),
        ([], 1024, ValueError, "captions is empty"),
        ("a red ring", 1024, TypeError, "captions is one string, 'a red ring'"),
        (["a", 7], 1024, TypeError, "a caption is a string, given int: 7"),
    ],
)
def test_what_cannot_be_trained_on_is_refused(captions, vocab_size, error, said):
    with pytest.raises(error, match=said):
        train_tokenizer(captions, vocab_size)
