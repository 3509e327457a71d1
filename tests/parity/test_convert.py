"""The converter on files that PyTorch and diffusers wrote."""

import argparse
import os

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mindone_vq import Transformer2DModel, VQDiffusionPipeline
from mindone_vq.weights.lazy import LazyTensor
from tests.conversion.test_convert import assert_same_weights, convert
from tests.numerics import relative_error
from tests.parity.peers import pair_transformer, torch_pipeline
from tests.parity.test_transformer import BASE, inputs, run
from tests.tiny_pipeline import random_pipeline

CONFIG = dict(BASE, num_attention_heads=3, attention_head_dim=8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A pipeline saved by us, and by diffusers, component by component, as .bin."""
    folder = tmp_path_factory.mktemp("saved")
    random_pipeline(np.random.default_rng(0)).save_pretrained(folder / "ours")
    for name, component in torch_pipeline(folder / "ours").components.items():
        options = {} if name in ("scheduler", "tokenizer") else {"safe_serialization": False}
        component.save_pretrained(folder / "bin" / name, **options)
    (folder / "bin" / "model_index.json").write_bytes((folder / "ours" / "model_index.json").read_bytes())
    assert len(list((folder / "bin").rglob("*.bin"))) == 4
    return folder


def test_a_folder_of_pickles_is_converted_verified_and_loads_as_it_is(saved, tmp_path, capsys):
    convert(saved / "bin", tmp_path / "out", "--verify")
    output = capsys.readouterr().out
    for name in ("vqvae", "transformer", "text_encoder"):
        assert f"verified: {name} agrees with PyTorch" in output
    assert_same_weights(tmp_path / "out", saved / "ours")
    pipe = VQDiffusionPipeline.from_pretrained(saved / "bin")
    written = load_file(tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors")
    assert np.array_equal(pipe.transformer.out.weight.asnumpy(), written["out.weight"].numpy())


def test_verification_refuses_what_differs(saved, tmp_path, monkeypatch):
    right = LazyTensor.read
    monkeypatch.setattr(LazyTensor, "read", lambda self: right(self) * 1.01)
    with pytest.raises(ValueError, match="differ from PyTorch"):
        convert(saved / "bin", tmp_path / "out", "--verify", "--component", "text_encoder")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    """PyTorch's transformer, and the folder of its config."""
    _, network = pair_transformer(**CONFIG)
    folder = tmp_path_factory.mktemp("config")
    network.save_config(folder)
    return network, folder / "config.json"


def assert_bit_equal(folder, network):
    written = load_file(folder / "diffusion_pytorch_model.safetensors")
    assert written.keys() == network.state_dict().keys()
    assert all(torch.equal(written[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("container, zip_format", [(None, True), ("state_dict", False), ("model", True)])
def test_one_state_dict_in_any_container(container, zip_format, theirs, rng, tmp_path):
    network, config = theirs
    weights = network.state_dict()
    content = weights if container is None else {container: weights, "epoch": 3}
    torch.save(content, tmp_path / "weights.pth", _use_new_zipfile_serialization=zip_format)
    convert(tmp_path / "weights.pth", tmp_path / "out", "--config", config)
    assert_bit_equal(tmp_path / "out", network)
    if container is None:
        ours = Transformer2DModel.from_pretrained(tmp_path / "out")
        assert relative_error(*run(ours, network, *inputs(CONFIG, rng), 4)) <= 1e-5


def test_objects_beside_the_tensors_are_refused_or_skipped(theirs, tmp_path):
    network, config = theirs
    content = {"state_dict": network.state_dict(), "hyper_parameters": argparse.Namespace(lr=1e-3)}
    torch.save(content, tmp_path / "lightning.ckpt")
    arguments = (tmp_path / "lightning.ckpt", tmp_path / "out", "--config", config)
    with pytest.raises(ValueError, match=r"argparse\.Namespace"):
        convert(*arguments)
    convert(*arguments, "--ignore-unknown-objects", "--report", tmp_path / "report.json")
    assert '"argparse.Namespace"' in (tmp_path / "report.json").read_text()
    assert_bit_equal(tmp_path / "out", network)


def test_bytes_are_the_same_where_the_system_does_not_copy_them(theirs, tmp_path, monkeypatch):
    network, config = theirs
    torch.save(network.state_dict(), tmp_path / "weights.bin")
    monkeypatch.delattr(os, "copy_file_range", raising=False)
    convert(tmp_path / "weights.bin", tmp_path / "out", "--config", config)
    assert_bit_equal(tmp_path / "out", network)


def test_a_damaged_weight_is_found_while_it_is_copied(theirs, tmp_path):
    network, config = theirs
    weights = network.state_dict()
    torch.save(weights, tmp_path / "weights.bin")
    content = bytearray((tmp_path / "weights.bin").read_bytes())
    content[content.find(weights["out.weight"].numpy().tobytes()) + 5] ^= 1
    (tmp_path / "weights.bin").write_bytes(content)
    with pytest.raises(ValueError, match="do not have their checksum"):
        convert(tmp_path / "weights.bin", tmp_path / "out", "--config", config)
    assert [path.name for path in tmp_path.iterdir()] == ["weights.bin"]
