"""Trainings from beginning to end: that they learn, and what they leave behind."""

import numpy as np
import pytest
from PIL import Image

from mindone_vq import VQDiffusionPipeline, VQModel
from mindone_vq.training import updates
from mindone_vq.training.checkpoint import latest_checkpoint
from mindone_vq.training.updates import NotFiniteError
from mindone_vq.weights.safetensors_file import read_safetensors
from tests.compilation import compiled_graphs
from tests.training import tiny_runs as tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    return str(tiny.make_codec(tmp_path_factory.mktemp("codec") / "vqvae"))


@pytest.mark.slow
def test_captioned_pictures_are_learned_by_heart(data, codec, tmp_path):
    settings = tiny.text_settings(
        data,
        tmp_path / "run",
        vqvae=codec,
        steps=300,
        batch_size=32,
        learning_rate=5e-3,
        schedule="constant",
        weight_decay=0.0,
        ema_decay=0.9,
        ema_every=1,
        preview_every=150,
        preview_steps=5,
        log_every=50,
        save_every=1000,
    )
    training, graphs = tiny.text_training(settings), []
    codes = training.codes
    assert len(np.unique(codes, axis=0)) == 8
    advance = training.advance
    training.advance = lambda: (advance(), graphs.append(compiled_graphs()))[0]
    training.run()

    pipe = VQDiffusionPipeline.from_pretrained(tmp_path / "run")
    pipe.set_progress_bar_config(disable=True)
    assert pipe.default_settings == {"guidance_scale": 2.0, "truncation_rate": 0.86}  # of the previews
    drawn = pipe(tiny.CAPTIONS, 5, guidance_scale=1.0, truncation_rate=0.3, generator=1, output_type="latent")[0]
    np.testing.assert_array_equal(drawn.reshape(codes.shape), codes)
    assert tiny.column(tmp_path / "run", "loss")[-1] < 0.2 * tiny.column(tmp_path / "run", "loss")[0]
    # The preview compiles its four graphs, once; nothing of the training is compiled again.
    assert set(graphs[:150]) == {graphs[0]}
    assert set(graphs[150:]) == {graphs[0] + 4}
    assert sorted(path.name for path in (tmp_path / "run" / "previews").iterdir()) == [
        "prompts-150.png",
        "prompts-300.png",
    ]


@pytest.fixture(scope="module")
def codec_run(data, tmp_path_factory):
    """A VQ-VAE trained for long enough to see that it learns; its folder, and graphs compiled at each step."""
    folder, graphs = tmp_path_factory.mktemp("codec") / "run", []
    settings = tiny.codec_settings(data, folder, steps=200, learning_rate=3e-3, log_every=20, preview_every=100)
    training = tiny.codec_training(settings)
    advance = training.advance
    training.advance = lambda: (advance(), graphs.append(compiled_graphs()))[0]
    training.run()
    return folder, graphs, training


def test_a_codec_learns_to_reconstruct(codec_run, data):
    folder, graphs, training = codec_run
    l2 = tiny.column(folder, "l2")
    assert l2[-1] < 0.4 * l2[0]
    assert set(graphs) == {graphs[0]}  # the preview has compiled nothing again
    assert tiny.column(folder, "codebook_usage")[-1] >= 0.25
    assert tiny.column(folder, "codebook_perplexity")[-1] > 4
    assert tiny.column(folder, "psnr")[-1] == pytest.approx(10 * np.log10(4 / l2[-1]), abs=0.3)
    assert Image.open(folder / "previews" / "reconstructions-200.png").size[0] > 8 * tiny.SIDE

    saved = VQModel.from_pretrained(folder)
    assert tiny.same(tiny.weights(saved), tiny.weights(training.model))


def test_a_codec_without_a_codebook_at_first_and_with_a_loss_for_it(data, tmp_path):
    settings = tiny.codec_settings(
        data,
        tmp_path / "run",
        steps=60,
        learning_rate=3e-3,
        codebook="loss",
        quantize_from=30,
        ema_decay=0.999,
        beta2=0.99,
    )
    training, started = tiny.codec_training(settings), []
    start = training._start_codebook
    training._start_codebook = lambda: (start(), started.append((training.step, *codebooks(training))))
    training.run()
    ((step, codebook, average),) = started
    assert step == 30
    np.testing.assert_array_equal(codebook, average)  # what is saved does not remember the codebook before
    commitment = tiny.column(tmp_path / "run", "commitment")
    assert not any(commitment[:30])
    assert all(commitment[30:])
    l2 = tiny.column(tmp_path / "run", "l2")
    assert l2[-1] < l2[0]
    assert tiny.column(tmp_path / "run", "codebook_usage")[-1] >= 0.25
    assert not np.array_equal(codebooks(training)[0], codebook)  # it is trained on


def codebooks(training):
    """The trained codebook and its running average."""
    average = training.updates.average
    names = [parameter.name for parameter in average.parameters]
    position = names.index(training.codebook.name)
    return training.codebook.asnumpy().copy(), average.averages[position].asnumpy().copy()


def test_a_loss_that_is_not_finite_ends_the_run_in_one_line(data, tmp_path):
    settings = tiny.codec_settings(data, tmp_path / "run", learning_rate=1e30, schedule="constant", save_every=1)
    code, said = tiny.finish(tiny.CODEC_EXAMPLE, settings)
    assert code == 1
    last = said.strip().splitlines()[-1]
    assert last.startswith("NotFiniteError: step ")
    assert "Nothing was changed by this step" in last
    assert "lower learning rate" in last
    assert "Traceback" not in said
    for path in (tmp_path / "run" / "checkpoints").iterdir():
        for name, tensor in read_safetensors(path).items():
            assert np.isfinite(tensor.read_stored()).all(), (path, name)
    assert latest_checkpoint(tmp_path / "run" / "checkpoints") is not None
    assert not (tmp_path / "run" / "config.json").exists()  # no model of it


@pytest.mark.slow
def test_float16_skips_what_overflows_and_goes_on(data, codec, tmp_path, monkeypatch):
    monkeypatch.setattr(updates, "FIRST_SCALE", 2.0**40)
    settings = tiny.text_settings(data, tmp_path / "run", vqvae=codec, steps=40, precision="float16", accumulation=2)
    training = tiny.text_training(settings)
    before = tiny.weights(training.pipe.transformer)
    training.run()
    skipped, losses = tiny.column(tmp_path / "run", "skipped"), tiny.column(tmp_path / "run", "loss")
    norms = tiny.column(tmp_path / "run", "gradient_norm")
    assert skipped[0] == 1
    assert 1 < skipped[-1] == training.updates.skipped < 40
    assert [norm is None for norm in norms].count(True) == skipped[-1]  # null in the log
    assert np.isfinite(losses).all()
    after = tiny.weights(training.pipe.transformer)
    assert not tiny.same(before, after)
    assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in after.values())


def test_a_codebook_forgets_no_step_that_was_skipped(data, codec, tmp_path):
    model = VQModel.from_pretrained(codec)
    last = model.encoder.conv_out.weight
    last.set_data(last * 1e6)  # beyond what float16 holds
    model.save_pretrained(tmp_path / "codec")
    settings = tiny.codec_settings(
        data, tmp_path / "run", model_from=str(tmp_path / "codec"), steps=40, precision="float16"
    )
    training = tiny.codec_training(settings)
    before = training.codebook.asnumpy().copy()
    with pytest.raises(NotFiniteError, match="Nothing was changed"):
        training.run()
    np.testing.assert_array_equal(training.codebook.asnumpy(), before)
