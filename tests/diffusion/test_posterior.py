import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq import VQDiffusionScheduler
from mindone_vq.diffusion.posterior import posterior
from mindone_vq.diffusion.schedule import CLEAN
from tests.diffusion.brute_force import posterior as exact_posterior

T, K = 20, 6
STRONG = dict(alpha_cum_start=0.95, alpha_cum_end=0.05, gamma_cum_start=0.02, gamma_cum_end=0.7)


@pytest.mark.parametrize("options", [{}, STRONG], ids=["published", "much replacement"])
@pytest.mark.parametrize("t, s", [(19, 18), (19, 9), (19, CLEAN), (12, 3), (5, 0), (1, 0), (0, CLEAN), (10, 9)])
def test_a_step_has_the_exact_posterior(options, t, s, rng):
    scheduler = VQDiffusionScheduler(K + 1, T, **options)
    p_x_0 = rng.dirichlet(np.full(K, 0.3), size=(2, K + 1)).clip(1e-12)
    p_x_0 /= p_x_0.sum(-1, keepdims=True)
    x_t = np.tile(np.arange(K + 1), (2, 1))  # every state once
    log_p = np.log(p_x_0).transpose(0, 2, 1).astype(np.float32)
    p_x_0 = np.exp(log_p.astype(np.float64)).transpose(0, 2, 1)  # what float32 holds of it
    log_p = Tensor(log_p)
    result = np.exp(scheduler.q_posterior(log_p, Tensor(x_t, ms.int32), t, s).asnumpy().astype(np.float64))
    coefficients = Tensor(scheduler.schedule.transition_coefficients(t, s))
    p = Tensor(p_x_0.astype(np.float32))
    classes, mask = (each.asnumpy() for each in posterior(p, Tensor(x_t, ms.int32), coefficients))
    for_drawing = np.concatenate((classes, mask), -1)
    for_drawing /= for_drawing.sum(-1, keepdims=True)
    for image in range(2):
        for state in range(K + 1):
            expected = exact_posterior(scheduler.schedule, p_x_0[image, state], state, t, s)
            assert np.abs(for_drawing[image, state] - expected).max() <= 2e-6
            assert np.abs(result[image, :, state] - expected).max() <= 1e-6
            assert result[image, :, state].sum() == pytest.approx(1, abs=2e-6)


def test_the_last_step_is_the_networks_own_prediction(rng):
    scheduler = VQDiffusionScheduler(K + 1, T)
    log_p = np.log(rng.dirichlet(np.ones(K), size=(1, 9))).transpose(0, 2, 1).astype(np.float32)
    x_t = rng.integers(0, K + 1, (1, 9))
    result = scheduler.q_posterior(Tensor(log_p), Tensor(x_t, ms.int32), 4, CLEAN).asnumpy()
    assert np.abs(result[:, :-1] - log_p).max() <= 1e-5
    assert (np.exp(result[:, -1]) == 0).all()


@pytest.mark.parametrize("t, s", [(20, None), (-1, None), (5, 5), (5, 7), (5, -2)])
def test_timesteps_outside_the_process_are_refused(t, s):
    scheduler = VQDiffusionScheduler(K + 1, T)
    with pytest.raises(ValueError, match="timesteps go from|must be between"):
        scheduler.q_posterior(Tensor(np.zeros((1, K, 3), np.float32)), Tensor(np.zeros((1, 3)), ms.int32), t, s)
