"""Transformer2DModel against diffusers'."""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor

from tests.numerics import relative_error
from tests.parity.peers import pair_transformer

BASE = dict(num_layers=2, cross_attention_dim=24, sample_size=5, num_vector_embeds=19, num_embeds_ada_norm=20)
CONFIGS = {
    "geglu": dict(BASE, num_attention_heads=3, attention_head_dim=8, attention_bias=True),
    "geglu-approximate": dict(
        BASE,
        num_attention_heads=2,
        attention_head_dim=20,
        attention_bias=True,
        activation_fn="geglu-approximate",
    ),
    "gelu, one head, no bias": dict(BASE, num_attention_heads=1, attention_head_dim=36, activation_fn="gelu"),
    "gelu-approximate, odd grid": dict(
        BASE, num_attention_heads=4, attention_head_dim=9, activation_fn="gelu-approximate", sample_size=7
    ),
    "norm without affine": dict(
        BASE, num_attention_heads=2, attention_head_dim=16, norm_elementwise_affine=False, norm_eps=1e-3
    ),
    "unconditional": dict(BASE, num_attention_heads=2, attention_head_dim=16, cross_attention_dim=None),
}


def inputs(config, rng, batch=3, length=6):
    pixels = config["sample_size"] ** 2
    x_t = rng.integers(0, config["num_vector_embeds"], (batch, pixels))
    x_t[0] = config["num_vector_embeds"] - 1  # all masked
    width = config["cross_attention_dim"]
    text = None if width is None else rng.standard_normal((batch, length, width)).astype(np.float32)
    return x_t, text


def run(ours, theirs, x_t, text, t):
    expected = theirs(
        torch.tensor(x_t), None if text is None else torch.tensor(text), torch.tensor(t), return_dict=False
    )[0]
    text = None if text is None else Tensor(text)
    return ours(Tensor(x_t, ms.int32), text, Tensor(t, ms.int32))[0], expected


@pytest.mark.parametrize("name", CONFIGS)
def test_log_probabilities_agree(name, rng):
    config = CONFIGS[name]
    ours, theirs = pair_transformer(**config)
    for batch, length, t in ((3, 6, 0), (1, 1, 19), (2, 9, 11)):
        output, expected = run(ours, theirs, *inputs(config, rng, batch, length), t)
        assert output.dtype == ms.float32
        assert relative_error(output, expected) <= 1e-5


@pytest.mark.parametrize("name", ["geglu", "geglu-approximate"])
def test_float16_stays_close(name, rng):
    config = CONFIGS[name]
    ours, theirs = pair_transformer(dtype=ms.float16, **config)
    output, expected = run(ours, theirs, *inputs(config, rng), 7)
    assert ours.dtype == ms.float16
    assert 0 < relative_error(output, expected) <= 1.5e-2


def test_each_image_has_its_own_timestep(rng):
    """The peer takes one timestep for the batch: it answers one image at a time."""
    config = CONFIGS["geglu"]
    ours, theirs = pair_transformer(**config)
    x_t, text = inputs(config, rng)
    timesteps = [0, 19, 8]
    output = ours(Tensor(x_t, ms.int32), Tensor(text), Tensor(timesteps, ms.int32))[0]
    for i, t in enumerate(timesteps):
        expected = theirs(torch.tensor(x_t[i : i + 1]), torch.tensor(text[i : i + 1]), torch.tensor(t))[0]
        assert relative_error(output[i : i + 1], expected) <= 1e-5


def test_a_compiled_graph_gives_the_same(rng):
    config = CONFIGS["geglu-approximate"]
    ours, theirs = pair_transformer(**config)
    x_t, text = inputs(config, rng)
    compiled = ms.jit(ours, fullgraph=True)
    output = compiled(Tensor(x_t, ms.int32), Tensor(text), Tensor(5, ms.int32))[0]
    expected = theirs(torch.tensor(x_t), torch.tensor(text), torch.tensor(5))[0]
    assert relative_error(output, expected) <= 1e-5


def test_one_block_of_ithq_width(rng):
    config = dict(
        num_layers=1,
        num_attention_heads=16,
        attention_head_dim=88,
        cross_attention_dim=512,
        attention_bias=True,
        activation_fn="geglu-approximate",
        sample_size=16,
        num_vector_embeds=4097,
        num_embeds_ada_norm=100,
    )
    ours, theirs = pair_transformer(**config)
    output, expected = run(ours, theirs, *inputs(config, rng, 2, 77), 42)
    assert relative_error(output, expected) <= 1e-4
