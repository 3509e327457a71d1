import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from scipy.stats import chisquare

from mindone_vq import VQDiffusionScheduler
from mindone_vq.diffusion.sampling import make_generators
from mindone_vq.diffusion.schedule import CLEAN
from tests.diffusion.brute_force import matrix, posterior

STRONG = dict(alpha_cum_start=0.95, alpha_cum_end=0.05, gamma_cum_start=0.02, gamma_cum_end=0.7)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 25, 33, 50, 99, 100])
def test_timesteps_spread_over_the_whole_range(steps):
    scheduler = VQDiffusionScheduler(5)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.asnumpy()
    assert len(timesteps) == steps == scheduler.num_inference_steps
    assert timesteps[0] == 99
    gaps = -np.diff([*timesteps, CLEAN])
    assert gaps.min() >= 1
    assert gaps.max() - gaps.min() <= 1


def test_as_many_steps_as_timesteps_give_the_published_chain():
    scheduler = VQDiffusionScheduler(5, 30)
    scheduler.set_timesteps(30)
    assert scheduler.timesteps.asnumpy().tolist() == list(range(29, -1, -1))


@pytest.mark.parametrize(
    "steps, error",
    [
        (0, ValueError),
        (-3, ValueError),
        (101, ValueError),
        (2.5, TypeError),
        ("9", TypeError),
        (True, TypeError),
        (None, TypeError),
    ],
)
def test_other_numbers_of_steps_are_refused(steps, error):
    with pytest.raises(error, match="num_inference_steps"):
        VQDiffusionScheduler(5).set_timesteps(steps)


def test_a_timestep_outside_the_chain_is_refused():
    scheduler = VQDiffusionScheduler(5)
    scheduler.set_timesteps(10)
    log_p = Tensor(np.zeros((1, 4, 3), np.float32))
    with pytest.raises(ValueError, match="not among the timesteps"):
        scheduler.step(log_p, 98, Tensor(np.zeros((1, 3)), ms.int32))


@pytest.mark.parametrize("state", [0, 2, 4], ids=["a code", "another code", "the mask"])
@pytest.mark.parametrize("steps", [20, 4])
def test_a_step_draws_from_the_posterior(state, steps, rng):
    draws = 50_000
    scheduler = VQDiffusionScheduler(5, 20, **STRONG)
    scheduler.set_timesteps(steps)
    t = scheduler.timesteps.asnumpy()[1]
    s = scheduler.previous_timestep(t)
    p_x_0 = np.array([0.4, 0.1, 0.3, 0.2])
    log_p = Tensor(np.broadcast_to(np.log(p_x_0)[None, :, None], (1, 4, draws)).astype(np.float32))
    x_t = Tensor(np.full((1, draws), state), ms.int32)
    x_s = scheduler.step(log_p, t, x_t, generator=np.random.default_rng(rng.integers(2**32)))[0].asnumpy()
    counts = np.bincount(x_s.ravel(), minlength=5)
    expected = posterior(scheduler.schedule, p_x_0, state, t, s)
    possible = expected > 0
    assert not counts[~possible].any()
    assert chisquare(counts[possible], draws * expected[possible] / expected[possible].sum()).pvalue > 1e-4


def test_a_step_is_the_same_from_the_same_seed_and_differs_from_another(rng):
    scheduler = VQDiffusionScheduler(9)
    log_p = Tensor(np.log(rng.dirichlet(np.ones(8), (2, 64))).transpose(0, 2, 1).astype(np.float32))
    x_t = Tensor(np.full((2, 64), 8), ms.int32)
    outputs = [scheduler.step(log_p, 50, x_t, generator=seed, return_dict=True).prev_sample for seed in (1, 1, 2)]
    outputs = [output.asnumpy() for output in outputs]
    assert np.array_equal(outputs[0], outputs[1])
    assert not np.array_equal(outputs[0], outputs[2])
    assert outputs[0].dtype == np.int32


