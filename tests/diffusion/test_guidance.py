import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq.diffusion.guidance import guidance_scale_at, guide


def log_probabilities(rng, shape):
    p = rng.dirichlet(np.full(shape[-1], 0.5), size=shape[:-1]).clip(1e-9)
    return np.log(p / p.sum(-1, keepdims=True)).astype(np.float32)


def rate(value):
    return Tensor(value, ms.float32)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.5])
def test_guidance_extrapolates(scale, rng):
    conditional, null = log_probabilities(rng, (2, 5, 7)), log_probabilities(rng, (2, 5, 7))
    guided = guide(Tensor(null), [Tensor(conditional)], rate(scale).reshape(1)).asnumpy()
    expected = null + scale * (conditional.astype(np.float64) - null)
    assert np.allclose(guided, expected, rtol=1e-6, atol=1e-5)


def test_guidance_of_one_is_the_conditional_and_of_zero_the_null(rng):
    conditional, null = log_probabilities(rng, (1, 5, 7)), log_probabilities(rng, (1, 5, 7))
    assert np.allclose(
        guide(Tensor(null), [Tensor(conditional)], rate(1.0).reshape(1)).asnumpy(), conditional, atol=1e-5
    )
    assert np.allclose(guide(Tensor(null), [Tensor(conditional)], rate(0.0).reshape(1)).asnumpy(), null, atol=1e-5)


def test_several_conditions_are_composed(rng):
    null, first, second = (log_probabilities(rng, (2, 5, 7)) for _ in range(3))
    scales = Tensor(np.array([1.5, -0.4], np.float32))
    guided = guide(Tensor(null), [Tensor(first), Tensor(second)], scales).asnumpy()
    expected = null + 1.5 * (first.astype(np.float64) - null) - 0.4 * (second.astype(np.float64) - null)
    assert np.allclose(guided, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(
    "schedule, expected",
    [
        ("constant", [5.0, 5.0, 5.0, 5.0]),
        ("linear", [1.0, 2.0, 4.0, 5.0]),
        ((0.25, 1.0), [5.0, 5.0, 5.0, 1.0]),
        ([0.5, 0.8], [1.0, 5.0, 1.0, 1.0]),
    ],
)
def test_guidance_goes_along_the_chain(schedule, expected):
    """From the noisy end to the clean one."""
    assert [guidance_scale_at(schedule, 5.0, time) for time in (1.0, 0.75, 0.25, 0.0)] == expected


@pytest.mark.parametrize("schedule", ["cosine", (0.5,), (0.8, 0.5), (-0.1, 0.5), 3])
def test_other_guidance_schedules_are_refused(schedule):
    with pytest.raises(ValueError, match="guidance_schedule is"):
        guidance_scale_at(schedule, 5.0, 0.5)
