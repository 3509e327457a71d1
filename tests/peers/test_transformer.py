"""Transformer2DModel in the cases of Transformer2DModelTests in diffusers' tests/models/test_layers_utils.py.

Most of them give it feature maps there, and codes here: it takes nothing else. What was stored from PyTorch's random
numbers is compared with the peer itself. Gradient checkpointing is as ModelTesterMixin has it,
tests/models/test_modeling_common.py.
"""

import mindspore as ms
import numpy as np
import pytest
import torch
from diffusers.models import Transformer2DModel as TorchTransformer
from diffusers.models.embeddings import ImagePositionalEmbeddings as TorchEmbeddings
from mindspore import Tensor, nn

from mindone_vq import Transformer2DModel
from mindone_vq.nn.embeddings import ImagePositionalEmbeddings
from mindone_vq.nn.normalization import AdaLayerNorm, LayerNorm
from tests.numerics import as_numpy, relative_error
from tests.parity.peers import randomized, with_weights_of
from tests.tiny_pipeline import random_weights

CODES, SIZE = 5, 4
DISCRETE = dict(num_attention_heads=1, attention_head_dim=32, num_vector_embeds=CODES, sample_size=SIZE)


def pair(**config):
    """Both networks of the same arguments and weights."""
    torch.manual_seed(0)
    theirs = randomized(TorchTransformer(**config), 0)
    return with_weights_of(Transformer2DModel(**config), theirs), theirs


def codes(rng, pixels=SIZE * SIZE, batch=1):
    return rng.integers(0, CODES, (batch, pixels))


def assert_same(ours, theirs, x_t, context=None, timestep=None):
    """Returns the output of ours."""
    output = ours(
        Tensor(x_t, ms.int32),
        None if context is None else Tensor(context),
        None if timestep is None else Tensor(timestep, ms.int32),
    ).sample
    with torch.no_grad():
        expected = theirs(
            torch.tensor(x_t),
            None if context is None else torch.tensor(context),
            None if timestep is None else torch.tensor(timestep),
        ).sample
    assert output.shape == (len(x_t), CODES - 1, x_t.shape[1])
    assert relative_error(output, expected) <= 1e-5
    return output.asnumpy()


@pytest.mark.parity
def test_without_text_and_timesteps(rng):
    ours, theirs = pair(dropout=0.0, cross_attention_dim=None, **DISCRETE)
    assert_same(ours, theirs, codes(rng, batch=2))


@pytest.mark.parity
def test_attention_to_a_text(rng):
    ours, theirs = pair(**{**DISCRETE, "num_attention_heads": 2, "cross_attention_dim": 64})
    x_t = codes(rng)
    first, second = (
        assert_same(ours, theirs, x_t, rng.standard_normal((1, 4, 64)).astype(np.float32)) for _ in range(2)
    )
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parity
def test_timesteps_change_the_output(rng):
    """With a text: diffusers lets the second attention look at the codes where the text is left out, we do not."""
    ours, theirs = pair(
        **{**DISCRETE, "num_attention_heads": 2, "cross_attention_dim": 64, "num_embeds_ada_norm": 5},
    )
    x_t = codes(rng)
    text = rng.standard_normal((1, 3, 64)).astype(np.float32)
    first, second = (assert_same(ours, theirs, x_t, text, timestep=t) for t in (1, 2))
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parity
def test_dropout_rests_outside_of_training(rng):
    ours, theirs = pair(**{**DISCRETE, "num_attention_heads": 2, "attention_head_dim": 16, "dropout": 0.3})
    x_t = codes(rng)
    expected = assert_same(ours, theirs, x_t)
    ours.set_train(True)
    assert np.abs(ours(Tensor(x_t, ms.int32)).sample.asnumpy() - expected).max() > 1e-3


@pytest.mark.parity
def test_fewer_codes_than_the_grid_has_places(rng):
    ours, theirs = pair(**{**DISCRETE, "sample_size": 16})
    x_t = codes(rng, pixels=32)
    log_p = assert_same(ours, theirs, x_t)
    assert log_p.dtype == np.float32
    assert np.abs(np.exp(log_p).sum(1) - 1).max() <= 1e-5


