"""VQModel against diffusers'."""

import mindspore as ms
import numpy as np
import pytest
import torch
from mindspore import Tensor

from tests.numerics import as_numpy, relative_error
from tests.parity.peers import pair_vq

PLAIN = dict(
    block_out_channels=(8, 16),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    norm_num_groups=4,
    latent_channels=6,
    num_vq_embeddings=23,
)
ATTENTION = dict(
    PLAIN,
    block_out_channels=(8, 12, 16),
    down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
    layers_per_block=2,
    vq_embed_dim=5,
)
SPATIAL = dict(
    PLAIN,
    block_out_channels=(32, 64),
    up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    norm_num_groups=8,
    norm_type="spatial",
)
CONFIGS = {
    "plain": PLAIN,
    "attention": ATTENTION,
    "no attention in the middle": dict(PLAIN, mid_block_add_attention=False),
    "spatial": SPATIAL,
    "one level, other channels": dict(
        block_out_channels=(8,), norm_num_groups=2, in_channels=1, out_channels=2, latent_channels=4
    ),
    **{f"act_fn {name}": dict(PLAIN, act_fn=name) for name in ("mish", "gelu", "relu")},
}


def picture(config, rng, batch=2, height=8, width=12):
    return rng.uniform(-1, 1, (batch, config.get("in_channels", 3), height, width)).astype(np.float32)


@pytest.mark.parametrize("name", CONFIGS)
def test_encoder_and_decoder_agree(name, rng):
    config = CONFIGS[name]
    ours, theirs = pair_vq(**config)
    for batch, height, width in ((2, 6, 10), (1, 8, 8)) if config is PLAIN else ((2, 4, 12),):
        x = picture(config, rng, batch, height, width)
        latents = theirs.encode(torch.tensor(x)).latents
        assert relative_error(ours.encode(Tensor(x))[0], latents) <= 1e-5
        expected = theirs.decode(latents, force_not_quantize=True)
        sample, commit_loss = ours.decode(Tensor(latents.numpy()), force_not_quantize=True)
        assert relative_error(sample, expected.sample) <= 1e-5
        assert commit_loss.shape == tuple(expected.commit_loss.shape)
        assert not commit_loss.asnumpy().any()


@pytest.mark.parametrize("name", ["plain", "attention", "spatial"])
def test_quantiser_and_loss_agree(name, rng):
    config = CONFIGS[name]
    ours, theirs = pair_vq(**config)
    z = 0.3 * rng.standard_normal((2, ours.vq_embed_dim, 6, 5)).astype(np.float32)
    quantized, loss, (_, _, indices) = theirs.quantize(torch.tensor(z))
    our_quantized, our_loss, our_indices = ours.quantize(Tensor(z))
    assert np.array_equal(our_indices.asnumpy().ravel(), indices.numpy())
    assert len(set(indices.tolist())) > 3
    assert relative_error(our_quantized, quantized) <= 1e-6
    assert abs(float(our_loss) - float(loss)) <= 1e-5 * float(loss)
    expected = theirs.decode(torch.tensor(z))
    sample, commit_loss = ours.decode(Tensor(z))
    assert relative_error(sample, expected.sample) <= 1e-5
    assert abs(float(commit_loss) - float(expected.commit_loss)) <= 1e-5 * float(loss)


def test_the_whole_network_agrees(rng):
    ours, theirs = pair_vq(**ATTENTION)
    x = picture(ATTENTION, rng)
    expected = theirs(torch.tensor(x))
    sample, _ = ours(Tensor(x))
    same_codes = np.array_equal(
        ours.quantize(ours.encode(Tensor(x))[0])[2].asnumpy().ravel(),
        theirs.quantize(theirs.encode(torch.tensor(x)).latents)[2][2].numpy(),
    )
    assert same_codes
    assert relative_error(sample, expected.sample) <= 1e-5


def test_codes_look_up_the_codebook(rng):
    ours, theirs = pair_vq(lookup_from_codebook=True, **PLAIN)
    codes = rng.integers(0, 23, (2, 24))
    shape = (2, 4, 6, 6)
    entries = theirs.quantize.get_codebook_entry(torch.tensor(codes).flatten(), shape)
    assert np.array_equal(ours.quantize.get_codebook_entry(Tensor(codes, ms.int32), shape).asnumpy(), entries.numpy())
    expected = theirs.decode(torch.tensor(codes).flatten(), force_not_quantize=True, shape=shape).sample
    sample, _ = ours.decode(Tensor(codes, ms.int32), force_not_quantize=True, shape=shape)
    assert relative_error(sample, expected) <= 1e-5
    pictures = ours.decode_codes(Tensor(codes.reshape(2, 4, 6), ms.int32))
    assert np.abs(as_numpy(pictures) - as_numpy((expected / 2 + 0.5).clamp(0, 1))).max() <= 1e-5


@pytest.mark.parametrize("name", ["attention", "spatial"])
def test_float16_stays_close(name, rng):
    config = CONFIGS[name]
    ours, theirs = pair_vq(dtype=ms.float16, **config)
    x = picture(config, rng)
    latents = theirs.encode(torch.tensor(x)).latents
    assert ours.dtype == ms.float16
    assert 0 < relative_error(ours.encode(Tensor(x))[0], latents) <= 1.5e-2
    expected = theirs.decode(latents, force_not_quantize=True).sample
    assert 0 < relative_error(ours.decode(Tensor(latents.numpy()), True)[0], expected) <= 1.5e-2


@pytest.mark.parametrize("name", ["spatial", pytest.param("attention", marks=pytest.mark.slow)])
def test_a_compiled_graph_gives_the_same(name, rng):
    config = CONFIGS[name]
    ours, theirs = pair_vq(**config)
    x = picture(config, rng)
    sample, loss = ms.jit(ours, fullgraph=True)(Tensor(x))
    expected, expected_loss = ours(Tensor(x))
    assert relative_error(sample, expected) <= 1e-5
    assert abs(float(loss) - float(expected_loss)) <= 1e-5
    assert relative_error(sample, theirs(torch.tensor(x)).sample) <= 1e-5
