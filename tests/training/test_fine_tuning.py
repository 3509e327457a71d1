"""Pipelines that are trained further, and what the data of a training may look like."""

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
    few = {"steps": 3, "schedule": "constant", "ema_decay": 0.0, "caption_dropout": 0.4, "seed": 1}
    return tiny.text_settings(data, output, model_from=str(folder), **{**few, **others})


def parts(folder):
    """The weights of each part of a saved pipeline."""
    pipe = VQDiffusionPipeline.from_pretrained(folder)
    return {name: tiny.weights(getattr(pipe, name)) for name in ("vqvae", "text_encoder", "transformer", NULL)}


@pytest.fixture(scope="module")
def tuned(data, folders, tmp_path_factory):
    """The folder of a run from a pipeline with a learned null text."""
    output = tmp_path_factory.mktemp("tuned") / "run"
    tiny.run(tiny.text_training(settings(data, folders[True], output)))
    return output


def test_all_but_the_vqvae_is_trained_further(folders, tuned):
    before, after = parts(folders[True]), parts(tuned)
    assert tiny.same(before["vqvae"], after["vqvae"])
    for name in ("text_encoder", "transformer", NULL):
        assert before[name].keys() == after[name].keys()
        assert not tiny.same(before[name], after[name]), name


def test_a_frozen_text_encoder_and_no_learned_null_text(data, folders, tmp_path):
    given = settings(data, folders[False], tmp_path / "run", train_text_encoder=False, learned_null_text=False)
    training = tiny.run(tiny.text_training(given))
    assert not any("text" in parameter.name for parameter in training.updates.optimizer.parameters)
    before, after = parts(folders[False]), parts(tmp_path / "run")
    assert before[NULL] == after[NULL] == {}
    assert tiny.same(before["vqvae"], after["vqvae"])
    assert tiny.same(before["text_encoder"], after["text_encoder"])
    assert not tiny.same(before["transformer"], after["transformer"])


def test_a_learned_null_text_starts_as_the_empty_caption(data, folders, tmp_path):
    training = tiny.text_training(settings(data, folders[False], tmp_path / "run"))
    learned = training.pipe.learned_classifier_free_sampling_embeddings
    empty, _ = VQDiffusionPipeline.from_pretrained(folders[False]).encode_prompt("", do_classifier_free_guidance=False)
    np.testing.assert_allclose(learned.embeddings.asnumpy(), empty.asnumpy()[0], atol=1e-6)
    assert any(parameter is learned.embeddings for parameter in training.updates.optimizer.parameters)


def test_recomputing_changes_no_number(data, folders, tuned, tmp_path):
    tiny.run(tiny.text_training(settings(data, folders[True], tmp_path / "run", steps=2, recompute=True)))
    for name in ("loss", "gradient_norm"):
        np.testing.assert_allclose(tiny.column(tmp_path / "run", name), tiny.column(tuned, name)[:2], rtol=1e-6)


def test_mindrecord_is_the_same_data(data, folders, tuned, tmp_path):
    writer = FileWriter(str(tmp_path / "pictures.mindrecord"))
    writer.add_schema({"image": {"type": "bytes"}, "text": {"type": "string"}})
    lines = [json.loads(line) for line in (data / "metadata.jsonl").read_text().splitlines()]
    writer.write_raw_data([{"image": (data / line["file_name"]).read_bytes(), "text": line["text"]} for line in lines])
    writer.commit()
    given = settings(tmp_path / "pictures.mindrecord", folders[True], tmp_path / "run", steps=1)
    tiny.run(tiny.text_training(given))
    assert tiny.column(tmp_path / "run", "loss") == pytest.approx(tiny.column(tuned, "loss")[:1], rel=1e-6)


@pytest.fixture
def bad_data(tmp_path):
    """The first picture ends in the middle, the second has no caption."""
    folder = tiny.make_pictures(tmp_path / "pictures")
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    lines[1] = json.dumps({"file_name": "1.png", "text": " "})
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def test_what_cannot_be_used_is_named_and_the_rest_trained_on(bad_data, tmp_path, caplog):
    vqvae = str(tiny.make_codec(tmp_path / "codec"))
    given = tiny.text_settings(bad_data, tmp_path / "run", vqvae=vqvae, steps=1)
    training = tiny.run(tiny.text_training(given))
    assert len(training.codes) == len(training.ids) == 6
    said = "1 of 8 entries was left out: 1 without a caption (1.png); 1 picture could not be decoded when read (0.png)"
    assert said in caplog.text
    assert caplog.text.count("left out") == 1
    again = tiny.text_training({**given, "resume": True})  # the codes come from their file
    np.testing.assert_array_equal(again.codes, training.codes)
    assert again.dataset.problems.summary() == training.dataset.problems.summary() == said


def test_a_codec_goes_past_what_cannot_be_decoded(bad_data, tmp_path, caplog):
    given = tiny.codec_settings(bad_data, tmp_path / "run", steps=2, preview_every=2)
    tiny.run(tiny.codec_training(given))
    assert np.isfinite(tiny.column(tmp_path / "run", "loss")).all()
    assert "1 picture could not be decoded when read (0.png)" in caplog.text
    assert (tmp_path / "run" / "previews" / "reconstructions-2.png").is_file()
