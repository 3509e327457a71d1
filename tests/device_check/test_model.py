"""The model of shapes on the device: what differs from the reference is found."""

import mindspore as ms
import numpy as np
import pytest

from mindone_vq.device_check import kernels, model, times
from mindone_vq.device_check.sizes import Sizes
from mindone_vq.weights.store import assign


@pytest.fixture(scope="module")
def reference():
    with np.load(model.REFERENCE) as arrays:
        return dict(arrays)


@pytest.fixture
def changed(reference, monkeypatch):
    """The reference, which a test may change."""
    arrays = {name: array.copy() for name, array in reference.items()}
    monkeypatch.setattr(model, "stored", arrays.__getitem__)
    return arrays


def status(check):
    return [finding.status for finding in check()]


def test_codes(changed, reference, monkeypatch):
    """Of a pipeline that makes each step of the reference; a real one is a part of ``doctor --check``."""

    def steps(*_, callback_on_step_end, **__):
        for i, codes in enumerate(reference["codes"][1:]):
            callback_on_step_end(None, i, 0, {"latents": ms.Tensor(codes)})

    monkeypatch.setattr(model, "load", lambda dtype: steps)
    assert status(lambda: model.codes("float32")) == ["ok"]
    changed["codes"][5, :, :8] = 3  # 1 of 8 codes of a step
    (finding,) = model.codes("float32")
    assert finding.status == "WRONG" and finding.numbers["worst"] < 0.9 < finding.numbers["equal"]


def test_pictures_and_their_codes(changed):
    assert status(lambda: model.pictures("float32")) + status(model.encoder) == ["ok", "ok"]
    changed["pictures"][0, 3, 3, 0] += np.float16(0.004)
    changed["encoded"][0, :2] += 1
    assert status(lambda: model.pictures("float32")) + status(model.encoder) == ["WRONG", "WRONG"]


@pytest.mark.parametrize("name", ["text to image", "VQ-VAE"])
def test_a_training_step_that_differs(name, reference, changed, monkeypatch):
    numbers = float(reference[f"{name} loss"]), reference[f"{name} gradients"]
    monkeypatch.setattr(model, "loss_and_gradients", lambda *_: numbers)
    assert status(lambda: model.training(name, "float32")) == ["ok"]
    changed[f"{name} gradients"][3, 0] += 0.002 * changed[f"{name} gradients"].max()
    assert status(lambda: model.training(name, "float32")) == ["WRONG"]


@pytest.mark.slow
def test_a_training_step_of_another_model(monkeypatch):
    """Weights that are 1 % larger are found."""

    def scaled(dtype):
        pipe = load(dtype)
        for parameter in pipe.vqvae.get_parameters():
            assign(parameter, parameter.asnumpy() * 1.01, parameter.dtype)
        return pipe

    load = model.load
    monkeypatch.setattr(model, "load", scaled)
    assert status(lambda: model.training("VQ-VAE", "float32")) == ["WRONG"]


def test_kernels_of_a_step_are_counted():
    text = """subgraph @kernel_graph0() {
  %0(CNode_1) = PrimFunc_MatMul(%para1_x, %para1_x, Bool(0))
      : (<Tensor[Float32], (4, 4)>) -> (<Tensor[Float32], (4, 4)>)
  %1(CNode_2) = MakeTuple(%0)
  %2(CNode_3) = PrimFunc_Softmax(%0, (I64(-1))) primitive_attrs: {}
"""
    assert kernels.count_kernels(text) == 2


@pytest.mark.slow
def test_times_of_the_published_structure():
    sizes = Sizes(pixels=16, heads=2, head_dim=8, classes=12, tokens=6)
    (finding,) = times.times("small", lambda: times.published(sizes, layers=1))
    assert finding.numbers["first_call_s"] > finding.numbers["call_of_10_steps_s"] > 0
    assert finding.numbers["peak_bytes"] > 1e8
    assert times.published(sizes, layers=2).dtype == ms.float16
