"""The whole pipeline against diffusers', with the peer's draw replaced by ours."""

import numpy as np
import pytest
import torch

from tests.numerics import as_numpy
from tests.parity.peers import draw_like_ours, torch_pipeline
from tests.shapes32_model import MODEL
from tests.tiny_pipeline import random_pipeline

PROMPTS = ["a large red circle on a white background", "a small cyan ring on a black background"] * 4
SETTINGS = [
    dict(guidance_scale=5.0, truncation_rate=1.0),
    dict(guidance_scale=2.0, truncation_rate=0.86),
    dict(guidance_scale=1.0, truncation_rate=1.0),
    dict(guidance_scale=1.0, truncation_rate=0.86),
]


def both(ours, theirs, monkeypatch, steps, seed, settings):
    """Codes after every step on either side, and the pictures at the end."""
    our_codes, their_codes = [], []
    our_images = ours(
        PROMPTS,
        num_inference_steps=steps,
        generator=seed,
        output_type="np",
        callback=lambda i, t, x: our_codes.append(x.asnumpy()),
        **settings,
    )[0]
    draw_like_ours(monkeypatch, seed)
    their_images = theirs(
        PROMPTS,
        num_inference_steps=steps,
        output_type="np",
        callback=lambda i, t, x: their_codes.append(x.numpy()),
        **settings,
    ).images
    return our_codes, their_codes, our_images, their_images


def assert_same_pictures_where_codes_agree(our_codes, their_codes, our_images, their_images):
    same = (our_codes == their_codes).all(1)
    assert same.any()
    assert np.abs(our_images[same] - their_images[same]).max() <= 2 / 255


@pytest.mark.slow
@pytest.mark.parametrize("settings", [SETTINGS[0], SETTINGS[-1]], ids=str)
def test_trained_weights_give_the_same_codes_and_pictures(settings, demo_pipe, monkeypatch):
    results = both(demo_pipe, torch_pipeline(MODEL), monkeypatch, 100, 7, settings)
    our_codes, their_codes, our_images, their_images = results
    assert (our_codes[9] == their_codes[9]).mean() >= 0.999  # after ten steps
    assert (our_codes[-1] == their_codes[-1]).mean() >= 0.99  # a code that differs changes what comes after it
    assert_same_pictures_where_codes_agree(our_codes[-1], their_codes[-1], our_images, their_images)


@pytest.fixture(scope="module")
def random_pipelines(tmp_path_factory):
    """With a learned null text, and without; each beside diffusers' of the same weights."""
    pipelines = {}
    for learned_null in (True, False):
        folder, ours = tmp_path_factory.mktemp("saved"), random_pipeline(np.random.default_rng(2), learned_null)
        ours.save_pretrained(folder)
        pipelines[learned_null] = ours, torch_pipeline(folder)
    return pipelines


@pytest.mark.parametrize(
    "learned_null, settings", [*((True, each) for each in SETTINGS), (False, SETTINGS[1])], ids=str
)
def test_random_weights_give_the_same_codes_and_pictures(learned_null, settings, random_pipelines, monkeypatch):
    """All ten timesteps, the null text learned or the empty prompt."""
    our_codes, their_codes, our_images, their_images = both(
        *random_pipelines[learned_null], monkeypatch, 10, 3, settings
    )
    assert len(np.unique(our_codes[-1])) > 3
    assert (our_codes[-1] == their_codes[-1]).mean() >= 0.999
    assert_same_pictures_where_codes_agree(our_codes[-1], their_codes[-1], our_images, their_images)


@pytest.mark.parametrize("rate", [0.3, 0.86, 0.999])
def test_truncation_keeps_the_same_classes(rate, demo_pipe, rng):
    from mindspore import Tensor

    theirs = torch_pipeline(MODEL)
    log_p = torch.log_softmax(torch.tensor(3 * rng.standard_normal((2, 40, 9)), dtype=torch.float32), 1)
    expected = theirs.truncate(log_p, rate).clamp(-70).numpy()
    truncated = as_numpy(demo_pipe.truncate(Tensor(log_p.numpy()), rate))
    assert ((expected == -70) == (truncated == -70)).all()
    assert 0 < (expected == -70).mean() < 1
    assert np.abs(expected - truncated).max() == 0
