import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from scipy.stats import chisquare

from mindone_vq import VQDiffusionScheduler
from mindone_vq.diffusion.samplers import SAMPLERS, Ancestral, Confidence, Halton, Purity, make_sampler
from mindone_vq.diffusion.samplers.confidence import TEMPERATURE
from mindone_vq.diffusion.samplers.halton import halton_places
from mindone_vq.diffusion.samplers.sampler import MASKED_SHARE, STEPS_LEFT, UnmaskingSampler, gumbel, ranked
from tests.diffusion.solvable import draws, independent

DRAWS, UNLIKELY = 50_000, 1e-4


@pytest.mark.parametrize("steps", [*(pytest.param(steps, marks=pytest.mark.slow) for steps in (100, 50, 25)), 10])
def test_the_chain_draws_from_the_data_where_pixels_are_independent(steps, rng):
    data = independent(rng)
    counts = draws(data, Ancestral(), steps, DRAWS, rng)
    assert chisquare(counts, data * DRAWS).pvalue > UNLIKELY


@pytest.mark.parametrize("sampler, steps", [(Purity(r=0.0), 4), (Halton(), 3), (Halton(), 1)])
def test_choosing_positions_by_what_is_not_drawn_changes_nothing_there(sampler, steps, rng):
    data = independent(rng)
    counts = draws(data, sampler, steps, DRAWS, rng)
    assert chisquare(counts, data * DRAWS).pvalue > UNLIKELY


@pytest.mark.parametrize("sampler", [Purity(r=2.0), Confidence(temperature=0.5)])
def test_what_sharpens_is_seen_to(sampler, rng):
    data = independent(rng)
    counts = draws(data, sampler, 4, DRAWS, rng)
    assert chisquare(counts, data * DRAWS).pvalue < 1e-12


def random_step(rng, sampler, masked, classes=7, pixels=16, batch=3, t=60, s=30, left=30):
    """p(x_0), x_t with some pixels masked, and x_s."""
    scheduler = VQDiffusionScheduler(classes + 1, 100)
    p = rng.dirichlet(np.ones(classes), (batch, pixels)).astype(np.float32)
    x_t = rng.integers(0, classes, (batch, pixels)).astype(np.int32)
    x_t[:, rng.permutation(pixels)[:masked]] = classes
    uniforms = sampler.draw_uniforms([rng], batch, pixels)
    parameters = sampler.parameters(scheduler.schedule, t, s, left)
    step = ms.jit(sampler.cell(classes, pixels), fullgraph=True)
    nothing_known = np.zeros(x_t.shape, bool)
    inputs = (Tensor(each) for each in (p, x_t, parameters, uniforms, nothing_known))
    return p, x_t, step(*inputs).asnumpy(), uniforms


@pytest.mark.parametrize("name", [name for name, sampler in SAMPLERS.items() if issubclass(sampler, UnmaskingSampler)])
@pytest.mark.parametrize("masked, left, stay", [(16, 30, 5), (11, 30, 5), (4, 5, 4), (4, 4, 3), (1, 1, 0), (0, 1, 0)])
def test_as_many_are_revealed_as_the_schedule_says_and_no_code_changes(name, masked, left, stay, rng):
    """Of 16 pixels 4.96 are masked at timestep 30; one at least is revealed where steps are short."""
    _, x_t, x_s, _ = random_step(rng, make_sampler(name), masked, left=left)
    assert ((x_s == 7).sum(-1) == stay).all()
    assert np.array_equal(x_s[x_t < 7], x_t[x_t < 7])


def test_known_pixels_are_left_and_not_counted(rng):
    p = Tensor(rng.dirichlet(np.ones(7), (2, 16)).astype(np.float32))
    x_t = np.full((2, 16), 7, np.int32)
    x_t[:, :4] = 3
    is_known = np.zeros((2, 16), bool)
    is_known[:, :8] = True
    uniforms = Tensor(Halton().draw_uniforms([rng], 2, 16))
    parameters = Tensor(np.array([0.25, 1.0], np.float32))
    x_s = Halton.cell(7, 16)(p, Tensor(x_t), parameters, uniforms, Tensor(is_known)).asnumpy()
    assert np.array_equal(x_s[:, :8], x_t[:, :8])
    assert ((x_s[:, 8:] == 7).sum(-1) == 2).all()


