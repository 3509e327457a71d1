"""A student learns which of its teacher's pictures its start stands for."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq import VQDiffusionPipeline
from mindone_vq.training.devices import Devices
from mindone_vq.training.distillation.assignment import assigned, random_starts
from mindone_vq.training.distillation.settings import DistillationSettings
from mindone_vq.training.distillation.teacher import drawn_pictures
from mindone_vq.training.distillation.training import DistillationTraining
from tests.diffusion.solvable import correlated, total_variation
from tests.tiny_pipeline import random_pipeline
from tests.training.solvable_student import draws_of_student

PROMPTS = ["stripes", "dots", "a cross"]


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
        teacher_call={"num_inference_steps": 5, "spacing": "square"},
        batch_size=6,
        steps=4,
        warmup_steps=0,
        log_every=1,
        preview_every=0,
    )
    return DistillationSettings(**{**fixed, **changed})


def test_every_start_gets_a_likely_picture_and_every_picture_a_start(rng):
    """Four kinds of picture, of which the starts would rather have the first; the more the balance counts, the less."""
    kinds, liked = np.repeat(np.arange(4), 16), rng.choice(4, 64, p=[0.7, 0.1, 0.1, 0.1])
    second = rng.integers(0, 4, 64)
    likely = -60.0 + 50 * (liked[:, None] == kinds) + 40 * (second[:, None] == kinds) * (liked != second)[:, None]

    def used(balance):
        found = assigned(likely + rng.normal(size=(64, 64)), balance, rng)
        return np.bincount(kinds[found], minlength=4), (likely[np.arange(64), found] > -60).mean()

    free, even = used(1e-3), used(1e4)
    assert np.abs(free[0] - np.bincount(liked, minlength=4)).max() <= 1 and free[1] == 1
    assert np.abs(even[0] - 16).max() <= 4 and even[1] > 0.8
    assert free[0][0] > used(20.0)[0][0] > even[0][0]


def test_pictures_that_are_as_likely_are_used_alike(rng):
    counts = sum(np.bincount(assigned(np.zeros((50, 5)), 20.0, rng), minlength=5) for _ in range(40))
    assert np.abs(counts - 400).max() < 90


def test_starts_have_every_code_as_often(rng):
    starts = random_starts(70, 3, 32, rng)
    assert starts.shape == (70, 3) and starts.dtype == np.int32
    for place in starts.T:
        counts = np.bincount(place, minlength=32)
        assert counts.min() >= 2 and counts.max() <= 3 and len(counts) == 32
    assert len(np.unique(random_starts(20, 1, 32, rng))) == 20


def test_one_step_from_start_codes_is_nearer_to_the_data_than_any_factorised_model(rng):
    data = correlated(rng)

    def distance(start_codes):
        (counts,) = draws_of_student(data, start_codes, [1], 20_000, rng)
        return total_variation(counts, data)

    assert distance(0) > 0.45 > 0.35 > distance(2)


def pictures_of(teacher, folder, weights="a", **changed):
    changed = {"pictures_per_prompt": 3, **changed}
    return drawn_pictures(teacher, PROMPTS, settings(folder, **changed), weights, Devices())


def test_the_teacher_draws_every_prompt_as_often_as_it_is_told(teacher, tmp_path):
    drawn = pictures_of(teacher, tmp_path)
    assert drawn.prompts == [prompt for prompt in PROMPTS for _ in range(3)]
    assert [list(group) for group in drawn.groups] == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    rng = np.random.default_rng((0, 0, 3))
    drawing = {"num_inference_steps": 5, "spacing": "square"}
    first = teacher(drawn.prompts[:4], output_type="latent", generator=rng, **drawing)[0].asnumpy()
    assert np.array_equal(drawn.codes[:4], first) and drawn.codes.shape == (9, first.shape[1])


def no_dots(prompts, pictures):
    assert all(picture.size == (12, 12) for picture in pictures)
    return [prompt != "dots" for prompt in prompts]


def every_other(prompts, pictures):
    return [i % 2 == 0 for i in range(len(prompts))]


def nothing(prompts, pictures):
    return [False] * len(prompts)


def test_pictures_that_are_not_accepted_are_left_out(teacher, tmp_path):
    everything, drawn = pictures_of(teacher, tmp_path), pictures_of(teacher, tmp_path, accept=f"{__name__}:no_dots")
    assert drawn.prompts == ["stripes"] * 3 + ["a cross"] * 3
    assert np.array_equal(drawn.codes, everything.codes[[0, 1, 2, 6, 7, 8]])
    assert list(drawn.groups[1]) == [3, 4, 5] and drawn.fingerprint() != everything.fingerprint()
    with pytest.raises(ValueError, match="none of the teacher's pictures was accepted"):
        pictures_of(teacher, tmp_path, accept=f"{__name__}:nothing")


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


def test_starts_stand_for_pictures_of_their_prompt_that_the_student_finds_likely(folder):
    changed = dict(start_codes=2, assignment_balance=1e-3, batch_size=8, start_share=0.5, assign_every=3)
    training = DistillationTraining(settings(folder, **changed), Devices())
    training._assign()
    codes, groups, pipe = training.dataset.codes, training.dataset.groups, training.pipe
    assert [list(group) for group in groups] == [list(range(i, i + 4)) for i in (0, 4, 8)]
    assert len(training.starts) == len(training.assigned) == 12
    assert sorted(np.array(training.assigned) // 4) == [0] * 4 + [1] * 4 + [2] * 4  # every prompt once
    for start, picture in zip(training.starts, training.assigned):
        group = groups[picture // 4]
        x_T = Tensor(np.resize(start, (1, codes.shape[1])).astype(np.int32))
        texts = pipe.encode_prompt(training.dataset.prompts[picture], do_classifier_free_guidance=False)[0]
        log_p = pipe.transformer.log_p_x_0(x_T, texts, Tensor([9], ms.int32)).asnumpy()[0]
        likely = [log_p[range(len(x_0)), x_0].sum() for x_0 in codes[group]]
        assert likely[list(group).index(picture)] > max(likely) - 20
        assert likely[list(group).index(picture)] >= np.median(likely) - 5


def test_the_next_prompts_are_assigned_next(folder):
    training = DistillationTraining(settings(folder, batch_size=4, start_share=0.5, assign_every=2), Devices())
    seen = []
    for training.step in range(0, 12, 2):
        training._assign()
        seen += set(training.assigned // 4)
    assert [sorted(seen[:3]), sorted(seen[3:])] == [[0, 1, 2], [0, 1, 2]]


def test_prompts_with_fewer_pictures_are_assigned_as_many_starts(folder):
    changed = dict(accept=f"{__name__}:every_other", batch_size=8, assign_every=3)
    training = DistillationTraining(settings(folder, **changed), Devices())
    training._assign()
    assert [len(group) for group in training.dataset.groups] == [2, 2, 2]
    assert len(training.assigned) == 12 and sorted(training.assigned // 2) == [0] * 4 + [1] * 4 + [2] * 4


def test_a_batch_has_starts_and_noisy_pictures(folder):
    training = DistillationTraining(settings(folder, batch_size=120, start_codes=2, start_share=0.25), Devices())
    training._assign()
    training.step, n = 3, 30
    x_0, x_t, timesteps, _, ids, dropped = training._batch()
    noisy, _ = training.order.batch(3)
    codes, mask = training.dataset.codes, training.pipe.scheduler.mask_class
    assert len(x_0) == len(x_t) == 120 and len(noisy) == 90 and not dropped.any()
    assert (timesteps[:n] == 9).all() and len(set(timesteps[n:])) == 10
    for i, indices in ((0, training.assigned[90:120]), (n, noisy)):
        rows = slice(i, i + len(indices))
        assert np.array_equal(x_0[rows], codes[indices]) and np.array_equal(ids[rows], training.ids[indices])
    assert ((x_t[n:] == x_0[n:]) | (x_t[n:] == mask)).mean() > 0.9
    for start, row in zip(training.starts[90:120], x_t):
        assert np.array_equal(row, np.resize(start, 36))


def test_every_picture_may_be_drawn_from_a_start(folder):
    training = DistillationTraining(settings(folder, start_share=1.0), Devices())
    values = training.advance()
    assert "nats_from_start" in values and "nats_later" not in values


def test_assignments_are_kept_where_a_run_is_continued(folder):
    one = DistillationTraining(settings(folder, assign_every=3), Devices())
    for one.step in range(4):
        one.advance()
    other = DistillationTraining(settings(folder, assign_every=3), Devices())
    other.restore_arrays(one.arrays())
    one.step = other.step = 5
    for ours, theirs in zip(one._batch()[0], other._batch()[0]):
        assert np.array_equal(ours, theirs)
    before = one.starts.copy()
    one.step = 6
    one.advance()
    assert not np.array_equal(one.starts, before)


def test_a_student_learns_and_is_a_pipeline_of_its_own_settings(folder):
    """Two pictures of a prompt, which its start tells apart: one step draws one of them, not a mixture of both."""
    changed = dict(steps=720, learning_rate=1e-2, ema_decay=0.5, student_steps=1, pictures_per_prompt=2)
    changed.update(batch_size=16, assign_every=16, assignment_balance=20.0, start_share=0.8)
    training = DistillationTraining(settings(folder, **changed), Devices())
    training.run()
    pipe = VQDiffusionPipeline.from_pretrained(folder / "student")
    pipe.set_progress_bar_config(disable=True)
    chosen = {"guidance_scale": 1.0, "truncation_rate": 0.9, "num_inference_steps": 1, "sampler": "confidence"}
    assert pipe.default_settings == {**chosen, "spacing": "masked"}
    assert pipe.scheduler.num_start_codes == 1
    pictures, masks = training.dataset.codes[[2, 3]], np.full((40, 36), pipe.scheduler.mask_class)

    def alike(**start):
        drawn = pipe(["dots"] * 40, output_type="latent", generator=0, **start)[0].asnumpy()
        return (drawn[:, None] == pictures).mean(-1)  # (drawn, pictures)

    assert np.median(alike().max(1)) > 0.92 and np.median(alike(latents=masks).max(1)) < 0.85
    assert 8 < (alike().argmax(1) == 0).sum() < 32
    card = (folder / "student" / "README.md").read_text()
    assert "Distilled from `teacher` to 1 steps without guidance" in card


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
        (dict(teacher_call={"steps": 4}), "teacher_call is {'steps': 4}: .*unexpected keyword argument 'steps'"),
        (dict(teacher_call={"truncation_rate": 0}), "truncation_rate is 0; it must be above 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(folder, given, message):
    with pytest.raises(ValueError, match=message):
        settings(folder, **given)
