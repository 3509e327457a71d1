import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq.diffusion.guidance import LOG_FLOOR, guide, truncate


def log_probabilities(rng, shape):
    p = rng.dirichlet(np.full(shape[-1], 0.5), size=shape[:-1]).clip(1e-9)
    return np.log(p / p.sum(-1, keepdims=True)).astype(np.float32)


def rate(value):
    return Tensor(value, ms.float32)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.5])
def test_guidance_extrapolates_and_normalises(scale, rng):
    conditional, null = log_probabilities(rng, (2, 5, 7)), log_probabilities(rng, (2, 5, 7))
    guided = guide(Tensor(conditional), Tensor(null), rate(scale)).asnumpy().astype(np.float64)
    assert np.allclose(np.exp(guided).sum(-1), 1, atol=1e-5)
    expected = null + scale * (conditional.astype(np.float64) - null)
    assert np.allclose(guided - expected, (guided - expected)[..., :1], atol=1e-4)


def test_guidance_of_one_is_the_conditional_and_of_zero_the_null(rng):
    conditional, null = log_probabilities(rng, (1, 5, 7)), log_probabilities(rng, (1, 5, 7))
    assert np.allclose(guide(Tensor(conditional), Tensor(null), rate(1.0)).asnumpy(), conditional, atol=1e-5)
    assert np.allclose(guide(Tensor(conditional), Tensor(null), rate(0.0)).asnumpy(), null, atol=1e-5)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.86, 0.99])
def test_a_class_stays_while_those_likelier_carry_less_than_the_rate(share, rng):
    log_p = log_probabilities(rng, (2, 5, 30))
    p = np.exp(log_p.astype(np.float64))
    likelier = np.array([[[row[row > q].sum() for q in row] for row in image] for image in p])
    truncated = truncate(Tensor(log_p), rate(share)).asnumpy()
    stays = likelier < share
    assert np.array_equal(truncated[stays], log_p[stays])
    assert (truncated[~stays] == LOG_FLOOR).all()
    assert stays.any(-1).all()
    assert (~stays).any()


def test_rate_one_keeps_everything(rng):
    log_p = log_probabilities(rng, (2, 5, 30))
    assert np.array_equal(truncate(Tensor(log_p), rate(1.0)).asnumpy(), log_p)


def test_nothing_falls_below_the_floor():
    log_p = np.array([[[-1e-7, -80.0, -500.0]]], np.float32)
    assert truncate(Tensor(log_p), rate(1.0)).asnumpy().min() == LOG_FLOOR