@pytest.mark.parametrize("t", [0, 7, 19])
def test_noise_follows_the_forward_process(t, rng):
    draws = 50_000
    scheduler = VQDiffusionScheduler(5, 20, **STRONG)
    x_0 = Tensor(np.full((1, draws), 2), ms.int32)
    x_t = scheduler.add_noise(x_0, t, generator=np.random.default_rng(rng.integers(2**32))).asnumpy()
    expected = matrix(*scheduler.schedule.cumulative(t), 4)[2]
    assert chisquare(np.bincount(x_t.ravel(), minlength=5), draws * expected).pvalue > 1e-4


def test_noise_has_a_timestep_and_a_generator_for_each_image():
    scheduler = VQDiffusionScheduler(9)
    x_0 = np.zeros((3, 400), np.int64)
    together = scheduler.add_noise(Tensor(x_0, ms.int32), Tensor([5, 50, 95], ms.int32), [1, 2, 3]).asnumpy()
    alone = scheduler.add_noise(x_0[1:2], 50, 2).asnumpy()
    assert np.array_equal(together[1:2], alone)
    masked = (together == 8).mean(1)
    assert masked[0] < 0.2 < 0.4 < masked[1] < 0.6 < 0.85 < masked[2]


@pytest.mark.parametrize("s, t", [(-1, 40), (20, 60), (20.4, 59.8)])
def test_noise_upon_noise_is_the_noise_of_the_later_timestep(s, t, rng):
    scheduler = VQDiffusionScheduler(6, **STRONG)
    generator = np.random.default_rng(rng.integers(2**32))
    x_s = np.full((100, 500), 2, np.int32)
    if s >= 0:
        x_s = scheduler.add_noise(x_s, round(s), generator).asnumpy()
    x_t = scheduler.forward_jump(Tensor(x_s), s, t, generator).asnumpy()
    assert (x_t[x_s == 5] == 5).all()
    keep, replace, mask = scheduler.schedule.cumulative(round(t))
    expected = np.full(6, replace)
    expected[2] += keep
    expected[5] = mask
    assert chisquare(np.bincount(x_t.ravel(), minlength=6), expected * x_t.size).pvalue > 1e-4
    assert np.array_equal(scheduler.forward_jump(Tensor(x_s), t, t, generator).asnumpy(), x_s)


@pytest.mark.parametrize("x_0", [[[8]], [[-1]], [0, 1]])
def test_noise_on_what_is_no_code_is_refused(x_0):
    with pytest.raises(ValueError, match="x_0 must be"):
        VQDiffusionScheduler(9).add_noise(np.array(x_0), 3)


def test_one_compilation_serves_every_step(rng):
    scheduler = VQDiffusionScheduler(9)
    compiled = ms.jit(scheduler, fullgraph=True)
    log_p = Tensor(np.log(rng.dirichlet(np.ones(8), (2, 16))).astype(np.float32))
    x_t, uniforms = Tensor(np.full((2, 16), 8), ms.int32), Tensor(rng.random((2, 16), dtype=np.float32))
    for t in (99, 40, 0):
        coefficients = Tensor(scheduler.schedule.transition_coefficients(t, t - 1))
        eager = scheduler.construct(log_p, x_t, coefficients, uniforms).asnumpy()
        assert np.array_equal(compiled(log_p, x_t, coefficients, uniforms).asnumpy(), eager)


def test_a_scheduler_is_saved_and_loaded(tmp_path):
    scheduler = VQDiffusionScheduler(9, 30, gamma_cum_end=0.9, alpha_cum_end=0.05)
    scheduler.save_pretrained(tmp_path)
    assert VQDiffusionScheduler.from_pretrained(tmp_path).config == scheduler.config


def test_timesteps_of_ones_own_end_at_the_clean_picture(rng):
    scheduler = VQDiffusionScheduler(5, 12)
    for own in ([11, 7, 3], np.array([11, 7, 3]), Tensor([11, 7, 3], ms.int32)):
        scheduler.set_timesteps(timesteps=own)
        assert scheduler.timesteps.asnumpy().tolist() == [11, 7, 3] and scheduler.num_inference_steps == 3
        x = Tensor(np.full((2, 500), 4), ms.int32)
        for t in scheduler.timesteps:
            x = scheduler.step(Tensor(np.log(np.full((2, 4, 500), 0.25, np.float32))), t, x, generator=rng)[0]
        assert np.bincount(x.asnumpy().ravel(), minlength=5).min() == 0 < np.bincount(x.asnumpy().ravel())[:4].min()


