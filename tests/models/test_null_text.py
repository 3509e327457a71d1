import pytest

from mindone_vq import LearnedClassifierFreeSamplingEmbeddings


def test_a_learned_null_text_needs_its_size():
    with pytest.raises(ValueError, match="hidden_size and length"):
        LearnedClassifierFreeSamplingEmbeddings(learnable=True)


def test_without_one_there_are_no_weights(tmp_path):
    null = LearnedClassifierFreeSamplingEmbeddings(learnable=False)
    null.save_pretrained(tmp_path)
    loaded = LearnedClassifierFreeSamplingEmbeddings.from_pretrained(tmp_path)
    assert loaded.embeddings is None
    assert not loaded.learnable
