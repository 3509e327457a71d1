import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from scipy.stats import chisquare

from mindone_vq.diffusion.sampling import as_argument, draw, draw_uniforms, make_generators


def drawn(p, uniforms):
    """States drawn from p, (batch, pixels, states)."""
    p = np.asarray(p, np.float32)
    return draw(
        Tensor(p[..., :-1].copy()), Tensor(p[..., -1:].copy()), Tensor(np.array(uniforms, np.float32))
    ).asnumpy()


def test_draws_follow_the_distribution(rng):
    p = np.array([0.5, 0.0, 0.2, 0.05, 0.25])
    draws = 50_000
    states = drawn(np.broadcast_to(p, (1, draws, 5)), rng.random((1, draws)))
    counts = np.bincount(states.ravel(), minlength=5)
    assert counts[1] == 0
    possible = p > 0
    assert chisquare(counts[possible], draws * p[possible]).pvalue > 1e-4


def test_the_state_is_where_the_cumulative_probability_passes_the_uniform():
    p = np.tile([0.25, 0.5, 0.25], (1, 5, 1))
    assert drawn(p, [[0.0, 0.24, 0.26, 0.74, 0.76]]).tolist() == [[0, 0, 1, 1, 2]]


def test_an_impossible_state_is_not_drawn_at_either_end():
    for scale in (1.0, 0.7, 1.9, 3e-5):
        p = np.array([[[0.0, scale, 0.0, 0.0]] * 3])
        assert drawn(p, [[0.0, 0.5, 1 - 2**-24]]).tolist() == [[1, 1, 1]]
    assert drawn(np.array([[[0.0, 0.0, 0.0, 2.0]] * 3]), [[0.0, 0.5, 1 - 2**-24]]).tolist() == [[3, 3, 3]]


def test_probabilities_need_not_be_normalised(rng):
    p, uniforms = rng.random((2, 7, 9)), rng.random((2, 7))
    assert np.array_equal(drawn(p, uniforms), drawn(8 * p, uniforms))


def test_an_image_with_a_generator_of_its_own_gets_the_same_numbers_in_any_batch():
    alone = draw_uniforms(make_generators([5], 1), 1, 12)
    together = draw_uniforms(make_generators([3, 5, np.random.default_rng(9)], 3), 3, 12)
    assert np.array_equal(alone[0], together[1])
    assert alone.dtype == np.float32
    assert draw_uniforms(make_generators(5, 3), 3, 12).shape == (3, 12)


@pytest.mark.parametrize("given, batch", [(5, 2), ([5], 1), ([3, 5, 8], 3)])
def test_generators_can_be_given_again(given, batch):
    generators = make_generators(given, batch)
    again = make_generators(as_argument(generators), batch)
    assert len(again) == len(generators) and all(a is b for a, b in zip(again, generators))


@pytest.mark.parametrize(
    "generator, error",
    [
        ([1, 2], ValueError),
        ([], ValueError),
        (-1, ValueError),
        ("7", TypeError),
        (1.5, TypeError),
        (True, TypeError),
        ([1, None, object()], TypeError),
    ],
)
def test_what_is_no_generator_is_refused(generator, error):
    with pytest.raises(error, match="generator|seed"):
        make_generators(generator, 3)


def test_a_compiled_draw_is_the_same(rng):
    arguments = [Tensor(rng.random(shape).astype(np.float32)) for shape in ((2, 7, 9), (2, 7, 1), (2, 7))]
    compiled = ms.jit(draw, fullgraph=True)(*arguments)
    assert np.array_equal(compiled.asnumpy(), draw(*arguments).asnumpy())