def test_the_noise_on_confidence_falls_with_what_is_masked():
    schedule = VQDiffusionScheduler(8, 100).schedule
    parameters = Confidence(temperature=2.0).parameters(schedule, 60, 49, 5)
    share = schedule.masked_share(49)
    assert parameters[[MASKED_SHARE, STEPS_LEFT, TEMPERATURE]].tolist() == pytest.approx([share, 5, 2 * share])
    assert Confidence(temperature=2.0).parameters(schedule, 60, -1, 1)[TEMPERATURE] == 0


def test_the_scheduler_steps_as_its_sampler_does(rng):
    scheduler = VQDiffusionScheduler(8, 100)
    scheduler.set_timesteps(4, sampler="halton")
    log_p = Tensor(np.log(rng.dirichlet(np.ones(7), (2, 16))).astype(np.float32).transpose(0, 2, 1))
    (x_s,) = scheduler.step(log_p, 99, Tensor(np.full((2, 16), 7, np.int32)), generator=0)
    assert ((x_s.asnumpy() < 7) == (halton_places(16) < 4)).all()


@pytest.mark.parametrize("steps, most", [(16, 1), (40, 1), (7, 3)])
def test_the_masked_share_follows_the_schedule(steps, most, rng):
    """However many the steps: few pixels do not run out before many steps end."""
    scheduler, p = VQDiffusionScheduler(8, 100), Tensor(rng.dirichlet(np.ones(7), (2, 16)).astype(np.float32))
    x_t, nothing_known = np.full((2, 16), 7, np.int32), Tensor(np.zeros((2, 16), bool))
    for step in scheduler.steps(steps, "halton"):
        uniforms = Tensor(Halton().draw_uniforms([rng], 2, 16))
        x_s = Halton.cell(7, 16)(p, Tensor(x_t), Tensor(step.parameters), uniforms, nothing_known).asnumpy()
        shown = (x_t == 7).sum(-1) - (x_s == 7).sum(-1)
        assert (shown <= most).all()
        assert (np.abs((x_s == 7).sum(-1) - 16 * scheduler.schedule.masked_share(step.s)) <= 0.51).all()
        x_t = x_s


def test_confidence_without_noise_reveals_the_likeliest_draws(rng):
    p, _, x_s, uniforms = random_step(rng, Confidence(temperature=0.0), 16)
    drawn = (p.cumsum(-1) <= uniforms[0][..., None] * p.sum(-1, keepdims=True)).sum(-1)
    confidence = np.take_along_axis(p, drawn[..., None], -1)[..., 0]
    for row in range(3):
        revealed = x_s[row] < 7
        assert np.array_equal(x_s[row][revealed], drawn[row][revealed])
        assert confidence[row][revealed].min() >= confidence[row][~revealed].max()


def test_purity_chooses_in_proportion(rng):
    """One of two pixels is revealed: how often the purer one."""
    classes, count, parameters = 4, 40_000, np.array([0.5, 1.0, 0.0], np.float32)
    p = np.tile(np.array([[[0.85, 0.05, 0.05, 0.05], [0.25] * 4]], np.float32), (count, 1, 1))
    x_t = Tensor(np.full((count, 2), classes, np.int32))
    uniforms = Tensor(Purity().draw_uniforms([rng], count, 2))
    x_s = Purity.cell(classes, 2)(
        Tensor(p), x_t, Tensor(parameters), uniforms, Tensor(np.zeros((count, 2), bool))
    ).asnumpy()
    chosen = (x_s[:, 0] < classes).sum()
    assert ((x_s < classes).sum(-1) == 1).all()
    assert chisquare([chosen, count - chosen], [count * 0.85 / 1.1, count * 0.25 / 1.1]).pvalue > UNLIKELY


