"""A vocabulary trained here, read by transformers."""

import numpy as np
from transformers import CLIPTokenizer as TorchTokenizer
from transformers import CLIPTokenizerFast

from mindone_vq.demo.shapes import caption, random_scene
from mindone_vq.text.vocabulary import train_tokenizer
from tests.parity.peers import without_ftfy
from tests.parity.test_tokenizer import texts


def test_transformers_reads_a_trained_vocabulary_and_gives_the_same_ids(tmp_path, rng):
    captions = [caption(random_scene(rng), rng) for _ in range(500)]
    ours = train_tokenizer(captions + list(texts(rng, 500)), vocab_size=1200, model_max_length=40)
    assert ours.vocab_size == 1200
    ours.save_pretrained(tmp_path)
    theirs = without_ftfy(TorchTokenizer.from_pretrained(tmp_path))
    assert (theirs.model_max_length, theirs.pad_token_id) == (40, ours.pad_token_id)
    for text in [*captions, *texts(rng, 1000)]:
        assert ours.encode(text) == theirs(text).input_ids, repr(text)
    options = dict(padding="max_length", truncation=True, return_tensors="np")
    assert np.array_equal(ours(captions, **options).input_ids, theirs(captions, **options).input_ids)
    # The fast one cleans non-English text otherwise; on plain captions all three agree.
    fast = CLIPTokenizerFast.from_pretrained(tmp_path)
    assert [fast(text).input_ids for text in captions] == [ours.encode(text) for text in captions]
