"""A student learns where its teacher ends from where itself starts."""

import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from mindone_vq import VQDiffusionPipeline, VQDiffusionScheduler
from mindone_vq.training.devices import Devices
from mindone_vq.training.distillation.pairs import Coupled, coupled_uniforms, drawn_pairs
from mindone_vq.training.distillation.settings import DistillationSettings
from mindone_vq.training.distillation.training import DistillationTraining
from tests.tiny_pipeline import random_pipeline

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
        pairs=12,
        teacher_batch_size=4,
        teacher_steps=5,
        batch_size=6,
        steps=4,
        warmup_steps=0,
        log_every=1,
        preview_every=0,
    )
    return DistillationSettings(**{**fixed, **changed})


def test_uniform_numbers_follow_the_codes_and_are_uniform(rng):
    x_T = rng.integers(0, 13, (200, 50))
    uniforms = coupled_uniforms(x_T, 12, rng)
    has_code = x_T < 12
    assert np.array_equal(np.floor(uniforms[has_code] * 12 + 1e-6), x_T[has_code])
    assert kstest(uniforms[~has_code], "uniform").pvalue > 1e-4
    assert kstest(coupled_uniforms(rng.integers(0, 12, 10_000), 12, rng), "uniform").pvalue > 1e-4
    assert uniforms.dtype == np.float32 and uniforms.max() < 1


def pairs_of(teacher, folder, share, count=8, **others):
    scheduler = VQDiffusionScheduler(13, 10, initial_masked_share=share)
    given = dict(batch_size=4, settings=DRAWING, seed=0, weights="a", folder=folder, devices=Devices())
    return drawn_pairs(teacher, scheduler, PROMPTS, count, **{**given, **others})


def test_a_start_of_codes_decides_where_the_teacher_ends(teacher, tmp_path):
    pairs = pairs_of(teacher, tmp_path, 0.0)
    assert pairs.prompts == [*PROMPTS, *PROMPTS, *PROMPTS[:2]]
    uniforms = (pairs.starts[:4] + 0.5) / 12
    again = teacher(
        pairs.prompts[:4], sampler=Coupled(uniforms=uniforms.astype(np.float32)), output_type="latent", **DRAWING
    )[0].asnumpy()
    assert (again == pairs.ends[:4]).mean() > 0.8  # but for where a number falls between two codes
    other = pairs_of(teacher, tmp_path, 0.0, seed=1)
    assert (other.ends == pairs.ends).mean() < 0.6


def test_the_teacher_s_distribution_is_kept(teacher, tmp_path):
    """The codes of a pixel over many pairs, beside those of the same sampler with free numbers."""
    count, drawing = 400, {"num_inference_steps": 1}
    pairs = pairs_of(teacher, tmp_path, 0.3, count, batch_size=400, settings=drawing)
    free = teacher(pairs.prompts, sampler="confidence", output_type="latent", generator=5, **drawing)[0].asnumpy()
    expected = np.bincount(free.ravel(), minlength=12) + 1.0
    found = np.bincount(pairs.ends.ravel(), minlength=12)
    assert chisquare(found, expected / expected.sum() * found.sum()).pvalue > 1e-6


def test_pairs_are_drawn_once_and_a_run_that_was_cut_off_goes_on(teacher, tmp_path, monkeypatch):
    pairs = pairs_of(teacher, tmp_path, 0.6)
    files = sorted(tmp_path.rglob("*.npz"))
    assert len(files) == 2
    files[1].unlink()
    calls, call = [], VQDiffusionPipeline.__call__
    monkeypatch.setattr(
        VQDiffusionPipeline, "__call__", lambda *args, **kwargs: calls.append(1) or call(*args, **kwargs)
    )
    again = pairs_of(teacher, tmp_path, 0.6)
    assert len(calls) == 1
    assert np.array_equal(again.starts, pairs.starts) and np.array_equal(again.ends, pairs.ends)
    assert pairs_of(teacher, tmp_path, 0.6).fingerprint() == pairs.fingerprint() and len(calls) == 1
    assert pairs_of(teacher, tmp_path, 0.5).fingerprint() != pairs.fingerprint() and len(calls) == 3
    assert pairs_of(teacher, tmp_path, 0.6, weights="b").fingerprint() != pairs.fingerprint() and len(calls) == 5


def test_a_batch_is_between_start_and_end(folder):
    training = DistillationTraining(settings(folder, batch_size=12), Devices())
    x_0, x_t, timesteps, _, _, dropped = training._batch()
    assert set(timesteps) <= {9, 4} and not dropped.any()
    starts = {row.tobytes(): start for row, start in zip(training.dataset.ends, training.dataset.starts)}
    for row, mixed, t in zip(x_0, x_t, timesteps):
        start = starts[row.tobytes()]
        assert ((mixed == row) | (mixed == start)).all()
        if t == 9:
            assert np.array_equal(mixed, start)


def test_a_student_learns_and_is_a_pipeline_of_its_own_settings(folder):
    training = DistillationTraining(
        settings(folder, steps=80, learning_rate=3e-3, ema_decay=0.5, student_steps=1, pairs=4), Devices()
    )
    first = training.advance()["likeliest_is_right"]
    training.run()
    pipe = VQDiffusionPipeline.from_pretrained(folder / "student")
    pipe.set_progress_bar_config(disable=True)
    chosen = {"guidance_scale": 1.0, "truncation_rate": 1.0, "num_inference_steps": 1, "sampler": "flow"}
    assert pipe.default_settings == {**chosen, "spacing": "uniform"}
    pairs = training.dataset
    drawn = pipe(pairs.prompts, latents=pairs.starts, output_type="latent", generator=0)[0].asnumpy()
    right = (drawn == pairs.ends).mean()
    assert right > 0.6 > first
    card = (folder / "student" / "README.md").read_text()
    assert "Distilled from `teacher` to 1 steps without guidance" in card
    with pytest.raises(ValueError, match="changes masked codes only"):
        pipe("dots", sampler="confidence")


def test_prompts_are_needed(folder):
    with pytest.raises(ValueError, match="prompts is not given"):
        settings(folder, prompts="")
