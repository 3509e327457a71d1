import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq.nn.normalization import modulated_norm


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
