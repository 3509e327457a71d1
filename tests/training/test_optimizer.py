"""Updates: averaged weights, accumulation, float16, gradients that are not finite; and the learning rate."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindone_vq import VQModel
from mindone_vq.training.run_settings import RunSettings
from mindone_vq.training.update.learning_rate import LearningRate
from mindone_vq.training.update.optimizer import WeightAverage, global_norm
from mindone_vq.training.update.updates import NotFiniteError
from tests.numerics import relative_error
from tests.training.regression import batch_of, make_updates, parts_of


def weights(updates):
    return np.concatenate([parameter.asnumpy().ravel() for parameter in updates.optimizer.parameters])


def everything(updates):
    """The bits of all that a checkpoint holds, without the loss scale and its counter."""
    scaler = updates.scaler
    left_out = [] if scaler is None else [id(scaler.scale_value), id(scaler.counter)]
    return [each.asnumpy().tobytes() for each in updates.parameters() if id(each) not in left_out]


def test_the_norm_is_that_of_this_call_alone(rng):
    """A compiled graph keeps its constants: what is added to one in place is still there in the next call."""
    compiled = ms.jit(global_norm, fullgraph=True)
    for _ in range(4):
        gradients = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (5,), (2, 1, 2))]
        expected = np.sqrt(sum((each.astype(np.float64) ** 2).sum() for each in gradients))
        assert float(compiled(tuple(map(Tensor, gradients))).asnumpy()) == pytest.approx(expected, rel=1e-6)


def test_the_average_of_weights_has_the_closed_form(rng):
    parameters = [Parameter(Tensor(rng.standard_normal(s).astype(np.float32)), name=f"w{s}") for s in ((3, 4), (5,))]
    average = WeightAverage(parameters, 0.9)
    compiled = ms.jit(average, fullgraph=True)
    walked = [[parameter.asnumpy().copy() for parameter in parameters]]
    for _ in range(6):
        walked.append([rng.standard_normal(parameter.shape).astype(np.float32) for parameter in parameters])
        for parameter, value in zip(parameters, walked[-1]):
            parameter.copy_(Tensor(value))
        compiled()
    shares = np.array([0.9**6] + [0.1 * 0.9 ** (6 - i) for i in range(1, 7)])
    for i, result in enumerate(average.state()):
        expected = np.tensordot(shares, np.stack([each[i] for each in walked]).astype(np.float64), 1)
        assert relative_error(result, expected) <= 1e-6
        assert np.array_equal(parameters[i].asnumpy(), walked[-1][i])


def test_the_average_starts_from_loaded_weights(tmp_path):
    """A loaded parameter keeps the initializer that made it."""
    VQModel(block_out_channels=(4,), norm_num_groups=2, mid_block_add_attention=False).save_pretrained(tmp_path)
    parameters = VQModel.from_pretrained(tmp_path).trainable_params()
    for parameter, average in zip(parameters, WeightAverage(parameters, 0.9).averages):
        assert average.name == f"average.{parameter.name}"
        assert np.array_equal(average.asnumpy(), parameter.asnumpy()), parameter.name


def test_the_average_is_exchanged_and_the_compiled_step_goes_on_with_the_trained_weights(rng):
    """It moves every second step here."""
    first, second = (make_updates(ema_decay=0.5, ema_every=2) for _ in range(2))
    averaged = weights(second)
    for step in range(4):
        batch = batch_of(rng)
        for updates in (first, second):
            updates(step, 1e-2, [batch])
        before, trained = everything(second), weights(second)
        averaged = 0.5 * averaged + 0.5 * trained if step % 2 else averaged
        with second:
            assert relative_error(weights(second), averaged) < 1e-6 < relative_error(averaged, trained)
            inside = second.cell(*map(Tensor, batch))[0].asnumpy()
        assert everything(second) == before
        assert second.cell(*map(Tensor, batch))[0].asnumpy() != inside
    assert everything(first) == everything(second)


@pytest.mark.parametrize("count, clip_norm", [(2, 0.2), pytest.param(3, 0.0, marks=pytest.mark.slow)])
def test_parts_of_a_batch_do_what_the_whole_does(count, clip_norm, rng):
    whole, cut = make_updates(clip_norm=clip_norm), make_updates(clip_norm=clip_norm, accumulation=count)
    start = weights(whole)
    for step, batch in enumerate([batch_of(rng) for _ in range(3)]):
        expected = whole(step, 3e-2, [batch])
        result = cut(step, 3e-2, parts_of(batch, count))
        assert result.loss == pytest.approx(expected.loss, rel=1e-6)
        assert result.norm == pytest.approx(expected.norm, rel=1e-6)
        assert len(result.reports) == count
    assert relative_error(weights(cut), weights(whole)) <= 1e-6
    assert relative_error(weights(cut), start) > 1e-2  # they have moved


def test_float16_computes_in_float16_and_trains(rng):
    half, full = make_updates(precision="float16"), make_updates()
    half.scaler.scale_value.set_data(Tensor(1024.0, ms.float32))
    losses = []
    batch = batch_of(rng)
    for step in range(30):
        exact, result = full(step, 1e-2, [batch]), half(step, 1e-2, [batch])
        losses.append(result.loss)
        if step == 0:
            assert 0 < abs(result.loss / exact.loss - 1) < 1e-2
            assert 0 < abs(result.norm / exact.norm - 1) < 1e-2  # the scale is divided out again
    assert half.skipped == 0 and losses[-1] < 0.8 * losses[0]
    assert all(parameter.dtype in (ms.float32, ms.int32) for parameter in half.parameters())  # counts are integers
    assert relative_error(weights(half), weights(full)) < 5e-2


@pytest.mark.parametrize("accumulation", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_an_overflow_skips_the_update_and_halves_the_scale(accumulation, rng):
    updates = make_updates(precision="float16", accumulation=accumulation)
    first, second, third = [batch_of(rng) for _ in range(3)]
    updates.scaler.scale_value.set_data(Tensor(1024.0, ms.float32))
    updates(0, 1e-2, parts_of(first, accumulation))
    before = everything(updates)
    updates.scaler.scale_value.set_data(Tensor(2.0**30, ms.float32))
    for count in (1, 2):
        update = updates(count, 1e-2, parts_of(second, accumulation))
        assert not np.isfinite(update.norm) and np.isfinite(update.loss)
        assert everything(updates) == before  # and no sum of gradients is left behind
        assert (updates.skipped, updates.skipped_in_a_row) == (count, count)
        assert updates.scaler.scale_value.asnumpy() == 2.0 ** (30 - count)
    updates.scaler.scale_value.set_data(Tensor(1024.0, ms.float32))
    assert np.isfinite(updates(3, 1e-2, parts_of(third, accumulation)).norm)
    assert (updates.skipped, updates.skipped_in_a_row) == (2, 0)
    undisturbed = make_updates(precision="float16", accumulation=accumulation)
    undisturbed.scaler.scale_value.set_data(Tensor(1024.0, ms.float32))
    for step, batch in enumerate((first, third)):
        undisturbed(step, 1e-2, parts_of(batch, accumulation))
    assert everything(updates) == everything(undisturbed)


@pytest.mark.slow
def test_a_scale_that_is_too_large_is_found_by_itself(rng):
    updates, batch = make_updates(precision="float16"), batch_of(rng)
    updates.scaler.scale_value.set_data(Tensor(2.0**24, ms.float32))
    norms = [updates(step, 1e-3, [batch]).norm for step in range(20)]
    assert 0 < updates.skipped < 15 and np.isfinite(norms[-1])
    assert np.isfinite(norms).sum() == 20 - updates.skipped


@pytest.mark.parametrize("wrong, accumulation", [pytest.param(np.nan, 1, marks=pytest.mark.slow), (np.inf, 2)])
def test_what_is_not_finite_in_float32_is_an_error_and_changes_nothing(wrong, accumulation, rng):
    updates = make_updates(accumulation=accumulation, ema_decay=0.9)
    good, bad, again = [batch_of(rng) for _ in range(3)]
    updates(0, 1e-2, parts_of(good, accumulation))
    before = everything(updates)
    bad[0][1, 2] = bad[1][1, 2] = wrong  # in the first part
    with pytest.raises(NotFiniteError, match="step 2: the loss is (nan|inf).*Nothing was changed"):
        updates(1, 1e-2, parts_of(bad, accumulation))
    assert everything(updates) == before
    undisturbed = make_updates(accumulation=accumulation, ema_decay=0.9)
    undisturbed(0, 1e-2, parts_of(good, accumulation))
    for each in (updates, undisturbed):
        each(1, 1e-2, parts_of(again, accumulation))
    assert everything(updates) == everything(undisturbed)


def test_a_scale_that_cannot_be_lowered_ends_the_run(rng):
    updates, batch = make_updates(precision="float16"), batch_of(rng)
    batch[0][0, 0] = np.nan
    with pytest.raises(NotFiniteError):
        for step in range(30):
            updates(step, 1e-2, [batch])
    assert updates.scaler.scale_value.asnumpy() == 1


def learning_rate(peak, steps, warmup_steps=0, **others):
    settings = RunSettings(
        "", learning_rate=peak, steps=steps, warmup_steps=warmup_steps, **{"final_share": 0.0, **others}
    )
    return LearningRate(settings)


def test_the_learning_rate_rises_in_a_straight_line_and_falls_as_a_cosine():
    rate = learning_rate(2.0, 110, warmup_steps=10, final_share=0.1)
    assert [rate.at(step) for step in range(10)] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rate.at(10) == 2.0
    assert rate.at(60) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))  # half way
    assert rate.at(35) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + np.sqrt(0.5)) / 2))
    assert rate.at(110) == rate.at(500) == pytest.approx(0.2)
    after = [rate.at(step) for step in range(10, 110)]
    assert after == sorted(after, reverse=True)
    assert learning_rate(3.0, 5).at(0) == 3.0
    assert learning_rate(3.0, 5, warmup_steps=9).at(8) == 3.0  # a run that ends before


def test_a_constant_learning_rate_stays_after_the_warm_up():
    rate = learning_rate(0.5, 100, warmup_steps=4, schedule="constant", final_share=0.1)
    assert [rate.at(step) for step in (0, 1, 3, 4, 99, 1000)] == [0.125, 0.25, 0.5, 0.5, 0.5, 0.5]


# The means of windows of two steps; what the share of the peak is after each. Patience is two windows.
PLATEAU = [
    (5.0, 1.0),
    (4.0, 1.0),
    (4.0, 1.0),  # no better: one
    (3.9, 1.0),  # better
    (4.5, 1.0),  # one
    (3.9, 0.25),  # two, of equal height: lower
    (3.95, 0.25),  # one again
    (3.0, 0.25),  # better
    (3.1, 0.25),
    (3.1, 0.1),  # 0.0625, but the least share is 0.1
    (9.0, 0.1),
    (9.0, 0.1),
]


def test_a_plateau_lowers_the_learning_rate():
    options = dict(schedule="plateau", warmup_steps=3, final_share=0.1)
    plateau = dict(plateau_factor=0.25, plateau_patience=2, plateau_window=2)
    rate, resumed = (learning_rate(8.0, 1000, **options, **plateau) for _ in range(2))
    for step in range(3):
        rate.observe(step, 0.0)  # the warm-up does not count
        assert rate.at(step) == pytest.approx(8.0 * (step + 1) / 3)
    step = 3
    for mean, share in PLATEAU:
        for loss in (mean - 0.5, mean + 0.5):
            rate.observe(step, loss)
            step += 1
            resumed.restore(json.loads(json.dumps(rate.state())))  # as a checkpoint keeps it, in a window's middle, too
            rate, resumed = resumed, rate
        assert rate.at(step) == pytest.approx(8.0 * share)
