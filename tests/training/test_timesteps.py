"""TimestepSampler: what is drawn, and that a loss divided by its probability is unbiased."""

import numpy as np
import pytest

from mindone_vq.training.text_to_image.timesteps import TimestepSampler

T = 12


def warmed_up(rng, importance=True):
    """Losses of very different size at every timestep, each seen 11 times."""
    sampler = TimestepSampler(T, importance)
    for _ in range(11):
        sampler.update(np.arange(T, dtype=np.int32), rng.exponential(np.geomspace(300, 0.5, T)).astype(np.float32))
    return sampler


def test_all_are_as_likely_until_each_was_seen_more_than_ten_times():
    sampler = TimestepSampler(T)
    losses = np.linspace(9, 1, T).astype(np.float32)
    for _ in range(10):
        assert (sampler.probabilities() == 1 / T).all()
        sampler.update(np.arange(T), losses)
    sampler.update(np.arange(T - 1), losses[:-1])
    assert (sampler.probabilities() == 1 / T).all()  # one was seen ten times
    sampler.update(np.array([T - 1]), losses[-1:])
    assert sampler.probabilities()[1] > 2 * sampler.probabilities()[-1]


def test_then_in_proportion_to_the_root_of_the_mean_squared_loss(rng):
    sampler = TimestepSampler(T)
    history = np.zeros(T)
    for _ in range(40):
        timesteps = rng.permutation(np.repeat(np.arange(T), 2))  # twice in a batch: one after the other
        losses = rng.exponential(np.geomspace(100, 1e-4, T)[timesteps]).astype(np.float32)
        sampler.update(timesteps.astype(np.int32), losses)
        for t, loss in zip(timesteps, losses):
            history[t] = 0.9 * history[t] + 0.1 * float(loss) ** 2
    weights = np.sqrt(history + 1e-10) + 1e-4
    weights[0] = weights[1]
    assert np.allclose(sampler.probabilities(), weights / weights.sum(), rtol=1e-12)
    assert sampler.probabilities().sum() == pytest.approx(1, abs=1e-14)


def test_no_timestep_is_left_out_though_its_loss_is_nothing():
    sampler = TimestepSampler(T)
    for _ in range(11):
        sampler.update(np.arange(T), np.where(np.arange(T) == 3, 1.0, 0.0))
    assert sampler.probabilities().min() > 1e-5


def test_without_importance_all_stay_as_likely(rng):
    assert (warmed_up(rng, importance=False).probabilities() == 1 / T).all()


@pytest.mark.parametrize("kind", ["not warmed up", "importance", "uniform"])
def test_a_loss_divided_by_its_probability_is_unbiased(kind, rng):
    sampler = TimestepSampler(T) if kind == "not warmed up" else warmed_up(rng, kind == "importance")
    means = rng.uniform(0.5, 3, T) * np.geomspace(200, 1, T)
    estimates = []
    for _ in range(400):
        timesteps, probabilities = sampler.draw(500, rng)
        assert (timesteps.dtype, probabilities.dtype) == (np.int32, np.float32)
        losses = means[timesteps] * rng.exponential(1, len(timesteps))
        estimates.append(losses / probabilities)
    estimates = np.concatenate(estimates)
    error = estimates.std() / np.sqrt(len(estimates))
    assert abs(estimates.mean() - means.sum()) <= 4 * error
    assert error < 0.01 * means.sum()  # a bias of a few percent would be seen


def test_importance_makes_the_estimate_vary_less(rng):
    means = np.geomspace(300, 0.5, T)
    spread = {}
    for importance in (True, False):
        timesteps, probabilities = warmed_up(rng, importance).draw(20_000, rng)
        spread[importance] = (means[timesteps] / probabilities).std()
    assert spread[True] < 0.6 * spread[False]


def test_a_restored_state_draws_the_same(rng):
    sampler, other = warmed_up(rng), TimestepSampler(T)
    state = {key: array.copy() for key, array in sampler.state().items()}
    other.restore(state)
    for _ in range(3):
        draws = [each.draw(50, np.random.default_rng(1)) for each in (sampler, other)]
        for ours, theirs in zip(*draws):
            assert np.array_equal(ours, theirs)
        for each in (sampler, other):
            each.update(draws[0][0], np.linspace(1, 9, 50).astype(np.float32))
    assert not np.array_equal(state["timestep_history"], other.history)  # what was read is left as it is
    assert state["timestep_counts"].sum() == 11 * T
