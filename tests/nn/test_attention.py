import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from mindone_vq.nn.attention import ScaledDotProductAttention
from mindone_vq.nn.device import built_for


def expected(query, key, value, heads, mask=0.0):
    """softmax(q k / sqrt(d) + mask) v, a head and a picture at a time, in float64."""
    output = np.empty_like(query)
    size = query.shape[-1] // heads
    for picture in range(len(query)):
        for head in range(heads):
            own = np.s_[picture, :, head * size : (head + 1) * size]
            scores = np.exp(query[own] @ key[own].T / np.sqrt(size) + mask)
            output[own] = scores / scores.sum(-1, keepdims=True) @ value[own]
    return output


def random_inputs(rng, heads, size, keys):
    return [rng.normal(size=(2, tokens, heads * size)) for tokens in (9, keys, keys)]


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("dtype, tolerance", [(ms.float32, 2e-6), (ms.float16, 5e-3)])
@pytest.mark.parametrize("heads, size, keys", [(3, 8, 9), (1, 20, 5), (4, 88, 77)])
def test_attention_is_its_formula(compiled, dtype, tolerance, heads, size, keys, rng):
    inputs, mask = random_inputs(rng, heads, size, keys), rng.normal(size=(9, keys))
    attend = ScaledDotProductAttention(heads)
    attend = ms.jit(attend, fullgraph=True) if compiled else attend
    for masks in ((), (Tensor(mask, ms.float32),)):
        output = attend(*(Tensor(each, dtype) for each in inputs), *masks)
        difference = output.asnumpy() - expected(*inputs, heads, mask if masks else 0.0)
        assert output.dtype == dtype and np.abs(difference).max() <= tolerance * 3


@pytest.mark.parametrize("heads, size, keys", [(3, 8, 9), (1, 16, 5), (4, 88, 77)])
def test_on_ascend_the_fused_kernel_gets_what_gives_the_same(heads, size, keys, rng, monkeypatch):
    """No CPU has the kernel; this stands in for it, and insists on what its documentation does."""
    calls = []

    def kernel(query, key, value, head_num, input_layout):
        calls.append(query.shape)
        assert query.dtype == ms.float16 and input_layout == "BSND"
        assert query.shape[2] == head_num == heads and query.shape[3] % 16 == 0
        query, key, value = (each.asnumpy().astype(np.float64) for each in (query, key, value))
        scores = np.exp(np.einsum("bqhd,bkhd->bhqk", query, key))
        weights = scores / scores.sum(-1, keepdims=True)
        return Tensor(np.einsum("bhqk,bkhd->bqhd", weights, value), ms.float16)

    monkeypatch.setattr(ops, "flash_attention_score", kernel)
    with built_for("Ascend"):
        attend = ScaledDotProductAttention(heads)
    inputs = random_inputs(rng, heads, size, keys)
    output = attend(*(Tensor(each, ms.float16) for each in inputs))
    assert np.abs(output.asnumpy() - expected(*inputs, heads)).max() <= 5e-3
    assert len(calls) == 1
    attend(*(Tensor(each, ms.float32) for each in inputs))  # a type that it does not take
    attend(*(Tensor(each, ms.float16) for each in inputs), Tensor(np.zeros((9, keys)), ms.float16))
    wide = Tensor(np.zeros((1, 2, heads * 513)), ms.float16)
    attend(wide, wide, wide)  # larger heads than it takes
    ScaledDotProductAttention(heads)(*(Tensor(each, ms.float16) for each in inputs))  # on this device
    assert len(calls) == 1
