"""The denoising step in its forms: as one graph, layer by layer, with the heads in groups."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor, mutable, ops

from mindone_vq import (
    ClassTransformer2DModel,
    Transformer2DModel,
    UnconditionalTransformer2DModel,
    VQDiffusionScheduler,
)
from mindone_vq.diffusion.options import SamplingOptions
from mindone_vq.diffusion.sample_step import UNKNOWN, SampleStep
from mindone_vq.diffusion.samplers import Ancestral
from mindone_vq.nn import device
from mindone_vq.nn.device import groups_of_heads
from mindone_vq.nn.normalization import centred_tokens
from mindone_vq.pipelines import compilation, denoising
from mindone_vq.pipelines.compilation import GraphCache
from mindone_vq.pipelines.conditioning import LayerConditioning
from mindone_vq.pipelines.layers import Layer, as_inputs
from mindone_vq.pipelines.prepared import PreparedNetwork
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


@pytest.fixture(params=["published", pytest.param("others", marks=pytest.mark.slow)])
def transformer(request, rng):
    return random_weights(Transformer2DModel(**SIZES, **KINDS[request.param]), rng, 0.3).set_train(False)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_block_with_the_weights_of_another_is_the_other(compiled, transformer, rng):
    context = Tensor(rng.normal(size=(2, 5, 10)).astype(np.float32))
    x = centred_tokens(Tensor(rng.normal(size=(2, 16, 24)).astype(np.float32)))  # as ``Embedding`` gives it
    timesteps = Tensor(np.arange(7), ms.int32)
    first, second = transformer.transformer_blocks[:2]
    layer, conditioning = Layer(first), LayerConditioning(first)
    if compiled:
        layer, conditioning = ms.jit(layer, fullgraph=True), ms.jit(conditioning, fullgraph=True)
    weights = as_inputs(second.weights())
    inputs = mutable(conditioning(context, timesteps, weights))
    for t in (0, 6):
        expected = centred_tokens(second(x, context, Tensor([t, t], ms.int32)))
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
    known = np.where(rng.random((pictures, 16)) < 0.3, rng.integers(0, 30, (pictures, 16)), UNKNOWN).astype(np.int32)

    timestep = Tensor(np.full(pictures, 5), ms.int32)
    log_p = [transformer.log_p_x_0(x_t, Tensor(text), timestep) for text in texts]
    guided_log_p = log_p[1] + 2.5 * (log_p[0] - log_p[1]) if guided else log_p[0]
    end = SampleStep(Ancestral.cell, "rate", 29, 16)
    inputs = (np.array([0.8], np.float32), step.parameters, uniforms)
    drawn = [end(guided_log_p, x_t, *map(Tensor, (*inputs, each))).asnumpy() for each in (known * 0 + UNKNOWN, known)]
    expected = np.where(known == UNKNOWN, drawn[0], known)
    assert np.array_equal(drawn[1], expected) and not np.array_equal(drawn[0], expected)

    assert groups_of_heads(3, pictures * 256) == 1
    for is_layer_by_layer, scores in ((True, 2**26), (True, 1), (False, 1)):
        monkeypatch.setattr(device, "MANY_SCORES", scores)
        monkeypatch.setattr(denoising, "layer_by_layer", lambda size, form=is_layer_by_layer: form)
        denoiser = denoising.Denoiser(transformer, GraphCache())
        conditioning = denoiser.condition(*texts)
        drawn = denoiser.step(conditioning, options)(x_t, [step], uniforms[None], known[None]).asnumpy()
        assert (drawn == expected).mean() >= 0.999
        assert len(np.unique(drawn)) == 30


@pytest.mark.parametrize(
    "network, condition",
    [
        (ClassTransformer2DModel(3, 8, 2, 4, 30, 7, num_class_embeds=4), np.array([0, 2], np.int32)),
        (UnconditionalTransformer2DModel(3, 8, 2, 4, 30, 7), np.zeros(2)),
        pytest.param(
            *(Transformer2DModel(**{**SIZES, "cross_attention_dim": None}), np.zeros(2)), marks=pytest.mark.slow
        ),
        pytest.param(
            *(Transformer2DModel(**{**SIZES, "num_embeds_ada_norm": None}), np.ones((2, 5, 10), np.float32)),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["classes", "unconditional", "without text", "without timesteps"],
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
        nothing_known = np.full((1, 2, 16), UNKNOWN, np.int32)
        assert (denoise(x_t, [step], uniforms[None], nothing_known).asnumpy() == expected).all()


def test_start_codes_are_read_by_the_network_and_masks_for_the_sampler(rng, monkeypatch):
    network = random_weights(UnconditionalTransformer2DModel(3, 8, 2, 4, 30, 7), rng, 0.3).set_train(False)
    scheduler, masks = VQDiffusionScheduler(30, 7, num_start_codes=2), Tensor(np.full((2, 16), 29, np.int32))
    start = scheduler.initial_codes(2, 16, 0)
    first, second = scheduler.steps(2)
    uniforms, nothing_known = rng.random((2, 1, 2, 16), dtype=np.float32), np.full((2, 2, 16), UNKNOWN, np.int32)

    def drawn(read, x_t, step, uniforms):
        p_x_0 = ops.exp(network.log_p_x_0(read, None, Tensor([step.timestep] * 2, ms.int32)))
        return scheduler(p_x_0, x_t, Tensor(step.parameters), Tensor(uniforms[0]))

    middle = drawn(start, masks, first, uniforms[0])
    expected = drawn(middle, middle, second, uniforms[1]).asnumpy()
    wrong = drawn(start, start, first, uniforms[0]).asnumpy()
    assert not np.array_equal(middle.asnumpy(), wrong)
    for form in (True, False):
        monkeypatch.setattr(denoising, "layer_by_layer", lambda size, form=form: form)
        denoiser = denoising.Denoiser(network, GraphCache(), scheduler.start_timestep)
        denoise = denoiser.step(denoiser.condition(np.zeros(2)), SamplingOptions(guidance_scale=1.0))
        x_t = start
        for i in range(2):
            x_t = denoise(x_t, [(first, second)[i]], uniforms[i : i + 1], nothing_known[i : i + 1])
            assert np.array_equal(x_t.asnumpy(), middle.asnumpy() if i == 0 else expected)


def test_one_layer_is_compiled_for_all(rng, monkeypatch):
    monkeypatch.setattr(denoising, "layer_by_layer", lambda size: True)
    pipe = random_pipeline(rng, layers=2)
    codes = pipe(["a ring", "a cross"], 5, generator=0, output_type="latent").images.asnumpy()
    kinds = [kind for kind, *_ in pipe._graphs._graphs]
    assert kinds.count(Layer) == 1
    monkeypatch.setattr(denoising, "layer_by_layer", lambda size: False)
    assert (pipe(["a ring", "a cross"], 5, generator=0, output_type="latent").images.asnumpy() == codes).mean() >= 0.95


@pytest.mark.parametrize("is_layer_by_layer", [True, False])
def test_on_a_cpu_float16_weights_are_widened_and_stay_as_they_are(is_layer_by_layer, rng, monkeypatch):
    """What is drawn is that of float32 weights with the same values: every product is of float32."""
    monkeypatch.setattr(denoising, "layer_by_layer", lambda size: is_layer_by_layer)
    half = random_pipeline(rng, layers=2)
    half.transformer.to(ms.float16)
    values = {each.name: each.asnumpy().copy() for each in half.transformer.get_parameters()}
    wide = random_pipeline(rng, layers=2)
    for mine, other in zip(wide.transformer.get_parameters(), half.transformer.get_parameters()):
        mine.set_data(Tensor(other.asnumpy(), ms.float32))
    wide = type(wide)(**{**half.components, "transformer": wide.transformer})
    for prompts in (["a ring"], ["a cross", "a ring"]):
        drawn = [pipe(prompts, 8, generator=0, output_type="latent").images.asnumpy() for pipe in (half, wide)]
        assert np.array_equal(*drawn)
    for each in half.transformer.get_parameters():
        assert each.dtype == ms.float16 and np.array_equal(each.asnumpy(), values[each.name])


@pytest.mark.parametrize("is_layer_by_layer", [pytest.param(True, marks=pytest.mark.slow), False])
def test_outside_of_a_guidance_interval_the_null_condition_is_not_computed(is_layer_by_layer, rng, monkeypatch):
    monkeypatch.setattr(denoising, "layer_by_layer", lambda size: is_layer_by_layer)
    pipe, rows = random_pipeline(rng, layers=2), []
    call = compilation.CompiledGraph.__call__

    def recorded(graph, *inputs):
        if graph.name == "layer":
            rows.append(inputs[0].shape[0])
        if graph.name == "denoising step":
            count, contributions = inputs[1], inputs[3]
            rows.extend([contributions[1].shape[0]] * 2 * int(count[0]))
        return call(graph, *inputs)

    monkeypatch.setattr(compilation.CompiledGraph, "__call__", recorded)
    options = dict(num_inference_steps=10, generator=0, output_type="latent")
    codes = pipe(["a", "b"], guidance_scale=3.0, guidance_schedule=(0.25, 0.65), **options).images.asnumpy()
    assert rows == [2] * 2 * 3 + [4] * 2 * 4 + [2] * 2 * 3  # two pictures, two layers; timesteps 9-7, 6-3, 2-0 of 10
    everywhere = pipe(["a", "b"], guidance_scale=3.0, guidance_schedule=(0.0, 1.0), **options).images.asnumpy()
    nowhere = pipe(["a", "b"], guidance_scale=1.0, **options).images.asnumpy()
    assert not np.array_equal(codes, everywhere) and not np.array_equal(codes, nowhere)


def test_the_weights_of_steps_are_those_of_now(transformer, rng):
    network = PreparedNetwork(transformer)
    for _ in range(2):
        for parameter in transformer.get_parameters():
            parameter.copy_(Tensor(rng.normal(size=parameter.shape).astype(np.float32)))
        network.refresh()
        fresh = PreparedNetwork(transformer)
        assert np.array_equal(network.modulations.asnumpy(), fresh.modulations.asnumpy())
        for stored, expected in zip(network.layers, fresh.layers):
            held, expected = flat(stored.weights()), flat(expected.weights())
            assert held.keys() == expected.keys()
            assert all(np.array_equal(held[name].asnumpy(), expected[name].asnumpy()) for name in expected)


def flat(weights):
    """Nested weights, each under its whole name."""
    named = {}
    for name, value in weights.items():
        inner = flat(value) if isinstance(value, dict) else {"": value}
        named.update({f"{name}.{rest}": each for rest, each in inner.items()})
    return named


def test_a_parameter_that_was_exchanged_keeps_its_values(transformer):
    """Also where the new one is of a type that has to be converted."""
    graphs, layer = GraphCache(), transformer.transformer_blocks[0].attn1.to_q
    network, exchanged, values = graphs.hold(PreparedNetwork, transformer), layer.weight, layer.weight.asnumpy().copy()
    assert graphs.hold(PreparedNetwork, transformer) is network
    layer.weight = Parameter(Tensor(values + 1, ms.float16), name=exchanged.name)
    assert graphs.hold(PreparedNetwork, transformer) is not network
    assert np.array_equal(exchanged.asnumpy(), values)
