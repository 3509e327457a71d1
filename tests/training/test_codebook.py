"""The codec's loss, the codebook that follows its latents, and k-means, against numpy in float64."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindone_vq import VQModel
from mindone_vq.training.codebook import CodebookAverage, k_means
from mindone_vq.training.codec_loss import CodecLoss
from tests.numerics import as_numpy, relative_error

CODES, CHANNELS = 9, 3
HERE = np.ones((CODES, 1), np.float32)  # every candidate is on this device, the only one


@pytest.fixture
def codec(rng):
    """A tiny codec with random weights, whose codes lie among the latents of random pictures."""
    model = VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=CHANNELS,
        num_vq_embeddings=CODES,
        mid_block_add_attention=False,
    )
    for parameter in model.get_parameters():
        parameter.set_data(Tensor(rng.normal(0, 0.3, parameter.shape).astype(np.float32)))
    latents = rows(model.encode(Tensor(rng.uniform(-1, 1, (4, 3, 8, 8)).astype(np.float32)))[0])
    chosen = rng.choice(latents, CODES, replace=False)
    chosen = chosen + rng.normal(0, latents.std(0) / 3, chosen.shape)
    model.quantize.embedding.embedding_table.set_data(Tensor(chosen.astype(np.float32)))
    return model


def rows(grid):
    return as_numpy(grid).transpose(0, 2, 3, 1).reshape(-1, grid.shape[1])


@pytest.mark.parametrize("quantized", [1.0, 0.0])
def test_every_term_of_the_codecs_loss(codec, quantized, rng):
    pictures = rng.integers(0, 256, (2, 3, 8, 12), np.uint8)
    weights = dict(l1_weight=0.7, l2_weight=1.3, commitment_weight=0.4, codebook_weight=0.9)
    inputs = Tensor(pictures), Tensor(quantized, ms.float32)
    loss, (l1, l2, commitment, latents, codes) = CodecLoss(codec, **weights)(*inputs)
    scaled = pictures / 127.5 - 1
    grid = codec.encode(Tensor(scaled.astype(np.float32)))[0]
    expected_latents, table = rows(grid), as_numpy(codec.quantize.embedding.embedding_table)
    nearest = ((expected_latents[:, None] - table) ** 2).sum(-1).argmin(-1)
    assert len(np.unique(nearest)) > 4
    assert np.array_equal(codes.asnumpy(), nearest)
    assert relative_error(latents, expected_latents) <= 1e-6
    seen = table[nearest] if quantized else expected_latents
    seen = seen.reshape(2, 4, 6, CHANNELS).transpose(0, 3, 1, 2).astype(np.float32)
    difference = as_numpy(codec.decode_quantized(Tensor(seen))) - scaled
    distance = ((expected_latents - table[nearest]) ** 2).mean() * quantized
    expected = np.abs(difference).mean(), (difference**2).mean(), distance
    assert [float(each.asnumpy()) for each in (l1, l2, commitment)] == pytest.approx(expected, rel=2e-6)
    total = 0.7 * expected[0] + 1.3 * expected[1] + (0.4 + 0.9) * distance
    assert float(loss.asnumpy()) == pytest.approx(total, rel=2e-6)
    without, _ = CodecLoss(codec, **{**weights, "codebook_weight": 0.0})(*inputs)
    assert float(without.asnumpy()) == pytest.approx(total - 0.9 * distance, rel=2e-6)


def test_which_weights_each_term_moves(codec, rng):
    """The codebook has a gradient from its own term alone, 2 (code - latent) / size; the encoder, from the others."""
    inputs = Tensor(rng.integers(0, 256, (2, 3, 8, 8), np.uint8)), Tensor(1.0, ms.float32)
    table, first = codec.quantize.embedding.embedding_table, codec.encoder.conv_in.weight

    def gradients(**weights):
        cell = CodecLoss(codec, **{**dict(l1_weight=0, l2_weight=0, commitment_weight=0, codebook_weight=0), **weights})
        (_, (*_, latents, codes)), both = ms.value_and_grad(cell, None, [table, first], has_aux=True)(*inputs)
        return [each.asnumpy() for each in both], as_numpy(latents), codes.asnumpy()

    (of_table, of_encoder), latents, codes = gradients(codebook_weight=1.0)
    expected = np.zeros(table.shape)
    np.add.at(expected, codes, 2 * (as_numpy(table)[codes] - latents) / latents.size)
    assert relative_error(of_table, expected) <= 1e-5
    assert not of_encoder.any()
    for weights in (dict(commitment_weight=1.0), dict(l1_weight=1.0), dict(l2_weight=1.0)):
        (of_table, of_encoder), _, _ = gradients(**weights)
        assert not of_table.any() and np.abs(of_encoder).max() > 1e-6


@pytest.mark.parametrize("dead_below", [0.0, 0.4, 2.5])
def test_codes_follow_the_running_mean_of_their_latents(dead_below, rng):
    codebook = Parameter(Tensor(rng.normal(0, 1, (CODES, CHANNELS)).astype(np.float32)), name="codebook")
    decay, start = 0.7, max(dead_below, 1.0)
    average = CodebookAverage(codebook, decay, dead_below)
    compiled = ms.jit(average, fullgraph=True)
    counts, sums = np.full(CODES, start), as_numpy(codebook) * start
    deaths = 0
    for step in range(10):
        latents = rng.normal(0, 1, (40, CHANNELS)).astype(np.float32)
        codes = rng.integers(0, CODES - 3 if step < 7 else CODES, 40).astype(np.int32)  # three are not chosen for long
        candidates = rng.integers(0, 40, CODES).astype(np.int32)
        chosen, dead = compiled(*map(Tensor, (latents, codes, candidates, HERE)))
        now = np.bincount(codes, minlength=CODES)
        total = np.stack([latents[codes == code].sum(0, dtype=np.float64) for code in range(CODES)])
        counts, sums = decay * counts + (1 - decay) * now, decay * sums + (1 - decay) * total
        is_dead = counts < dead_below
        counts[is_dead], sums[is_dead] = start, latents[candidates[is_dead]] * start
        assert np.array_equal(chosen.asnumpy(), now)
        assert int(dead.asnumpy()) == is_dead.sum()
        assert relative_error(codebook, sums / counts[:, None]) <= 1e-6
        assert np.allclose(codebook.asnumpy()[is_dead], latents[candidates[is_dead]], rtol=1e-6)
        for ours, expected in zip(average.state(), (counts, sums)):
            assert relative_error(ours, expected) <= 1e-6
        deaths += is_dead.sum()
    assert deaths > 2 if dead_below else deaths == 0


def test_a_restart_forgets_what_was(rng):
    new = rng.normal(0, 1, (CODES, CHANNELS)).astype(np.float32)
    arrays = (
        rng.normal(0, 1, (20, CHANNELS)).astype(np.float32),
        rng.integers(0, CODES, 20).astype(np.int32),
        np.zeros(CODES, np.int32),
        HERE,
    )
    results = []
    for begun in (False, True):
        codebook = Parameter(Tensor(new * 0 + 5 if begun else new), name="codebook")
        average = CodebookAverage(codebook, 0.9, 0.5)
        compiled = ms.jit(average, fullgraph=True)
        if begun:  # a graph that has run sees it, too
            compiled(*map(Tensor, arrays))
            average.restart(new)
            assert np.array_equal(codebook.asnumpy(), new)
        compiled(*map(Tensor, arrays))
        results.append([each.asnumpy() for each in (codebook, *average.state())])
    for ours, theirs in zip(*results):
        assert np.array_equal(ours, theirs)


def clusters(rng):
    """Four clusters far apart of 200 points each, in any order; and their means."""
    centres = 50.0 * np.array([[0, 0], [1, 0], [0, 1], [3, 3]])
    points = np.concatenate([centre + rng.normal(0, 1, (200, 2)) for centre in centres]).astype(np.float32)
    return rng.permutation(points), points.astype(np.float64).reshape(4, 200, 2).mean(1)


def test_k_means_has_centres_in_every_cluster(rng):
    points, means = clusters(rng)
    found = k_means(points, 24, rng)
    assert found.dtype == np.float32 and found.shape == (24, 2)
    distance = np.linalg.norm(found[:, None] - means, axis=-1)
    assert (distance.min(0) < 2).all()  # each has one
    assert (distance.min(1) < 5).all()  # and none is between them


def test_k_means_ends_at_the_means(rng):
    """From any start that has a point of each cluster; of 100 starts some have."""
    points, means = clusters(rng)
    found = [k_means(points, 4, np.random.default_rng(seed)) for seed in range(100)]
    errors = [relative_error(each[np.lexsort(each.T.round())], means[np.lexsort(means.T.round())]) for each in found]
    assert sum(error <= 1e-6 for error in errors) >= 4


def test_k_means_of_fewer_points_than_classes(rng):
    points = np.array([[0, 0], [10, 0], [0, 20]], np.float32)
    found = k_means(points, 8, rng)
    distance = np.linalg.norm(found[:, None] - points, axis=-1)
    assert found.shape == (8, 2) and distance.min(1).max() < 0.1
    assert distance.min(0).max() < 1e-6  # every point has a centre of its own
    assert k_means(points[:1], 3, rng) == pytest.approx(np.zeros((3, 2)), abs=1e-6)


def test_a_centre_that_no_point_chooses_moves_to_a_point(rng):
    """Points of two kinds, a thousand and one: whatever the start, there are centres of both in the end."""
    points = np.full((1001, 2), 20.0, np.float32)
    points[400] = 27, 13
    for seed in range(5):
        found = k_means(points, 40, np.random.default_rng(seed), iterations=60)
        assert np.isfinite(found).all()
        distance = np.linalg.norm(found[:, None] - points[[0, 400]], axis=-1)
        assert distance.min(1).max() < 0.1
