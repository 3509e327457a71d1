"""Weights that change after the first call: the next call is that of a new pipeline, and compiles nothing."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, ops

from mindone_vq import VQDiffusionInpaintPipeline, VQDiffusionPipeline
from mindone_vq.nn import device
from mindone_vq.pipelines import denoising
from tests.compilation import compiled_graphs
from tests.tiny_pipeline import random_pipeline

PARTS = ("transformer", "vqvae", "text_encoder", "learned_classifier_free_sampling_embeddings")


def load_param_into_net(cell, values):
    parameters = {name: Parameter(value, name=name) for name, value in values.items()}
    assert ms.load_param_into_net(cell, parameters) == ([], [])


def set_data(cell, values):
    for name, parameter in cell.parameters_dict().items():
        parameter.set_data(values[name])


def set_data_of_numpys_memory(cell, values):
    for name, parameter in cell.parameters_dict().items():
        parameter.set_data(Tensor.from_numpy(values[name].asnumpy().copy()))


def assign(cell, values):
    for name, parameter in cell.parameters_dict().items():
        ops.assign(parameter, values[name])


def copy_(cell, values):
    for name, parameter in cell.parameters_dict().items():
        parameter.copy_(values[name])


def moved(cell, rng):
    """New values of every parameter."""
    return {
        name: Tensor((parameter.asnumpy() * rng.uniform(0.5, 1.5, parameter.shape)).astype(np.float32))
        for name, parameter in cell.parameters_dict().items()
    }


def pictures(pipe):
    codes = VQDiffusionPipeline.__call__(pipe, ["a ring", "a cross"], 4, generator=0, output_type="latent").images
    return codes.asnumpy(), pipe.decode_latents(codes, "np")


def run(pipe):
    """Codes, pictures, and what the encoder makes of a picture: every graph."""
    codes, images = pictures(pipe)
    return codes, images, pipe.encode_pictures((images * 255).round().astype(np.uint8))


@pytest.fixture(params=["one graph", "layer by layer", pytest.param("heads in groups", marks=pytest.mark.slow)])
def pipe(request, monkeypatch):
    monkeypatch.setattr(denoising, "layer_by_layer", lambda size: request.param != "one graph")
    monkeypatch.setattr(device, "MANY_SCORES", 1 if "groups" in request.param else 2**26)
    return VQDiffusionInpaintPipeline.from_pipe(random_pipeline(np.random.default_rng(3)))


def test_a_call_takes_the_weights_as_they_are(pipe, rng):
    before = run(pipe)
    graphs = compiled_graphs()
    for change in (load_param_into_net, set_data, set_data_of_numpys_memory, assign, copy_):
        for name in PARTS:
            part = pipe.components[name]
            change(part, moved(part, rng))
        after = run(pipe)
        assert all(not np.array_equal(*each) for each in zip(before[:2], after[:2]))
        before = after
    assert compiled_graphs() == graphs
    fresh = run(VQDiffusionInpaintPipeline(**pipe.components))
    assert all(np.array_equal(*each) for each in zip(after, fresh))


def test_new_parameters_and_another_type_are_noticed(rng):
    pipe = random_pipeline(np.random.default_rng(3))
    pictures(pipe)
    for owner in (pipe.transformer.out, pipe.vqvae.decoder.conv_out):
        old = owner.weight
        owner.weight = Parameter(Tensor(rng.normal(size=old.shape).astype(np.float32)), name=old.name)
    pipe.text_encoder.to(ms.float16)
    ours, fresh = pictures(pipe), pictures(VQDiffusionPipeline(**pipe.components))
    assert all(np.array_equal(*each) for each in zip(ours, fresh))
