"""Pipelines that are trained further."""

import json

import numpy as np
import pytest
from mindspore.mindrecord import FileWriter

from mindone_vq import VQDiffusionPipeline
from tests.tiny_pipeline import random_pipeline
from tests.training import tiny_runs as tiny

NULL = "learned_classifier_free_sampling_embeddings"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Saved pipelines with a learned null text and without."""
    made = {}
    for learned in (True, False):
        made[learned] = tmp_path_factory.mktemp("pipelines") / str(learned)
        random_pipeline(np.random.default_rng(3), learned_null=learned).save_pretrained(made[learned])
    return made


def settings(data, folder, output, **others):
    few = {"steps": 2, "schedule": "constant", "ema_decay": 0.0, "caption_dropout": 0.4, "seed": 1}
    return tiny.text_settings(data, output, model_from=str(folder), **{**few, **others})


def parts(folder):
    """The weights of each part of a saved pipeline."""
    pipe = VQDiffusionPipeline.from_pretrained(folder)
    return {name: tiny.weights(getattr(pipe, name)) for name in ("vqvae", "text_encoder", "transformer", NULL)}


def test_a_learned_null_text_starts_as_the_empty_caption(data, folders, tmp_path):
    training = tiny.text_training(settings(data, folders[False], tmp_path / "run"))
    learned = training.pipe.learned_classifier_free_sampling_embeddings
    empty, _ = VQDiffusionPipeline.from_pretrained(folders[False]).encode_prompt("", do_classifier_free_guidance=False)
    np.testing.assert_allclose(learned.embeddings.asnumpy(), empty.asnumpy()[0], atol=1e-6)
    assert any(parameter is learned.embeddings for parameter in training.updates.optimizer.parameters)


@pytest.mark.slow
def test_all_but_the_vqvae_is_trained_further(data, folders, tmp_path):
    training = tiny.text_training(settings(data, folders[False], tmp_path / "run"))
    null = training.pipe.learned_classifier_free_sampling_embeddings.embeddings.asnumpy().copy()
    training.run()
    before, after = parts(folders[False]), parts(tmp_path / "run")
    assert tiny.same(before["vqvae"], after["vqvae"])
    for name in ("text_encoder", "transformer"):
        assert before[name].keys() == after[name].keys()
        assert not tiny.same(before[name], after[name]), name
    assert not np.array_equal(null, after[NULL]["embeddings"])


@pytest.mark.slow
def test_a_frozen_text_encoder_and_no_learned_null_text(data, folders, tmp_path):
    given = settings(data, folders[False], tmp_path / "run", train_text_encoder=False, learned_null_text=False)
    training = tiny.run(tiny.text_training(given))
    assert not any("text" in parameter.name for parameter in training.updates.optimizer.parameters)
    before, after = parts(folders[False]), parts(tmp_path / "run")
    assert before[NULL] == after[NULL] == {}
    assert tiny.same(before["vqvae"], after["vqvae"])
    assert tiny.same(before["text_encoder"], after["text_encoder"])
    assert not tiny.same(before["transformer"], after["transformer"])


@pytest.mark.slow
def test_recomputing_and_mindrecord_change_no_number(data, folders, tmp_path):
    writer = FileWriter(str(tmp_path / "pictures.mindrecord"))
    writer.add_schema({"image": {"type": "bytes"}, "text": {"type": "string"}})
    lines = [json.loads(line) for line in (data / "metadata.jsonl").read_text().splitlines()]
    writer.write_raw_data([{"image": (data / line["file_name"]).read_bytes(), "text": line["text"]} for line in lines])
    writer.commit()
    tiny.run(tiny.text_training(settings(data, folders[True], tmp_path / "plain")))
    records = settings(tmp_path / "pictures.mindrecord", folders[True], tmp_path / "other", recompute=True)
    tiny.run(tiny.text_training(records))
    for name in ("loss", "gradient_norm"):
        expected = tiny.column(tmp_path / "plain", name)
        np.testing.assert_allclose(tiny.column(tmp_path / "other", name), expected, rtol=1e-6)


def test_a_size_that_does_not_fit_is_refused(data, folders, tmp_path):
    with pytest.raises(ValueError, match=r"size is 128; the transformer has \d+ x \d+ codes"):
        tiny.text_training(settings(data, folders[True], tmp_path / "run", size=128))
