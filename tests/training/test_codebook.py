"""The codebook that follows its latents, and k-means, against numpy in float64."""

import mindspore as ms
import numpy as np
import pytest
from mindspore import Parameter, Tensor

from mindone_vq.training.vqvae.codebook import CodebookAverage, k_means
from tests.numerics import as_numpy, relative_error

CODES, CHANNELS = 9, 3
HERE = np.ones((CODES, 1), np.float32)  # every candidate is on this device, the only one


@pytest.mark.parametrize("dead_below", [0.0, 2.5])
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
