"""A denoising step in its forms: as cells, as one graph with weights as arguments, layer by layer."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq import VQDiffusionScheduler
from mindone_vq.diffusion.samplers import Ancestral
from mindone_vq.models.transformer import Transformer2DModel
from mindone_vq.nn import device
from mindone_vq.nn.device import groups_of_heads
from mindone_vq.nn.stateless import (
    LayerConditioning,
    StatelessBlock,
    block_weights,
    conditioning_weights,
)
from mindone_vq.pipelines import denoising
from mindone_vq.pipelines.graphs import DenoisingStep, GraphCache
from tests.numerics import relative_error
from tests.tiny_pipeline import random_pipeline, random_weights

SIZES = dict(
    num_attention_heads=3,
    attention_head_dim=8,
    num_layers=3,
    cross_attention_dim=10,
    sample_size=4,
    num_vector_embeds=30,
    num_embeds_ada_norm=7,
)
KINDS = {
    "published": dict(attention_bias=True, activation_fn="geglu-approximate"),
    "gated": dict(activation_fn="geglu", norm_eps=1e-2),
    "plain": dict(activation_fn="gelu", norm_elementwise_affine=False),
    "tanh": dict(attention_bias=True, activation_fn="gelu-approximate"),
}


@pytest.fixture(params=KINDS)
def transformer(request, rng):
    return random_weights(Transformer2DModel(**SIZES, **KINDS[request.param]), rng, 0.3).set_train(False)


@pytest.mark.parametrize("compiled", [True, False])
def test_a_block_with_its_weights_as_arguments_is_the_block(compiled, transformer, rng):
    context = Tensor(rng.normal(size=(2, 5, 10)).astype(np.float32))
    x = Tensor(rng.normal(size=(2, 16, 24)).astype(np.float32))
    stateless, conditioning = StatelessBlock(transformer.transformer_blocks[0]), LayerConditioning()
    if compiled:
        stateless, conditioning = ms.jit(stateless, fullgraph=True), ms.jit(conditioning, fullgraph=True)
    for block in transformer.transformer_blocks:
        weights = denoising.as_arguments(block_weights(block))
        said = conditioning(
            context, Tensor(np.arange(7), ms.int32), *denoising.as_arguments(conditioning_weights(block))
        )
        for t in (0, 6):
            expected = block(x, context, Tensor([t, t], ms.int32))
            result = stateless(x, Tensor([t], ms.int32), *said, *weights)
            assert relative_error(result, expected) <= 2e-6


def test_all_forms_draw_the_same(transformer, rng, monkeypatch):
    guided = bool(transformer.config.attention_bias)  # with some of the kinds, without with the others
    scheduler, pictures = VQDiffusionScheduler(30, 7), 300
    x_t = Tensor(rng.integers(0, 30, (pictures, 16)), ms.int32)
    condition = Tensor(rng.normal(size=((1 + guided) * pictures, 5, 10)).astype(np.float32))
    settings = [scheduler.jump(5), Tensor([2.5], ms.float32), Tensor([0.8], ms.float32)]
    settings.append(Tensor(rng.random((pictures, 16), dtype=np.float32)))
    expected = DenoisingStep(transformer, Ancestral.cell, 1 + guided)(x_t, Tensor([5], ms.int32), condition, *settings)
    assert groups_of_heads(3, pictures * 256) == 1
    for is_layer_by_layer, scores in ((True, 2**26), (True, 1), (False, 1)):
        monkeypatch.setattr(device, "MANY_SCORES", scores)
        monkeypatch.setattr(denoising, "layer_by_layer", lambda size, form=is_layer_by_layer: form)
        step = denoising.make_step(GraphCache(), transformer, Ancestral.cell, 1 + guided, condition)
        drawn = step(x_t, 5, *settings).asnumpy()
        assert (drawn == expected.asnumpy()).mean() >= 0.999
        assert len(np.unique(drawn)) == 30


def test_one_layer_is_compiled_for_all(rng, monkeypatch):
    monkeypatch.setattr(denoising, "layer_by_layer", lambda size: True)
    pipe = random_pipeline(rng, layers=2)
    codes = pipe(["a ring", "a cross"], 5, generator=0, output_type="latent").images.asnumpy()
    kinds = [kind for kind, *_ in pipe._graphs._graphs]
    assert kinds.count(StatelessBlock) == 1
    monkeypatch.setattr(denoising, "layer_by_layer", lambda size: False)
    assert (pipe(["a ring", "a cross"], 5, generator=0, output_type="latent").images.asnumpy() == codes).mean() >= 0.95
