"""The denoising step in its forms: as one graph, layer by layer, with the heads in groups."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, mutable, ops

from mindone_vq import (
    ClassTransformer2DModel,
    Transformer2DModel,
    UnconditionalTransformer2DModel,
    VQDiffusionScheduler,
)
from mindone_vq.diffusion.options import SamplingOptions
from mindone_vq.diffusion.sample_step import SampleStep
from mindone_vq.diffusion.samplers import Ancestral
from mindone_vq.nn import device
from mindone_vq.nn.device import groups_of_heads
from mindone_vq.pipelines import denoising
from mindone_vq.pipelines.compilation import GraphCache
from mindone_vq.pipelines.conditioning import LayerConditioning
from mindone_vq.pipelines.layers import Layer, as_inputs
from tests.numerics import relative_error
from tests.tiny_pipeline import random_pipeline, random_weights

SIZES = dict(
    num_attention_heads=3,
    attention_head_dim=8,
    num_layers=2,
    cross_attention_dim=10,
    sample_size=4,
    num_vector_embeds=30,
    num_embeds_ada_norm=7,
)
KINDS = {
    "published": dict(attention_bias=True, activation_fn="geglu-approximate"),
    "others": dict(activation_fn="geglu", norm_eps=1e-2, norm_elementwise_affine=False),
}


@pytest.fixture(params=KINDS)
def transformer(request, rng):
    return random_weights(Transformer2DModel(**SIZES, **KINDS[request.param]), rng, 0.3).set_train(False)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_block_with_the_weights_of_another_is_the_other(compiled, transformer, rng):
    context = Tensor(rng.normal(size=(2, 5, 10)).astype(np.float32))
    x, timesteps = Tensor(rng.normal(size=(2, 16, 24)).astype(np.float32)), Tensor(np.arange(7), ms.int32)
    first, second = transformer.transformer_blocks[:2]
    layer, conditioning = Layer(first), LayerConditioning(first)
    if compiled:
        layer, conditioning = ms.jit(layer, fullgraph=True), ms.jit(conditioning, fullgraph=True)
    weights = as_inputs(second.weights())
    inputs = mutable(conditioning(context, timesteps, weights))
    for t in (0, 6):
        expected = second(x, context, Tensor([t, t], ms.int32))
        result = layer(x, Tensor([t], ms.int32), inputs, weights)
        assert relative_error(result, expected) <= 2e-6


def test_all_forms_draw_the_same(transformer, rng, monkeypatch):
    """One graph; layer by layer; with the heads in groups: the draw from the network's own log p(x_0)."""
    guided = bool(transformer.config.attention_bias)  # with some of the kinds, without with the others
    scheduler, pictures = VQDiffusionScheduler(30, 7), 100
    options = SamplingOptions(guidance_scale=2.5 if guided else 1.0, truncation_rate=0.8)
    x_t = Tensor(rng.integers(0, 30, (pictures, 16)), ms.int32)
    texts = rng.normal(size=(1 + guided, pictures, 5, 10)).astype(np.float32)  # the null text last
    step, uniforms = scheduler.steps(7)[1], rng.random((1, pictures, 16), dtype=np.float32)
    known = np.zeros((pictures, 16), bool)

    timestep = Tensor(np.full(pictures, 5), ms.int32)
    log_p = [transformer.log_p_x_0(x_t, Tensor(text), timestep) for text in texts]
    guided_log_p = log_p[1] + 2.5 * (log_p[0] - log_p[1]) if guided else log_p[0]
    end = SampleStep(Ancestral.cell, "rate", 29, 16)
    inputs = (np.array([0.8], np.float32), step.parameters, uniforms, known)
    expected = end(guided_log_p, x_t, *(Tensor(each) for each in inputs)).asnumpy()

    assert groups_of_heads(3, pictures * 256) == 1
    for is_layer_by_layer, scores in ((True, 2**26), (True, 1), (False, 1)):
        monkeypatch.setattr(device, "MANY_SCORES", scores)
        monkeypatch.setattr(denoising, "layer_by_layer", lambda size, form=is_layer_by_layer: form)
        denoiser = denoising.Denoiser(transformer, GraphCache())
        conditioning = denoiser.condition(*texts)
        drawn = denoiser.step(conditioning, options)(x_t, [step], uniforms[None], known).asnumpy()
        assert (drawn == expected).mean() >= 0.999
        assert len(np.unique(drawn)) == 30


@pytest.mark.parametrize(
    "network, condition",
    [
        (Transformer2DModel(**{**SIZES, "cross_attention_dim": None}), np.zeros(2)),
        (Transformer2DModel(**{**SIZES, "num_embeds_ada_norm": None}), np.ones((2, 5, 10), np.float32)),
        (ClassTransformer2DModel(3, 8, 2, 4, 30, 7, num_class_embeds=4), np.array([0, 2], np.int32)),
        (UnconditionalTransformer2DModel(3, 8, 2, 4, 30, 7), np.zeros(2)),
    ],
    ids=["without text", "without timesteps", "classes", "unconditional"],
)
def test_every_kind_of_network_runs_in_both_forms(network, condition, rng, monkeypatch):
    """All through the same block: what the network's own call predicts is what its step draws from."""
    network = random_weights(network, rng, 0.3).set_train(False)
    scheduler, x_t = VQDiffusionScheduler(30, 7), Tensor(rng.integers(0, 30, (2, 16)), ms.int32)
    step, uniforms = scheduler.steps(7)[2], rng.random((1, 2, 16), dtype=np.float32)
    given = None if condition.dtype == np.float64 else Tensor(condition)
    p_x_0 = ops.exp(network.log_p_x_0(x_t, given, Tensor([4, 4], ms.int32)))
    expected = scheduler(p_x_0, x_t, Tensor(step.parameters), Tensor(uniforms[0])).asnumpy()
    for form in (True, False):
        monkeypatch.setattr(denoising, "layer_by_layer", lambda size, form=form: form)
        denoiser = denoising.Denoiser(network, GraphCache())
        denoise = denoiser.step(denoiser.condition(condition), SamplingOptions(guidance_scale=1.0))
        assert (denoise(x_t, [step], uniforms[None], np.zeros((2, 16), bool)).asnumpy() == expected).all()


def test_one_layer_is_compiled_for_all(rng, monkeypatch):
    monkeypatch.setattr(denoising, "layer_by_layer", lambda size: True)
    pipe = random_pipeline(rng, layers=2)
    codes = pipe(["a ring", "a cross"], 5, generator=0, output_type="latent").images.asnumpy()
    kinds = [kind for kind, *_ in pipe._graphs._graphs]
    assert kinds.count(Layer) == 1
    monkeypatch.setattr(denoising, "layer_by_layer", lambda size: False)
    assert (pipe(["a ring", "a cross"], 5, generator=0, output_type="latent").images.asnumpy() == codes).mean() >= 0.95
