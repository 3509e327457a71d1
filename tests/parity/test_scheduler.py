"""VQDiffusionScheduler against diffusers'."""

import mindspore as ms
import numpy as np
import pytest
import torch
from diffusers import VQDiffusionScheduler as TorchScheduler
from diffusers.schedulers.scheduling_vq_diffusion import index_to_log_onehot
from mindspore import Tensor

from mindone_vq import VQDiffusionScheduler
from tests.numerics import as_numpy

FLOOR = -69.0
CONFIGS = [
    dict(num_vec_classes=4097),
    dict(num_vec_classes=65),
    dict(num_vec_classes=6, num_train_timesteps=10),
    dict(
        num_vec_classes=33,
        num_train_timesteps=50,
        alpha_cum_start=0.95,
        alpha_cum_end=0.05,
        gamma_cum_start=0.03,
        gamma_cum_end=0.7,
    ),
]


def noisy_codes(rng, classes, batch=2, pixels=17):
    x_t = rng.integers(0, classes, (batch, pixels))
    x_t[rng.random(x_t.shape) < 0.4] = classes - 1
    return x_t


def log_probabilities(rng, shape, spread):
    return torch.log_softmax(torch.tensor(spread * rng.standard_normal(shape)), 1).float()


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_transition_rows_agree(config, rng):
    ours, theirs = VQDiffusionScheduler(**config), TorchScheduler(**config)
    x_t = noisy_codes(rng, config["num_vec_classes"])
    onehot = index_to_log_onehot(torch.tensor(x_t), config["num_vec_classes"])
    last = config.get("num_train_timesteps", 100) - 1
    for t in (1, last // 3, last - 1, last):
        for cumulative in (True, False):
            expected = theirs.log_Q_t_transitioning_to_known_class(
                t=t, x_t=torch.tensor(x_t), log_onehot_x_t=onehot, cumulative=cumulative
            )
            rows = ours.log_Q_t_transitioning_to_known_class(t=t, x_t=Tensor(x_t, ms.int32), cumulative=cumulative)
            assert_close_above_the_floor(rows, expected)


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("spread", [0.5, 3.0, 10.0])
def test_posteriors_agree(config, spread, rng):
    ours, theirs = VQDiffusionScheduler(**config), TorchScheduler(**config)
    classes = config["num_vec_classes"]
    last = config.get("num_train_timesteps", 100) - 1
    for t in (1, 2, last // 2, last - 1, last):
        x_t = noisy_codes(rng, classes)
        log_p_x_0 = log_probabilities(rng, (2, classes - 1, 17), spread).clamp(-70)
        expected = theirs.q_posterior(log_p_x_0, torch.tensor(x_t), torch.tensor(t))
        posterior = ours.q_posterior(Tensor(log_p_x_0.numpy()), Tensor(x_t, ms.int32), t)
        assert_close_above_the_floor(posterior, expected)


def assert_close_above_the_floor(ours, theirs):
    ours, theirs = as_numpy(ours), as_numpy(theirs)
    assert ours.shape == theirs.shape
    above = theirs > FLOOR
    assert above.mean() > 0.5
    assert np.abs(ours - theirs)[above].max() <= 1e-5
    assert (ours[~above] <= FLOOR + 1e-4).all()


def test_the_full_chain_has_the_same_timesteps():
    ours, theirs = VQDiffusionScheduler(33), TorchScheduler(33)
    ours.set_timesteps(100)
    theirs.set_timesteps(100)
    assert ours.timesteps.asnumpy().tolist() == theirs.timesteps.tolist()
