import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq.diffusion.truncation import (
    LOG_FLOOR,
    NEGLIGIBLE,
    probabilities,
    top_k_mask,
    truncate,
    truncation_mask,
)


def log_probabilities(rng, shape):
    p = rng.dirichlet(np.full(shape[-1], 0.5), size=shape[:-1]).clip(1e-9)
    return np.log(p / p.sum(-1, keepdims=True)).astype(np.float32)


def amount(value):
    return Tensor([value], ms.float32)


def test_probabilities_have_a_floor_and_none_is_subnormal(rng):
    logits = np.concatenate((rng.normal(0, 40, (3, 50, 257)), rng.normal(0, 0.1, (3, 50, 257)))).astype(np.float32)
    below = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    expected = np.exp(np.maximum(below, LOG_FLOOR))
    expected /= expected.sum(-1, keepdims=True)
    p = probabilities(Tensor(logits)).asnumpy()
    assert (below < -103).any()  # 0 in float32
    assert p.min() >= np.finfo(np.float32).tiny
    # MindSpore's exp on a CPU: 3e-6 of its value near 1, more where it is small
    assert np.allclose(p[below > -20], expected[below > -20], rtol=1e-5, atol=0)
    assert np.allclose(p, expected, rtol=5e-5, atol=0)


@pytest.mark.parametrize("sorts", [False, True])
@pytest.mark.parametrize("share", [1e-6, 0.86, 0.999999])
@pytest.mark.parametrize("sharpness", [0.3, 30.0])
@pytest.mark.parametrize("classes", [1, 3, 257, 4096])
def test_truncation_agrees_with_sorting(classes, sharpness, share, sorts, rng):
    """In float64, of every class but those so near the rate that rounding decides."""
    logits = sharpness * rng.standard_normal((2, 20, classes))
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p = (p / p.sum(-1, keepdims=True)).astype(np.float32)
    order = np.argsort(-p.astype(np.float64), axis=-1, kind="stable")
    descending = np.take_along_axis(p.astype(np.float64), order, -1)
    before = np.empty_like(descending)
    np.put_along_axis(before, order, np.cumsum(descending, -1) - descending, -1)
    kept = truncation_mask(Tensor(p), amount(share), sorts).asnumpy()
    clear = np.abs(before - share) > 1e-6
    assert np.array_equal(kept[clear], (before < share)[clear])
    assert clear.mean() > 0.5 or share in (1e-6, 0.999999)
    assert np.take_along_axis(kept, p.argmax(-1)[..., None], -1).all()


@pytest.mark.parametrize("sorts", [False, True])
@pytest.mark.parametrize("sharpness", [0.3, 30.0])
@pytest.mark.parametrize("k, classes", [(1, 2), (1, 300), (3, 5), (7, 300), (300, 300), (400, 300)])
def test_the_k_likeliest_stay(k, classes, sharpness, sorts, rng):
    p = np.exp(sharpness * rng.standard_normal((2, 20, classes)))
    p = (p / p.sum(-1, keepdims=True)).astype(np.float32)
    least = np.sort(p, -1)[..., -min(k, classes)]
    expected = (p >= least[..., None]) & (p > NEGLIGIBLE)
    assert np.array_equal(top_k_mask(Tensor(p), amount(k), sorts).asnumpy(), expected)


@pytest.mark.parametrize("sorts", [False, True])
def test_equal_probabilities_stay_or_go_together(sorts):
    p = np.array([[[0.3, 0.1, 0.3, 0.1, 0.2]]], np.float32)
    for share, expected in ((0.2, [1, 0, 1, 0, 0]), (0.7, [1, 0, 1, 0, 1]), (0.85, [1, 1, 1, 1, 1])):
        assert truncation_mask(Tensor(p), amount(share), sorts).asnumpy().ravel().tolist() == expected


@pytest.mark.parametrize("share", [0.01, 0.5, 0.86, 0.99])
def test_a_class_stays_while_those_likelier_carry_less_than_the_amount(share, rng):
    log_p = log_probabilities(rng, (2, 5, 30))
    p = np.exp(log_p.astype(np.float64))
    likelier = np.array([[[row[row > q].sum() for q in row] for row in image] for image in p])
    truncated = truncate(Tensor(log_p), amount(share)).asnumpy()
    kept = likelier < share
    assert np.array_equal(truncated[kept], log_p[kept])
    assert (truncated[~kept] == LOG_FLOOR).all()
    assert kept.any(-1).all()
    assert (~kept).any()


def test_rate_one_keeps_everything(rng):
    log_p = log_probabilities(rng, (2, 5, 30))
    assert np.array_equal(truncate(Tensor(log_p), amount(1.0)).asnumpy(), log_p)


def test_nothing_falls_below_the_floor():
    log_p = np.array([[[-1e-7, -80.0, -500.0]]], np.float32)
    assert truncate(Tensor(log_p), amount(1.0)).asnumpy().min() == LOG_FLOOR
