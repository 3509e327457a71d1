"""A linear layer in training, on a CPU: its bias is one more column of the weight, and the results are the same."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindone_vq.nn.device import built_for
from mindone_vq.nn.linear import Linear


class Squares(nn.Cell):
    """The sum of the squares of a layer's output."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def construct(self, x, weight, bias):
        return ops.square(self.layer(x, {"weight": weight, "bias": bias})).sum()


@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7)])
def test_output_and_gradients_are_those_of_a_linear_layer(shape, rng):
    x, weight, bias = (rng.normal(size=size).astype(np.float32) for size in (shape, (4, 7), (4,)))
    expected = x @ weight.T + bias
    rows, outputs = x.reshape(-1, 7), 2 * expected.reshape(-1, 4)
    gradients = (outputs @ weight).reshape(shape), outputs.T @ rows, outputs.sum(0)
    for training in (True, False):
        cell = Squares(Linear()).set_train(training)
        graph = ms.jit(ms.value_and_grad(cell, (0, 1, 2)))
        value, found = graph(*map(Tensor, (x, weight, bias)))
        assert float(value) == pytest.approx((expected**2).sum(), rel=1e-5)
        for ours, theirs in zip(found, gradients):
            np.testing.assert_allclose(ours.asnumpy(), theirs, rtol=1e-4, atol=1e-4)


def test_only_training_on_a_cpu_has_the_bias_as_a_column(rng, monkeypatch):
    products = []
    monkeypatch.setattr("mindone_vq.nn.linear.linear", lambda x, weights, fused: products.append((x.shape, *weights)))
    x, weights = Tensor(np.ones((2, 7), np.float32)), {"weight": ops.ones((4, 7)), "bias": ops.ones((4,))}
    for target, training in (("CPU", True), ("CPU", False), ("Ascend", True)):
        with built_for(target):
            layer = Linear().set_train(training)
        layer.construct(x, weights)
    layer = Linear().set_train(True)
    layer.construct(x, {"weight": weights["weight"]})
    plain = ((2, 7), "weight", "bias")
    assert products == [((2, 8), "weight"), plain, plain, ((2, 7), "weight")]
