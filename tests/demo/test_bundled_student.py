"""The student in the package, which draws in four steps, or in one, what its teacher draws in a hundred."""

import numpy as np
import pytest

from mindone_vq import VQDiffusionPipeline
from mindone_vq.demo import SHAPES_MODEL, SHAPES_STUDENT
from mindone_vq.demo.shapes_evaluation import random_prompts, score

BATCH = 16


@pytest.fixture(scope="module")
def pipe():
    pipe = VQDiffusionPipeline.from_pretrained(SHAPES_STUDENT)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_a_call_takes_four_steps_without_guidance(pipe):
    assert pipe.default_settings["num_inference_steps"] == 4 and pipe.default_settings["guidance_scale"] == 1
    assert pipe.scheduler.config["num_start_codes"] == 1


def test_it_is_small():
    assert sum(path.stat().st_size for path in SHAPES_STUDENT.rglob("*") if path.is_file()) <= 12e6


def test_only_the_denoiser_is_another():
    for part in ("vqvae", "text_encoder", "tokenizer"):
        for path in (SHAPES_MODEL / part).iterdir():
            assert path.read_bytes() == (SHAPES_STUDENT / part / path.name).read_bytes()
    one, other = (folder / "transformer/config.json" for folder in (SHAPES_MODEL, SHAPES_STUDENT))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("settings, least", [({}, 0.9), (dict(num_inference_steps=1), 0.8)])
def test_it_draws_combinations_that_nobody_was_trained_on(settings, least, pipe):
    scenes, prompts = random_prompts(np.random.default_rng(5), 2 * BATCH, BATCH)
    pictures = []
    for i in range(0, len(prompts), BATCH):
        seeds = list(range(i, i + BATCH))
        pictures += pipe(prompts[i : i + BATCH], generator=seeds, **settings)[0]
    assert np.mean(score(scenes, pictures).right) >= least
