import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq.nn.device import built_for
from mindone_vq.nn.normalization import GroupNorm, modulated_norm


@pytest.mark.parametrize("decomposed", [True, False], ids=["for a CPU", "for an NPU"])
@pytest.mark.parametrize("dtype, tolerance", [(ms.float32, 1e-5), (ms.float16, 5e-3)])
def test_both_forms_of_a_modulated_norm_are_its_formula(decomposed, dtype, tolerance, rng):
    x, scale, shift = rng.normal(2, 3, (28, 24)), rng.normal(size=24), rng.normal(size=24)
    expected = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-2) * scale + shift

    def norm(x, scale, shift):
        return modulated_norm(x, scale, shift, 1e-2, decomposed)

    result = ms.jit(norm, fullgraph=True)(*(Tensor(each, dtype) for each in (x, scale, shift)))
    assert result.dtype == dtype
    assert np.abs(result.asnumpy().astype(np.float64) - expected).max() <= tolerance * np.abs(expected).max()


@pytest.mark.parametrize("target", ["CPU", "Ascend"])
@pytest.mark.parametrize("shape, groups", [((1, 8, 5, 7), 2), ((3, 6, 4, 4), 6), ((2, 4, 16, 1), 1)])
def test_group_normalization_is_its_formula(target, shape, groups, rng):
    """Twice with other pictures: nothing is remembered of the first."""
    with built_for(target):
        norm = GroupNorm(groups, shape[1], eps=1e-3)
    gamma, beta = rng.normal(size=(2, shape[1])).astype(np.float32)
    norm.gamma.set_data(Tensor(gamma))
    norm.beta.set_data(Tensor(beta))
    run = ms.jit(norm, fullgraph=True)
    for mean, spread in ((0.0, 1.0), (300.0, 0.1)):
        x = (mean + spread * rng.normal(size=shape)).astype(np.float32)
        values = x.astype(np.float64).reshape(shape[0], groups, -1)
        centred = values - values.mean(-1, keepdims=True)
        expected = (centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-3)).reshape(shape)
        expected = expected * gamma[:, None, None] + beta[:, None, None]
        for result in (run(Tensor(x)), norm(Tensor(x))):
            assert np.abs(result.asnumpy() - expected).max() <= (2e-6 if mean == 0 else 2e-3)