@pytest.mark.parametrize(
    "own, error",
    [([3, 7], ValueError), ([12], ValueError), ([5, -1], ValueError), ([5, 5], ValueError), ([], TypeError)],
)
def test_timesteps_that_are_no_chain_are_refused(own, error):
    with pytest.raises(error, match="timesteps"):
        VQDiffusionScheduler(5, 12).set_timesteps(timesteps=own)
    with pytest.raises(ValueError, match="not both"):
        VQDiffusionScheduler(5, 12).set_timesteps(3, timesteps=[3, 1])


def test_timesteps_left_out_without_a_word_are_refused():
    scheduler, x_t = VQDiffusionScheduler(5, 12), Tensor(np.full((1, 3), 4), ms.int32)
    log_p = Tensor(np.log(np.full((1, 4, 3), 0.25, np.float32)))
    for t in (11, 10, 11, 10):  # one chain, then the beginning of another
        scheduler.step(log_p, t, x_t)
    with pytest.raises(ValueError, match=r"begins at timestep 7, the one before ended at 9.*set_timesteps\(timesteps="):
        scheduler.step(log_p, 7, x_t)


def test_a_device_is_no_argument_here():
    with pytest.raises(TypeError, match=r"device='cuda': leave it out.*mindspore\.set_device"):
        VQDiffusionScheduler(5).set_timesteps(10, device="cuda")


def test_generators_of_mindspore_and_its_seed():
    def uniforms(generator):
        return make_generators(generator, 1)[0].random(4).tolist()

    generator = ms.Generator().manual_seed(3)
    first, second = uniforms(generator), uniforms(generator)
    assert first != second
    assert [uniforms(generator.manual_seed(3)), uniforms(generator)] == [first, second]
    assert uniforms(ms.Generator().manual_seed(4)) != first
    ms.set_seed(5)
    first, second = uniforms(None), uniforms(None)
    assert first != second
    ms.set_seed(5)
    assert [uniforms(None), uniforms(None)] == [first, second]


def test_the_start_is_masked_or_codes_that_are_repeated(rng):
    published = VQDiffusionScheduler(13)
    assert (published.initial_codes(2, 5, 0).asnumpy() == 12).all() and published.start_timestep is None
    scheduler = VQDiffusionScheduler(13, num_start_codes=3)
    assert scheduler.start_timestep == 99
    codes = scheduler.initial_codes(4000, 8, 0).asnumpy()
    assert np.array_equal(codes[:, 3:], codes[:, :5]) and codes.dtype == np.int32
    shares = np.bincount(codes[:, :3].ravel(), minlength=12) / 12_000
    assert len(shares) == 12 and np.abs(shares - 1 / 12).max() < 0.015
    assert np.array_equal(codes, scheduler.initial_codes(4000, 8, 0).asnumpy())
    one_each = scheduler.initial_codes(2, 8, [7, 8]).asnumpy()
    assert np.array_equal(one_each[1:], scheduler.initial_codes(1, 8, [8]).asnumpy())
    assert VQDiffusionScheduler.from_config(scheduler.config).num_start_codes == 3
    with pytest.raises(ValueError, match="num_start_codes is -1"):
        VQDiffusionScheduler(13, num_start_codes=-1)


def test_a_first_step_takes_start_codes_for_masks(rng):
    log_p = Tensor(np.log(rng.dirichlet(np.ones(7), (2, 16))).astype(np.float32).transpose(0, 2, 1))
    drawn = []
    for scheduler in (VQDiffusionScheduler(8, 100), VQDiffusionScheduler(8, 100, num_start_codes=2)):
        scheduler.set_timesteps(4, sampler="confidence")
        start = scheduler.initial_codes(2, 16, 1)
        drawn.append(scheduler.step(log_p, 99, start, generator=0).prev_sample.asnumpy())
        t = int(scheduler.timesteps[1].asnumpy())
        later = scheduler.step(log_p, t, Tensor(drawn[-1]), generator=0).prev_sample.asnumpy()
        assert np.array_equal(later[drawn[-1] < 7], drawn[-1][drawn[-1] < 7])
    assert np.array_equal(*drawn)