def test_outputs_are_tuples_with_names(rng):
    model = Transformer2DModel(num_embeds_ada_norm=5, **DISCRETE).set_train(False)
    for options in ({}, {"return_dict": True}, {"return_dict": False}):
        output = model(Tensor(codes(rng), ms.int32), timestep=1, **options)
        assert isinstance(output, tuple)
        assert output[0] is output.sample


def test_norm_layers_by_default():
    block = Transformer2DModel(**DISCRETE).transformer_blocks[0]
    assert isinstance(block.norm1, LayerNorm)
    assert isinstance(block.norm3, LayerNorm)


def test_norm_layers_that_read_the_timestep():
    block = Transformer2DModel(num_embeds_ada_norm=5, **DISCRETE).transformer_blocks[0]
    assert isinstance(block.norm1, AdaLayerNorm)
    assert isinstance(block.norm3, LayerNorm)


@pytest.mark.parametrize("activation, inner", [("geglu", 256), ("geglu-approximate", 128)])
def test_feed_forward_layers(activation, inner):
    """A gate doubles the inner width; what is called an approximation of it has none."""
    default = {} if activation == "geglu" else {"activation_fn": activation}
    first, dropout, last = Transformer2DModel(num_embeds_ada_norm=5, **default, **DISCRETE).transformer_blocks[0].ff.net
    assert (first.proj.in_channels, first.proj.out_channels) == (32, inner)
    assert type(dropout) is nn.Dropout
    assert type(last) is nn.Dense
    assert (last.in_channels, last.out_channels) == (128, 32)


@pytest.mark.parametrize("bias", [True, False])
def test_projections_have_a_bias_if_asked_for(bias):
    options = {"attention_bias": True} if bias else {}
    attention = Transformer2DModel(num_embeds_ada_norm=5, **options, **DISCRETE).transformer_blocks[0].attn1
    for projection in (attention.to_q, attention.to_k, attention.to_v):
        assert projection.has_bias is bias
        assert (projection.bias is not None) is bias
    assert attention.to_out[0].has_bias


def test_feature_maps_are_refused_and_patches():
    for other in ({"in_channels": 32}, {"patch_size": 2, "in_channels": 4}):
        with pytest.raises(ValueError, match=r"discrete codes only.*in_channels.*mindone\.diffusers"):
            Transformer2DModel(num_attention_heads=1, attention_head_dim=32, sample_size=SIZE, **other)


@pytest.mark.parity
@pytest.mark.parametrize("pixels", [16, 7])
def test_embeddings_of_codes_rows_and_columns(pixels, rng):
    theirs = randomized(TorchEmbeddings(num_embed=CODES, height=SIZE, width=SIZE, embed_dim=8), 0)
    ours = with_weights_of(ImagePositionalEmbeddings(CODES, SIZE, 8), theirs)
    x_t = codes(rng, pixels, batch=2)
    assert relative_error(ours(Tensor(x_t, ms.int32)), theirs(torch.tensor(x_t))) <= 1e-6


def test_gradient_checkpointing_is_switched_on_and_not_off_again():
    model = Transformer2DModel(num_embeds_ada_norm=5, **DISCRETE)
    model.disable_gradient_checkpointing()
    assert not model.is_gradient_checkpointing
    model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing
    with pytest.raises(RuntimeError, match="load the network anew"):
        model.disable_gradient_checkpointing()


def test_gradients_are_the_same_with_checkpointing(rng):
    x_t, target = codes(rng), Tensor(rng.standard_normal((1, CODES - 1, SIZE * SIZE)).astype(np.float32))

    def loss_and_gradients(checkpointing):
        model = Transformer2DModel(num_embeds_ada_norm=5, **DISCRETE).set_train(True)
        random_weights(model, np.random.default_rng(0), 0.2)
        if checkpointing:
            model.enable_gradient_checkpointing()

        def loss():
            return (model(Tensor(x_t, ms.int32), timestep=2)[0] * target).mean()

        value, gradients = ms.value_and_grad(loss, None, model.trainable_params())()
        return float(value), [as_numpy(gradient) for gradient in gradients]

    plain, checkpointed = loss_and_gradients(False), loss_and_gradients(True)
    assert abs(plain[0] - checkpointed[0]) <= 1e-5
    assert max(np.abs(gradient).max() for gradient in plain[1]) > 1e-3
    for first, second in zip(plain[1], checkpointed[1]):
        assert np.abs(first - second).max() <= 5e-5