def test_purity_sharpens_by_the_power_it_documents(rng):
    p = rng.dirichlet(np.ones(6), (2, 3)).astype(np.float32)
    p[0, 0, :2] = 0  # as truncation leaves them
    sharp = Purity.cell(6, 3).sharpened(Tensor(p), Tensor(np.array([0.5, 1.0, 1.5], np.float32))).asnumpy()
    expected = p.astype(np.float64) ** (1 + 1.5 * p.max(-1, keepdims=True))
    assert np.allclose(sharp, expected / expected.sum(-1, keepdims=True), atol=1e-6)


def test_halton_goes_through_a_fixed_order(rng):
    _, _, x_s, _ = random_step(rng, Halton(), 16, s=49)
    places = halton_places(16)
    assert sorted(places) == list(range(16))
    assert ((x_s < 7) == (places < 8)).all()
    square = halton_places(64).reshape(8, 8)
    early = square < 16  # a quarter: about as many in every quarter of the square
    counts = [early[i : i + 4, j : j + 4].sum() for i in (0, 4) for j in (0, 4)]
    assert max(counts) - min(counts) <= 2
    assert sorted(halton_places(5)) == list(range(5))


def test_ranks_and_noise(rng):
    scores = rng.normal(size=(4, 50)).astype(np.float32)
    assert np.array_equal(ranked(Tensor(scores)).asnumpy(), (-scores).argsort(-1).argsort(-1))
    noise = gumbel(Tensor(np.concatenate(([0.0, 1 - 2**-24], rng.random(200_000))).astype(np.float32))).asnumpy()
    assert np.isfinite(noise).all()
    assert abs(noise.mean() - np.euler_gamma) < 0.01 and abs(noise.var() - np.pi**2 / 6) < 0.03


def test_a_sampler_is_chosen_by_name_or_given(rng):
    assert make_sampler("purity") == Purity(r=1.0)
    assert make_sampler(Purity(r=3.0)).r == 3.0
    with pytest.raises(ValueError, match="'euler'.*ancestral, purity, confidence, halton"):
        make_sampler("euler")
    with pytest.raises(TypeError, match="given 3"):
        make_sampler(3)


def test_only_heuristics_take_more_steps_than_the_model_was_trained_with():
    scheduler = VQDiffusionScheduler(8, 20)
    with pytest.raises(ValueError, match="'ancestral' it must be between 1 and the 20"):
        scheduler.set_timesteps(21)
    timesteps = [step.timestep for step in scheduler.steps(50, "halton")]
    assert len(timesteps) == 50 and timesteps[0] == 19 and timesteps[-1] == 0
    assert all(a >= b for a, b in zip(timesteps, timesteps[1:]))


def test_purity_chooses_by_what_the_network_says_and_draws_sharper(rng):
    """Of two masked pixels one is revealed: with probability in proportion to max p(x_0), not sharpened."""
    p, r, draws = np.array([[0.9, 0.1], [0.6, 0.4]]), 5.0, 40_000
    x_t = np.full((draws, 2), 2, np.int32)
    uniforms = Purity().draw_uniforms([rng], draws, 2)
    step = Purity().cell(2, 2)
    parameters = np.array([0.5, 1.0, r], np.float32)  # half of the pixels stay masked
    tiled = np.broadcast_to(p, (draws, 2, 2)).astype(np.float32)
    inputs = (tiled, x_t, parameters, uniforms, np.zeros((draws, 2), bool))
    x_s = step(*(Tensor(each) for each in inputs)).asnumpy()
    revealed = x_s < 2
    assert (revealed.sum(1) == 1).all()
    chosen = p.max(1) / p.max(1).sum()  # 0.6 and 0.4; by the sharpened ones 0.545 and 0.455
    sharp = p ** (1 + r * p.max(1, keepdims=True))
    sharp /= sharp.sum(1, keepdims=True)
    counts = [(x_s[:, pixel] == code).sum() for pixel in (0, 1) for code in (0, 1)]
    assert chisquare(counts, (chosen[:, None] * sharp).ravel() * draws).pvalue > UNLIKELY
