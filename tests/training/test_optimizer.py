"""Updates: averaged weights, accumulation, float16, gradients that are not finite; and the learning rate."""

import json

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, nn, ops

from mindone_vq.training.devices import Devices
from mindone_vq.training.learning_rate import LearningRate
from mindone_vq.training.optimizer import WeightAverage, global_norm
from mindone_vq.training.run import RunSettings
from mindone_vq.training.updates import NotFiniteError, Updates
from tests.numerics import relative_error


class Regression(nn.Cell):
    """Two layers and a mean squared error; the same weights every time."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng(7)
        self.inner, self.outer = nn.Dense(5, 16), nn.Dense(16, 3)
        for layer in (self.inner, self.outer):
            layer.weight.set_data(Tensor(rng.normal(0, 0.4, layer.weight.shape).astype(np.float32)))
            layer.bias.set_data(Tensor(rng.normal(0, 0.4, layer.bias.shape).astype(np.float32)))

    def construct(self, x, y):
        output = self.outer(ops.tanh(self.inner(x)))
        return ops.square(output.astype(ms.float32) - y).mean(), (ops.stop_gradient(output),)


def make(**settings):
    cell = Regression()
    defaults = dict(data="", clip_norm=0.5, weight_decay=0.1, accumulation=1)
    return Updates(cell, cell.trainable_params(), RunSettings(**{**defaults, **settings}), Devices())


def batches(rng, count, size=12):
    shapes = ((size, 5), (size, 3))
    return [tuple(rng.standard_normal(shape).astype(np.float32) for shape in shapes) for _ in range(count)]


def parts(batch, count):
    return list(zip(*(np.split(array, count) for array in batch)))


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


def test_updates_report_the_same_norm_for_the_same_batch(rng):
    updates, (batch,) = make(), batches(rng, 1)
    norms = [updates(step, 0.0, [batch]).norm for step in range(3)]
    assert norms[0] > 0.5 and norms == [norms[0]] * 3


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


def test_exchanging_twice_gives_back_every_bit(rng):
    updates = make(ema_decay=0.7)
    for step, batch in enumerate(batches(rng, 3)):
        updates(step, 1e-2, [batch])
    before, trained = everything(updates), weights(updates)
    averaged = np.concatenate([each.asnumpy().ravel() for each in updates.average.state()])
    batch = batches(rng, 1)[0]
    with updates:
        assert np.array_equal(weights(updates), averaged) and not np.array_equal(averaged, trained)
        inside = updates.cell(*map(Tensor, batch))[0].asnumpy()
    assert everything(updates) == before
    assert updates.cell(*map(Tensor, batch))[0].asnumpy() != inside


def test_a_compiled_step_goes_on_with_the_trained_weights_after_an_exchange(rng):
    first, second = make(ema_decay=0.7), make(ema_decay=0.7)
    for step, batch in enumerate(batches(rng, 4)):
        for updates in (first, second):
            updates(step, 1e-2, [batch])
        with second:
            pass
    assert everything(first) == everything(second)


@pytest.mark.parametrize("every", [1, 3])
def test_the_average_moves_every_so_many_steps(every, rng):
    updates = make(ema_decay=0.5, ema_every=every)
    expected = weights(updates)
    for step, batch in enumerate(batches(rng, 7)):
        updates(step, 1e-2, [batch])
        if (step + 1) % every == 0:
            expected = 0.5 * expected + 0.5 * weights(updates)
    assert relative_error(np.concatenate([each.asnumpy().ravel() for each in updates.average.state()]), expected) < 1e-6


@pytest.mark.parametrize("clip_norm", [0.0, 0.2])
@pytest.mark.parametrize("count", [2, 3])
def test_parts_of_a_batch_do_what_the_whole_does(count, clip_norm, rng):
    whole, cut = make(clip_norm=clip_norm), make(clip_norm=clip_norm, accumulation=count)
    for step, batch in enumerate(batches(rng, 3)):
        expected = whole(step, 3e-2, [batch])
        result = cut(step, 3e-2, parts(batch, count))
        assert result.loss == pytest.approx(expected.loss, rel=1e-6)
        assert result.norm == pytest.approx(expected.norm, rel=1e-6)
        assert len(result.reports) == count
    assert relative_error(weights(cut), weights(whole)) <= 1e-6
    assert relative_error(weights(cut), weights(make())) > 1e-2  # they have moved


def test_float16_computes_in_float16_and_trains(rng):
    half, full = make(precision="float16"), make()
    half.scaler.scale_value.set_data(Tensor(1024.0, ms.float32))
    losses = []
    batch = batches(rng, 1)[0]
    for step in range(30):
        exact, result = full(step, 1e-2, [batch]), half(step, 1e-2, [batch])
        losses.append(result.loss)
        if step == 0:
            assert 0 < abs(result.loss / exact.loss - 1) < 1e-2
            assert 0 < abs(result.norm / exact.norm - 1) < 1e-2  # the scale is divided out again
    assert half.skipped == 0 and losses[-1] < 0.8 * losses[0]
    assert all(parameter.dtype in (ms.float32, ms.int32) for parameter in half.parameters())  # counts are integers
    assert relative_error(weights(half), weights(full)) < 5e-2


@pytest.mark.parametrize("accumulation", [1, 2])
def test_an_overflow_skips_the_update_and_halves_the_scale(accumulation, rng):
    updates = make(precision="float16", accumulation=accumulation)
    first, second, third = batches(rng, 3)
    updates.scaler.scale_value.set_data(Tensor(1024.0, ms.float32))
    updates(0, 1e-2, parts(first, accumulation))
    before = everything(updates)
    updates.scaler.scale_value.set_data(Tensor(2.0**30, ms.float32))
    for count in (1, 2):
        update = updates(count, 1e-2, parts(second, accumulation))
        assert not np.isfinite(update.norm) and np.isfinite(update.loss)
        assert everything(updates) == before  # and no sum of gradients is left behind
        assert (updates.skipped, updates.skipped_in_a_row) == (count, count)
        assert updates.scaler.scale_value.asnumpy() == 2.0 ** (30 - count)
    updates.scaler.scale_value.set_data(Tensor(1024.0, ms.float32))
    assert np.isfinite(updates(3, 1e-2, parts(third, accumulation)).norm)
    assert (updates.skipped, updates.skipped_in_a_row) == (2, 0)
    undisturbed = make(precision="float16", accumulation=accumulation)
    undisturbed.scaler.scale_value.set_data(Tensor(1024.0, ms.float32))
    for step, batch in enumerate((first, third)):
        undisturbed(step, 1e-2, parts(batch, accumulation))
    assert everything(updates) == everything(undisturbed)


def test_a_scale_that_is_too_large_is_found_by_itself(rng):
    updates, (batch,) = make(precision="float16"), batches(rng, 1)
    updates.scaler.scale_value.set_data(Tensor(2.0**24, ms.float32))
    norms = [updates(step, 1e-3, [batch]).norm for step in range(20)]
    assert 0 < updates.skipped < 15 and np.isfinite(norms[-1])
    assert np.isfinite(norms).sum() == 20 - updates.skipped


@pytest.mark.parametrize("wrong, accumulation", [(np.nan, 1), (np.inf, 2)])
def test_what_is_not_finite_in_float32_is_an_error_and_changes_nothing(wrong, accumulation, rng):
    updates = make(accumulation=accumulation, ema_decay=0.9)
    good, bad, again = batches(rng, 3)
    updates(0, 1e-2, parts(good, accumulation))
    before = everything(updates)
    bad[0][1, 2] = bad[1][1, 2] = wrong  # in the first part
    with pytest.raises(NotFiniteError, match="step 2: the loss is (nan|inf).*Nothing was changed"):
        updates(1, 1e-2, parts(bad, accumulation))
    assert everything(updates) == before
    undisturbed = make(accumulation=accumulation, ema_decay=0.9)
    undisturbed(0, 1e-2, parts(good, accumulation))
    for each in (updates, undisturbed):
        each(1, 1e-2, parts(again, accumulation))
    assert everything(updates) == everything(undisturbed)


def test_a_scale_that_cannot_be_lowered_ends_the_run(rng):
    updates, (batch,) = make(precision="float16"), batches(rng, 1)
    batch[0][0, 0] = np.nan
    with pytest.raises(NotFiniteError):
        for step in range(30):
            updates(step, 1e-2, [batch])
    assert updates.scaler.scale_value.asnumpy() == 1


def test_the_learning_rate_rises_in_a_straight_line_and_falls_as_a_cosine():
    rate = LearningRate(2.0, 110, warmup_steps=10, final_share=0.1)
    assert [rate.at(step) for step in range(10)] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rate.at(10) == 2.0
    assert rate.at(60) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))  # half way
    assert rate.at(35) == pytest.approx(2.0 * (0.1 + 0.9 * (1 + np.sqrt(0.5)) / 2))
    assert rate.at(110) == rate.at(500) == pytest.approx(0.2)
    after = [rate.at(step) for step in range(10, 110)]
    assert after == sorted(after, reverse=True)
    assert LearningRate(3.0, 5).at(0) == 3.0
    assert LearningRate(3.0, 5, warmup_steps=9).at(8) == 3.0  # a run that ends before


def test_a_constant_learning_rate_stays_after_the_warm_up():
    rate = LearningRate(0.5, 100, warmup_steps=4, schedule="constant", final_share=0.1)
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
    rate, resumed = (LearningRate(8.0, 1000, **options, **plateau) for _ in range(2))
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
