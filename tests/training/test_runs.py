"""Trainings from beginning to end: that they learn, and what they leave behind."""

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from mindone_vq import VQDiffusionPipeline, VQModel
from mindone_vq.pipelines.pretrained import PUBLISHED_SETTINGS
from mindone_vq.training.checkpoint import latest_checkpoint
from mindone_vq.training.data.codes import cached_codes
from mindone_vq.training.data.dataset import CaptionedPictures, open_dataset
from mindone_vq.training.devices import Devices
from mindone_vq.training.update import updates
from mindone_vq.training.update.updates import NotFiniteError
from mindone_vq.weights.safetensors_file import read_safetensors
from tests.compilation import compiled_graphs
from tests.training import tiny_runs as tiny


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The first picture cannot be decoded."""
    folder = tiny.make_pictures(tmp_path_factory.mktemp("data") / "pictures")
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes()[:60])
    return folder


@pytest.fixture(scope="module")
def vqvae(tmp_path_factory):
    return str(tiny.make_vqvae(tmp_path_factory.mktemp("vqvae") / "vqvae"))


def counting_graphs(training):
    """The graphs compiled after each step, which are added during the run."""
    graphs, advance = [], training.advance
    training.advance = lambda: (advance(), graphs.append(compiled_graphs()))[0]
    return graphs


@pytest.fixture(scope="module")
def vqvae_run(data, tmp_path_factory):
    """A VQ-VAE trained for long enough to see that it learns; its folder, and graphs compiled at each step."""
    folder = tmp_path_factory.mktemp("vqvae") / "run"
    settings = tiny.vqvae_settings(data, folder, steps=100, learning_rate=5e-3, log_every=10, preview_every=50)
    training = tiny.vqvae_training(settings)
    graphs = counting_graphs(training)
    training.run()
    return folder, graphs, training


def test_a_vqvae_learns_to_reconstruct(vqvae_run):
    folder, graphs, training = vqvae_run
    l2 = tiny.column(folder, "l2")
    assert l2[-1] < 0.4 * l2[0]
    assert set(graphs) == {graphs[0]}  # the preview has compiled nothing again
    assert tiny.column(folder, "codebook_usage")[-1] >= 0.25
    assert tiny.column(folder, "codebook_perplexity")[-1] > 4
    assert tiny.column(folder, "psnr")[-1] == pytest.approx(10 * np.log10(4 / l2[-1]), abs=0.3)
    saved = VQModel.from_pretrained(folder)
    assert tiny.same(tiny.weights(saved), tiny.weights(training.model))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pixels")]


def test_previews_show_pictures_that_can_be_decoded_and_their_reconstructions(vqvae_run, data):
    folder, _, training = vqvae_run
    shown = np.asarray(Image.open(folder / "previews" / "reconstructions-100.png")).astype(float)
    above = np.asarray(Image.open(data / "1.png")).astype(float)
    rows = [shown[8 : 8 + tiny.SIDE, 8 : 8 + tiny.SIDE], shown[16 + tiny.SIDE : 16 + 2 * tiny.SIDE, 8 : 8 + tiny.SIDE]]
    assert np.array_equal(rows[0], above)
    assert 0 < np.abs(rows[1] - above).mean() < 60  # of 255
    assert shown.shape[1] == 7 * (tiny.SIDE + 8) + 8
    assert training.dataset.problems.undecodable == ["0.png"]


def test_a_command_that_cannot_work_ends_in_one_line(data, tmp_path):
    checkpoints = tmp_path / "run" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "step-00000001.safetensors").write_bytes(b"")
    code, output = tiny.finish(tiny.VQVAE_EXAMPLE, tiny.vqvae_settings(data, tmp_path / "run"))
    assert code == 1 and "Traceback" not in output
    last = output.strip().splitlines()[-1]
    assert last.startswith("ValueError: ") and "holds a run already: continue it with --resume" in last


def test_a_share_of_the_batch_is_shown_all_masked(data, vqvae, tmp_path):
    training = tiny.text_training(tiny.text_settings(data, tmp_path / "run", vqvae=vqvae, masked_share=0.5))
    _, x_t, timesteps, probabilities, _, _ = training._batch()
    assert (timesteps[:4] == 4).all() and (probabilities[:4] == np.float32(1 / 5)).all()
    assert (x_t[:4] == training.pipe.scheduler.mask_class).mean() > 0.99
    divergence, likelihood = np.repeat(np.float32([[100], [3]]), 4, 1), np.repeat(np.float32([[50], [2]]), 4, 1)
    reports = [tuple(Tensor(each.ravel()) for each in (divergence, likelihood))]
    training.updates = lambda *_: SimpleNamespace(reports=reports, norm=1.0, loss=1.0)
    values = training.advance()
    assert training.timesteps.counts.sum() == training._bucket_counts.sum() == 4
    assert values["bound"] == pytest.approx(3 * 5 / 16) and values["auxiliary"] == pytest.approx(2 / 16)


@pytest.mark.slow
def test_a_vqvae_without_a_codebook_at_first_and_with_a_loss_for_it(data, tmp_path):
    changes = dict(codebook="loss", quantize_from=30, ema_decay=0.999, beta2=0.99)
    settings = tiny.vqvae_settings(data, tmp_path / "run", steps=60, learning_rate=3e-3, **changes)
    training, started = tiny.vqvae_training(settings), []
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


@pytest.fixture(scope="module")
def text_run(data, vqvae, tmp_path_factory):
    """A text to image run from scratch; the first picture is left out."""
    folder = tmp_path_factory.mktemp("text") / "run"
    changes = dict(num_timesteps=3, learning_rate=1e-2, ema_decay=0.9, ema_every=1, save_every=3)
    return tiny.run(tiny.text_training(tiny.text_settings(data, folder, vqvae=vqvae, **changes)))


def test_text_to_image_leaves_a_pipeline_of_averaged_weights(text_run):
    folder = text_run.settings.output
    assert len(text_run.codes) == len(text_run.ids) == 7
    pipe = VQDiffusionPipeline.from_pretrained(folder)
    assert pipe.default_settings == {**PUBLISHED_SETTINGS, "guidance_scale": 2.0, "truncation_rate": 0.86}
    last = read_safetensors(latest_checkpoint(folder / "checkpoints"))
    for cell in (pipe.transformer, pipe.text_encoder, pipe.learned_classifier_free_sampling_embeddings):
        for name, array in tiny.weights(cell).items():
            assert np.array_equal(array, last[f"parameter:average.{name}"].read_stored()), name
            assert not np.array_equal(array, last[f"parameter:{name}"].read_stored()) or not array.any(), name
    assert any("divergence" in name for name in tiny.log(folder)[-1])


def test_a_picture_with_two_captions_is_encoded_once(data, vqvae, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(data, tmp_path / "data"))
    dataset, model, read = open_dataset(folder, captions_required=True), VQModel.from_pretrained(vqvae), []
    codes, indices = cached_codes(dataset, model, tiny.SIDE, tmp_path / "one", Devices())
    with open(folder / "metadata.jsonl", "a") as index:
        index.write('{"file_name": "1.png", "text": "another caption"}\n')
    monkeypatch.setattr(CaptionedPictures, "picture", _counting(CaptionedPictures.picture, read))
    more, more_indices = cached_codes(open_dataset(folder, True), model, tiny.SIDE, tmp_path / "two", Devices())
    np.testing.assert_array_equal(more, np.concatenate([codes, codes[:1]]))  # 0.png cannot be decoded
    assert more_indices.tolist() == [*indices, 8] == [*range(1, 9)]
    assert len(read) == 8


def _counting(function, calls):
    return lambda *arguments: (calls.append(arguments), function(*arguments))[1]


@pytest.mark.slow
def test_text_to_image_continues_to_the_same_weights(text_run, caplog):
    folder = text_run.settings.output
    checkpoint = latest_checkpoint(folder / "checkpoints")
    expected, bound = checkpoint.read_bytes(), tiny.column(folder, "bound")
    checkpoint.unlink()
    caplog.clear()
    again = tiny.text_training({**vars(text_run.settings), "resume": True})  # the codes come from their file
    np.testing.assert_array_equal(again.codes, text_run.codes)
    assert again.dataset.problems.summary() == text_run.dataset.problems.summary()
    again.run()
    assert checkpoint.read_bytes() == expected and tiny.column(folder, "bound") == bound
    assert caplog.text.count("1 picture could not be decoded when read (0.png)") == 1


@pytest.mark.slow
def test_captioned_pictures_are_learned_by_heart(vqvae, tmp_path):
    data = tiny.make_pictures(tmp_path / "pictures")
    settings = tiny.text_settings(
        data,
        tmp_path / "run",
        vqvae=vqvae,
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
    training = tiny.text_training(settings)
    graphs, codes = counting_graphs(training), training.codes
    assert len(np.unique(codes, axis=0)) == 8
    training.run()
    pipe = VQDiffusionPipeline.from_pretrained(tmp_path / "run")
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(tiny.CAPTIONS, 5, guidance_scale=1.0, truncation_rate=0.3, generator=1, output_type="latent")[0]
    np.testing.assert_array_equal(drawn.reshape(codes.shape), codes)
    assert tiny.column(tmp_path / "run", "loss")[-1] < 0.2 * tiny.column(tmp_path / "run", "loss")[0]
    # The preview compiles its four graphs, once; nothing of the training is compiled again.
    assert set(graphs[:150]) == {graphs[0]}
    assert set(graphs[150:]) == {graphs[0] + 4}
    previews = sorted(path.name for path in (tmp_path / "run" / "previews").iterdir())
    assert previews == ["prompts-150.png", "prompts-300.png"]


@pytest.mark.slow
def test_float16_skips_what_overflows_and_goes_on(data, vqvae, tmp_path, monkeypatch):
    monkeypatch.setattr(updates, "FIRST_SCALE", 2.0**40)
    settings = tiny.text_settings(data, tmp_path / "run", vqvae=vqvae, steps=40, precision="float16", accumulation=2)
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


@pytest.mark.slow
def test_a_codebook_forgets_no_step_that_was_skipped(data, vqvae, tmp_path):
    model = VQModel.from_pretrained(vqvae)
    last = model.encoder.conv_out.weight
    last.set_data(last * 1e6)  # beyond what float16 holds
    model.save_pretrained(tmp_path / "vqvae")
    changes = dict(model_from=str(tmp_path / "vqvae"), steps=40, precision="float16")
    training = tiny.vqvae_training(tiny.vqvae_settings(data, tmp_path / "run", **changes))
    before = training.codebook.asnumpy().copy()
    with pytest.raises(NotFiniteError, match="Nothing was changed"):
        training.run()
    np.testing.assert_array_equal(training.codebook.asnumpy(), before)
