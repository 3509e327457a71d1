"""A student learns which of its teacher's pictures is near to its own start."""

import itertools

import numpy as np
import pytest

from mindone_vq import VQDiffusionPipeline
from mindone_vq.training.devices import Devices
from mindone_vq.training.distillation.coupling import assigned_starts, code_vectors
from mindone_vq.training.distillation.settings import DistillationSettings
from mindone_vq.training.distillation.teacher import drawn_pictures
from mindone_vq.training.distillation.training import DistillationTraining
from tests.diffusion.solvable import correlated, total_variation
from tests.tiny_pipeline import random_pipeline
from tests.training.solvable_student import draws_of_student

PROMPTS = ["stripes", "dots", "a cross"]
DRAWING = {"num_inference_steps": 5, "spacing": "square"}


@pytest.fixture(scope="module")
def teacher():
    return random_pipeline(np.random.default_rng(0))


@pytest.fixture
def folder(teacher, tmp_path):
    teacher.save_pretrained(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("\n".join(PROMPTS))
    return tmp_path


def settings(folder, **changed):
    fixed = dict(
        data=str(folder / "teacher"),
        prompts=str(folder / "prompts.txt"),
        output=folder / "student",
        student_steps=2,
        student_truncation_rate=0.9,
        pictures_per_prompt=4,
        teacher_batch_size=4,
        teacher_steps=5,
        batch_size=6,
        steps=4,
        warmup_steps=0,
        log_every=1,
        preview_every=0,
    )
    return DistillationSettings(**{**fixed, **changed})


def test_pictures_are_assigned_to_the_starts_that_are_like_them(rng):
    vectors = np.concatenate([rng.normal(size=(12, 3)), np.zeros((1, 3))]).astype(np.float32)
    x_0, x_T = rng.integers(0, 12, (5, 9)), rng.integers(0, 13, (5, 9))
    found = assigned_starts(x_0, x_T, vectors)
    products = [sum(vectors[a] @ vectors[b] for a, b in zip(x, y)) for x in x_0 for y in x_T]
    table = np.array(products).reshape(5, 5)
    best = max(itertools.permutations(range(5)), key=lambda order: sum(table[range(5), order]))
    assert np.array_equal(found, x_T[list(best)])


def test_the_vectors_are_the_codebook_and_zero_for_the_mask(teacher):
    vectors, codebook = code_vectors(teacher.vqvae), teacher.vqvae.quantize.embedding.embedding_table.asnumpy()
    assert not vectors[-1].any() and np.allclose(vectors[:-1].mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(vectors[3] - vectors[7], codebook[3] - codebook[7], atol=1e-6)


def test_one_step_from_a_start_of_codes_is_nearer_to_the_data_than_any_factorised_model(rng):
    data = correlated(rng)

    def distance(masked_share):
        (counts,) = draws_of_student(data, masked_share, 64, 32_000, [1], 20_000, rng)
        return total_variation(counts, data)

    assert distance(1.0) > 0.4 > 0.34 > distance(0.0)


def pictures_of(teacher, folder, **others):
    given = dict(per_prompt=3, batch_size=4, settings=DRAWING, seed=0, weights="a", folder=folder, devices=Devices())
    return drawn_pictures(teacher, PROMPTS, **{**given, **others})


def test_the_teacher_draws_every_prompt_as_often_as_it_is_told(teacher, tmp_path):
    drawn = pictures_of(teacher, tmp_path)
    assert drawn.prompts == [prompt for prompt in PROMPTS for _ in range(3)]
    assert [list(group) for group in drawn.groups] == [[0, 1, 2]] * 3 + [[3, 4, 5]] * 3 + [[6, 7, 8]] * 3
    rng = np.random.default_rng((0, 0, 3))
    first = teacher(drawn.prompts[:4], output_type="latent", generator=rng, **DRAWING)[0].asnumpy()
    assert np.array_equal(drawn.codes[:4], first) and drawn.codes.shape == (9, first.shape[1])


def no_dots(prompts, pictures):
    assert all(picture.size == (12, 12) for picture in pictures)
    return [prompt != "dots" for prompt in prompts]


def test_pictures_that_are_not_accepted_are_left_out(teacher, tmp_path):
    everything, drawn = pictures_of(teacher, tmp_path), pictures_of(teacher, tmp_path, accept=no_dots)
    assert drawn.prompts == ["stripes"] * 3 + ["a cross"] * 3
    assert np.array_equal(drawn.codes, everything.codes[[0, 1, 2, 6, 7, 8]])
    assert list(drawn.groups[4]) == [3, 4, 5] and drawn.fingerprint() != everything.fingerprint()
    with pytest.raises(ValueError, match="none of the teacher's pictures was accepted"):
        pictures_of(teacher, tmp_path, accept=lambda prompts, pictures: [False] * len(prompts))


def test_pictures_are_drawn_once_and_a_run_that_was_cut_off_goes_on(teacher, tmp_path, monkeypatch):
    drawn = pictures_of(teacher, tmp_path)
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 3
    files[1].unlink()
    calls, call = [], VQDiffusionPipeline.__call__
    monkeypatch.setattr(
        VQDiffusionPipeline, "__call__", lambda *args, **kwargs: calls.append(1) or call(*args, **kwargs)
    )
    again = pictures_of(teacher, tmp_path)
    assert len(calls) == 1 and np.array_equal(again.codes, drawn.codes)
    assert pictures_of(teacher, tmp_path).fingerprint() == drawn.fingerprint() and len(calls) == 1
    assert pictures_of(teacher, tmp_path, seed=1).fingerprint() != drawn.fingerprint() and len(calls) == 4
    assert pictures_of(teacher, tmp_path, weights="b").fingerprint() != drawn.fingerprint() and len(calls) == 7


def test_starts_of_an_epoch_are_assigned_within_a_prompt(folder):
    training = DistillationTraining(settings(folder), Devices())
    starts = np.stack([training._start(i, 0) for i in range(4)])
    drawn = training.pipe.scheduler.initial_codes(4, starts.shape[1], np.random.default_rng((0, 0, 0, 2))).asnumpy()
    assert np.array_equal(starts, assigned_starts(training.dataset.codes[:4], drawn, training.vectors))
    assert training._starts.cache_info().misses == 1  # the four were assigned together
    assert not np.array_equal(training._start(0, 1), starts[0])


def test_a_batch_is_between_start_and_end(folder):
    training = DistillationTraining(settings(folder, batch_size=12), Devices())
    x_0, x_t, timesteps, _, _, dropped = training._batch()
    assert set(timesteps) <= {9, 4} and not dropped.any()
    indices, _ = training.order.batch(0)
    starts = [training._start(i, 0) for i in indices]
    for row, mixed, start, t in zip(x_0, x_t, starts, timesteps):
        assert ((mixed == row) | (mixed == start)).all()
        if t == 9:
            assert np.array_equal(mixed, start)


def test_a_student_learns_and_is_a_pipeline_of_its_own_settings(folder):
    training = DistillationTraining(
        settings(folder, steps=80, learning_rate=3e-3, ema_decay=0.5, student_steps=1, pictures_per_prompt=1), Devices()
    )
    first = training.advance()["likeliest_is_right"]
    training.run()
    pipe = VQDiffusionPipeline.from_pretrained(folder / "student")
    pipe.set_progress_bar_config(disable=True)
    chosen = {"guidance_scale": 1.0, "truncation_rate": 0.9, "num_inference_steps": 1, "sampler": "flow"}
    assert pipe.default_settings == {**chosen, "spacing": "uniform"}
    starts = np.stack([training._start(i, 0) for i in range(3)])
    drawn = pipe(PROMPTS, latents=starts, output_type="latent", generator=0)[0].asnumpy()
    right = (drawn == training.dataset.codes).mean()
    assert right > 0.6 > first
    card = (folder / "student" / "README.md").read_text()
    assert "Distilled from `teacher` to 1 steps without guidance" in card
    with pytest.raises(ValueError, match="changes masked codes only"):
        pipe("dots", sampler="confidence")


def test_a_student_sees_what_a_function_accepts(folder):
    name = f"{no_dots.__module__}:{no_dots.__name__}"
    training = DistillationTraining(settings(folder, accept=name), Devices())
    assert set(training.dataset.prompts) == {"stripes", "a cross"}


@pytest.mark.parametrize(
    "given, message",
    [
        (dict(prompts=""), "prompts is not given"),
        (dict(accept="mindone_vq.demo:none"), "accept is 'mindone_vq.demo:none': .*none"),
        (dict(accept="no_such_module:f"), "accept is 'no_such_module:f': No module named"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder, given, message):
    with pytest.raises(ValueError, match=message):
        settings(folder, **given)
