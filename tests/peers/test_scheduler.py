"""VQDiffusionScheduler in the cases of diffusers' tests/schedulers/test_scheduler_vq_diffusion.py.

With them those of SchedulerCommonTest and SchedulerBaseTests, tests/schedulers/test_schedulers.py, that it inherits.
"""

import inspect
import json

import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq import VQDiffusionScheduler

CONFIG = dict(num_vec_classes=4097, num_train_timesteps=100)
BATCH, PIXELS = 4, 64


def codes(rng, classes=4097):
    """Any class, the mask among them."""
    return Tensor(rng.integers(0, classes, (BATCH, PIXELS)).astype(np.int32))


def log_p_x_0(rng, classes=4097):
    logits = rng.random((BATCH, classes - 1, PIXELS))
    return Tensor((logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32))


def check_that_it_comes_back(folder, rng, timestep, **changes):
    """A step of the scheduler, and the same step of the one that its folder gives."""
    config = {**CONFIG, **changes}
    scheduler, classes = VQDiffusionScheduler(**config), config["num_vec_classes"]
    scheduler.save_config(folder)
    loaded = VQDiffusionScheduler.from_pretrained(folder)
    assert loaded is not scheduler
    assert loaded.config.num_train_timesteps == config["num_train_timesteps"]
    x_t, log_p = codes(rng, classes), log_p_x_0(rng, classes)
    first, second, other = (
        each.step(log_p, timestep, x_t, generator=np.random.default_rng(seed)).prev_sample.asnumpy()
        for each, seed in ((scheduler, 0), (loaded, 0), (loaded, 1))
    )
    assert first.min() >= 0
    assert first.max() < classes
    assert np.array_equal(first, second)
    if classes > 5 and config["num_train_timesteps"] > 2:
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("timesteps", [2, 5, 100, 1000])
def test_any_number_of_training_timesteps(timesteps, tmp_path, rng):
    check_that_it_comes_back(tmp_path, rng, 0, num_train_timesteps=timesteps)


@pytest.mark.parametrize("classes", [5, 100, 1000, 4000])
def test_any_number_of_classes(classes, tmp_path, rng):
    check_that_it_comes_back(tmp_path, rng, 0, num_vec_classes=classes)


@pytest.mark.parametrize("timestep", [0, 50, 99])
def test_first_middle_and_last_timestep(timestep, tmp_path, rng):
    check_that_it_comes_back(tmp_path, rng, timestep)


def test_the_scheduler_comes_back_from_a_folder(tmp_path, rng):
    check_that_it_comes_back(tmp_path, rng, 1)


def test_noise_is_added_at_a_timestep_of_the_chain(rng):
    scheduler = VQDiffusionScheduler(**CONFIG)
    scheduler.set_timesteps(100)
    x_0 = codes(rng, 4096)
    noisy = scheduler.add_noise(x_0, scheduler.timesteps[5][None], generator=0)
    assert noisy.shape == x_0.shape
    assert not np.array_equal(noisy.asnumpy(), x_0.asnumpy())


def test_compatible_schedulers_take_its_config():
    scheduler = VQDiffusionScheduler(**CONFIG)
    assert VQDiffusionScheduler in scheduler.compatibles
    for kind in scheduler.compatibles:
        back = VQDiffusionScheduler.from_config(kind.from_config(scheduler.config).config)
        assert dict(back.config) == dict(scheduler.config)
    arguments = inspect.signature(VQDiffusionScheduler.__init__).parameters.keys() - {"self"}
    assert arguments <= scheduler.config.keys()


def test_the_saved_config_is_the_config(tmp_path):
    scheduler = VQDiffusionScheduler(gamma_cum_end=0.9, **CONFIG)
    scheduler.save_pretrained(tmp_path)
    assert VQDiffusionScheduler.from_pretrained(tmp_path).config == scheduler.config
    read = VQDiffusionScheduler.load_config(tmp_path)
    assert {key: read[key] for key in scheduler.config} == dict(scheduler.config)


def test_a_step_keeps_the_shape(rng):
    scheduler, x_t, log_p = VQDiffusionScheduler(**CONFIG), codes(rng), log_p_x_0(rng)
    for timestep in (0, 1):
        assert scheduler.step(log_p, timestep, x_t).prev_sample.shape == x_t.shape


def test_a_step_gives_a_tuple_with_names(rng):
    scheduler, x_t, log_p = VQDiffusionScheduler(**CONFIG), codes(rng), log_p_x_0(rng)
    scheduler.set_timesteps(50)
    timestep = int(scheduler.timesteps[-1])
    for options in ({}, {"return_dict": True}, {"return_dict": False}):
        output = scheduler.step(log_p, timestep, x_t, generator=np.random.default_rng(0), **options)
        assert isinstance(output, tuple)
        assert len(output) == 1
        assert output[0] is output.prev_sample
        expected = scheduler.step(log_p, timestep, x_t, generator=np.random.default_rng(0))[0]
        assert np.array_equal(output.prev_sample.asnumpy(), expected.asnumpy())


def test_what_every_pipeline_expects_of_a_scheduler():
    scheduler = VQDiffusionScheduler(**CONFIG)
    assert scheduler.order == 1
    assert list(inspect.signature(scheduler.step).parameters)[:4] == [
        "model_output",
        "timestep",
        "sample",
        "generator",
    ]
    assert scheduler.timesteps[0] == 99


def test_the_constructor_takes_no_other_argument():
    kinds = {each.kind for each in inspect.signature(VQDiffusionScheduler.__init__).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    with pytest.raises(TypeError, match="trained_betas"):
        VQDiffusionScheduler(**CONFIG, trained_betas=[0.1, 0.3])


def test_attributes_of_a_scheduler(caplog, recwarn):
    scheduler = VQDiffusionScheduler(**CONFIG)
    scheduler.dummy_attribute = 5
    assert scheduler.dummy_attribute == 5
    assert scheduler.save_pretrained == scheduler.save_pretrained
    assert scheduler.config.num_train_timesteps == 100
    assert not caplog.records
    assert not recwarn.list
    with pytest.raises(AttributeError, match="'VQDiffusionScheduler' object has no attribute 'does_not_exist'"):
        scheduler.does_not_exist  # noqa: B018


def test_an_unknown_entry_of_a_config_is_named_and_left_out(tmp_path, caplog):
    scheduler = VQDiffusionScheduler(**CONFIG)
    scheduler.save_config(tmp_path)
    assert VQDiffusionScheduler.from_config(VQDiffusionScheduler.load_config(tmp_path)).config == scheduler.config
    assert not caplog.records
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "unexpected": True}))
    made = VQDiffusionScheduler.from_config(VQDiffusionScheduler.load_config(tmp_path))
    assert "unexpected" in caplog.text
    assert "unexpected" not in made.config


def test_an_argument_goes_before_the_config_and_stays(tmp_path):
    """Of the tests of switching schedulers: defaults are taken where nothing is said, what is said is kept."""
    scheduler = VQDiffusionScheduler.from_config({"num_vec_classes": 33})
    assert scheduler.config.num_train_timesteps == 100
    changed = VQDiffusionScheduler.from_config(scheduler.config, num_train_timesteps=50)
    assert changed.config.num_train_timesteps == 50
    assert VQDiffusionScheduler.from_config(changed.config).config.num_train_timesteps == 50
    scheduler.save_pretrained(tmp_path)
    loaded = VQDiffusionScheduler.from_pretrained(tmp_path, num_train_timesteps=50)
    assert loaded.timesteps.shape == (50,)
    assert scheduler.config.num_train_timesteps == 100
