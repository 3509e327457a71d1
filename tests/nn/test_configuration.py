"""The options of MindSpore, from ``configure`` and from environment variables."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

import mindone_vq
from mindone_vq.nn import configuration as module
from mindone_vq.nn.configuration import Configuration, configuration, configure, jit


@pytest.fixture(autouse=True)
def _as_at_the_start(monkeypatch):
    for name in module.CHOICES:
        monkeypatch.delenv(f"MINDONE_VQ_{name.upper()}", raising=False)
    monkeypatch.setattr(module, "_current", None)


def double(x):
    return x + x


def test_what_is_not_configured_keeps_its_value():
    assert mindone_vq.configure is configure
    assert configuration() == Configuration("O0", "", None, None)
    configure(jit_level="O1")
    assert configure(fused_attention=False) == Configuration("O1", "", False, None) == configuration()


def test_environment_variables_are_read_once(monkeypatch):
    monkeypatch.setenv("MINDONE_VQ_JIT_LEVEL", "O1")
    monkeypatch.setenv("MINDONE_VQ_BACKEND", "ms_backend")
    monkeypatch.setenv("MINDONE_VQ_FUSED_ATTENTION", "off")
    monkeypatch.setenv("MINDONE_VQ_HF32", "1")
    assert configuration() == Configuration("O1", "ms_backend", False, True)
    monkeypatch.setenv("MINDONE_VQ_JIT_LEVEL", "O0")
    assert configuration().jit_level == "O1"


@pytest.mark.parametrize("name, value", [("jit_level", "O2"), ("backend", "ge"), ("hf32", "maybe"), ("hf32", 1)])
def test_a_value_that_an_option_does_not_take(name, value, monkeypatch):
    with pytest.raises(ValueError, match=f"{name} is {value!r}; it must be one of"):
        configure(**{name: value})
    monkeypatch.setenv(f"MINDONE_VQ_{name.upper()}", str(value))
    if value != 1:
        monkeypatch.setattr(module, "_current", None)
        with pytest.raises(ValueError, match=f"MINDONE_VQ_{name.upper()}: {name} is '{value}'; it must be one of"):
            configuration()


def test_an_option_that_does_not_exist():
    with pytest.raises(TypeError, match="no option level; it has jit_level, backend, fused_attention, hf32"):
        configure(level="O1")


def test_graphs_are_compiled_with_the_options(monkeypatch):
    given = {}
    monkeypatch.setattr(ms, "jit", lambda function, **options: given.update(options) or function)
    configure(jit_level="O1", backend="ms_backend")
    jit(double)
    assert given == {"fullgraph": True, "jit_level": "O1", "backend": "ms_backend"}


@pytest.mark.parametrize("level", ["O0", "O1"])
def test_graphs_of_both_levels_run(level):
    configure(jit_level=level)
    assert jit(double)(Tensor(np.float32([1, 2]))).asnumpy().tolist() == [2, 4]


def test_hf32_is_set_on_an_npu_alone(monkeypatch):
    taken = []
    precision = ms.device_context.ascend.op_precision
    for kind in ("conv", "matmul"):
        monkeypatch.setattr(precision, f"{kind}_allow_hf32", lambda value, kind=kind: taken.append((kind, value)))
    configure(hf32=False)
    assert taken == []
    monkeypatch.setattr(ms, "get_context", lambda name: {"device_target": "Ascend"}[name])
    configure(hf32=False)
    assert taken == [("conv", False), ("matmul", False)]
    monkeypatch.setattr(module, "_current", None)
    configure(jit_level="O1")
    assert len(taken) == 2
