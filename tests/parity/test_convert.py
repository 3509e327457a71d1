"""The converter on files that PyTorch and diffusers wrote."""

import argparse
import os

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor
from safetensors.torch import load_file

from mindone_vq import Transformer2DModel, VQDiffusionPipeline
from mindone_vq.weights.lazy import LazyTensor
from tests.conversion.test_convert import codes, convert
from tests.numerics import relative_error
from tests.parity.peers import pair_transformer, torch_component, torch_pipeline
from tests.parity.test_transformer import BASE, inputs, run
from tests.tiny_pipeline import random_pipeline


@pytest.fixture
def saved(rng, tmp_path):
    """A pipeline saved by diffusers, component by component, as .bin."""
    pipe = random_pipeline(rng)
    pipe.save_pretrained(tmp_path / "ours")
    theirs = torch_pipeline(tmp_path / "ours")
    for name, component in theirs.components.items():
        options = {} if name in ("scheduler", "tokenizer") else {"safe_serialization": False}
        component.save_pretrained(tmp_path / "bin" / name, **options)
    (tmp_path / "bin" / "model_index.json").write_bytes((tmp_path / "ours" / "model_index.json").read_bytes())
    assert len(list((tmp_path / "bin").rglob("*.bin"))) == 4
    return pipe, tmp_path / "bin"


def test_a_folder_of_pickles_is_converted_verified_and_loads_as_it_is(saved, tmp_path, capsys):
    pipe, folder = saved
    convert(folder, tmp_path / "out", "--verify")
    said = capsys.readouterr().out
    for name in ("vqvae", "transformer", "text_encoder"):
        assert f"verified: {name} agrees with PyTorch" in said
    assert np.array_equal(codes(VQDiffusionPipeline.from_pretrained(tmp_path / "out")), codes(pipe))
    assert np.array_equal(codes(VQDiffusionPipeline.from_pretrained(folder)), codes(pipe))


def test_verification_refuses_what_differs(saved, tmp_path, monkeypatch):
    _, folder = saved
    right = LazyTensor.read
    monkeypatch.setattr(LazyTensor, "read", lambda self: right(self) * 1.01)
    with pytest.raises(ValueError, match="differ from PyTorch"):
        convert(folder, tmp_path / "out", "--verify")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("zip_format", [True, False])
@pytest.mark.parametrize("container", [None, "state_dict", "model"])
def test_one_state_dict_in_any_container(zip_format, container, rng, tmp_path):
    config = dict(BASE, num_attention_heads=3, attention_head_dim=8)
    _, theirs = pair_transformer(**config)
    content = theirs.state_dict() if container is None else {container: theirs.state_dict(), "epoch": 3}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=zip_format)
    theirs.save_config(tmp_path)
    convert(tmp_path / "weights.pth", tmp_path / "out", "--config", tmp_path / "config.json")
    output, expected = run(Transformer2DModel.from_pretrained(tmp_path / "out"), theirs, *inputs(config, rng), 4)
    assert relative_error(output, expected) <= 1e-5
    reloaded = torch_component(type(theirs), tmp_path / "out")
    for key, value in theirs.state_dict().items():
        assert torch.equal(reloaded.state_dict()[key], value)


def test_objects_beside_the_tensors_are_refused_or_passed_over(rng, tmp_path):
    config = dict(BASE, num_attention_heads=3, attention_head_dim=8)
    _, theirs = pair_transformer(**config)
    content = {"state_dict": theirs.state_dict(), "hyper_parameters": argparse.Namespace(lr=1e-3)}
    torch.save(content, tmp_path / "lightning.ckpt")
    theirs.save_config(tmp_path)
    arguments = (tmp_path / "lightning.ckpt", tmp_path / "out", "--config", tmp_path / "config.json")
    with pytest.raises(ValueError, match=r"refers to argparse\.Namespace"):
        convert(*arguments)
    convert(*arguments, "--ignore-unknown-objects", "--report", tmp_path / "report.json")
    assert '"argparse.Namespace"' in (tmp_path / "report.json").read_text()
    x_t, text = inputs(config, rng)
    ours = Transformer2DModel.from_pretrained(tmp_path / "out")(Tensor(x_t, ms.int32), Tensor(text), 2)[0]
    expected = theirs(torch.tensor(x_t), torch.tensor(text), torch.tensor(2)).sample
    assert relative_error(ours, expected) <= 1e-5


@pytest.mark.parametrize("system_copies", [True, False])
def test_bytes_are_the_same_whether_or_not_the_system_copies_them(system_copies, rng, tmp_path, monkeypatch):
    config = dict(BASE, num_attention_heads=3, attention_head_dim=8)
    _, theirs = pair_transformer(**config)
    torch.save(theirs.state_dict(), tmp_path / "weights.bin")
    theirs.save_config(tmp_path)
    if not system_copies:
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    convert(tmp_path / "weights.bin", tmp_path / "out", "--config", tmp_path / "config.json")
    written = load_file(tmp_path / "out" / "diffusion_pytorch_model.safetensors")
    assert written.keys() == theirs.state_dict().keys()
    assert all(torch.equal(written[key], value) for key, value in theirs.state_dict().items())


def test_a_damaged_weight_is_found_while_it_is_copied(tmp_path):
    config = dict(BASE, num_attention_heads=3, attention_head_dim=8)
    _, theirs = pair_transformer(**config)
    weights = theirs.state_dict()
    torch.save(weights, tmp_path / "weights.bin")
    theirs.save_config(tmp_path)
    content = bytearray((tmp_path / "weights.bin").read_bytes())
    place = content.find(weights["out.weight"].numpy().tobytes())
    content[place + 5] ^= 1
    (tmp_path / "weights.bin").write_bytes(content)
    with pytest.raises(ValueError, match="do not have their checksum"):
        convert(tmp_path / "weights.bin", tmp_path / "out", "--config", tmp_path / "config.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json", "weights.bin"]
