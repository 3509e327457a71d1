import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, ops

from mindone_vq.nn.attention import Attention, ScaledDotProductAttention
from mindone_vq.nn.device import built_for
from mindone_vq.weights.store import assign


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


@pytest.fixture
def calls(monkeypatch):
    """The shapes of the queries that the fused kernel gets.

    No CPU has it; this stands in for it, and insists on what its documentation does.
    """
    shapes = []

    def kernel(query, key, value, head_num, input_layout):
        shapes.append(query.shape)
        assert query.dtype == ms.float16 and input_layout == "BSND"
        assert query.shape[2] == head_num and query.shape[3] % 16 == 0
        query, key, value = (each.asnumpy().astype(np.float64) for each in (query, key, value))
        scores = np.exp(np.einsum("bqhd,bkhd->bhqk", query, key))
        weights = scores / scores.sum(-1, keepdims=True)
        return Tensor(np.einsum("bhqk,bkhd->bqhd", weights, value), ms.float16)

    monkeypatch.setattr(ops, "flash_attention_score", kernel)
    return shapes


@pytest.mark.parametrize("heads, size, keys", [(3, 8, 9), (1, 16, 5), (4, 88, 77)])
def test_on_ascend_the_fused_kernel_gets_what_gives_the_same(heads, size, keys, rng, calls):
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


@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("size", [16, 20])
@pytest.mark.parametrize("weights_dtype", [ms.float16, ms.float32])
def test_weights_of_float32_fit_activations_of_float16(weights_dtype, size, cross, rng, calls):
    """As mixed precision has them: then the zeros at the ends of heads are not in the weights."""
    heads, width = 2, 2 * size
    with built_for("Ascend"):
        attention = Attention(width, heads, size, cross_attention_dim=width if cross else None, bias=True)
    layers = (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
    for layer in layers:
        assign(layer.weight, rng.normal(0, 0.3, layer.weight.shape), weights_dtype)
        assign(layer.bias, rng.normal(0, 0.3, layer.bias.shape), weights_dtype)
    x = rng.normal(size=(2, 9, width))
    weights, split = attention.prepared(attention.weights(), is_centred=False), attention.attend.split

    def product(name):
        layer = weights[name]
        return Tensor(x @ layer["weight"].asnumpy().T + layer["bias"].asnumpy(), ms.float16)

    if cross:
        parts = [split(product(name)) for name in ("to_q", "to_k", "to_v")]
    else:
        parts = attention.attend.split_qkv(product("to_qkv"))
    attended = attention.attend.attend(*parts).astype(weights_dtype)
    output = attention.output(attended, weights).asnumpy()
    query, key, value, out = [(each.weight.asnumpy().astype(float), each.bias.asnumpy()) for each in layers]
    inputs = [x @ matrix.T + bias for matrix, bias in (query, key, value)]
    reference = expected(*inputs, heads) @ out[0].T + out[1]
    assert np.abs(output - reference).max() <= 2e-2
    assert calls == [(2, 9, heads, -size // 16 * -16)]
