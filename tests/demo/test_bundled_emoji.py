"""The emoji model in the package, beside true pictures that it was not trained on.

``emoji_truths`` has 24 of the pictures that ``examples/emoji_data.py --held-out`` writes: Noto Emoji, Apache-2.0.
benchmarks/RESULTS.md has the scores among the true pictures of all cells.
"""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mindone_vq import VQDiffusionPipeline
from mindone_vq.demo import EMOJI_MODEL, MODELS
from mindone_vq.demo.emoji_evaluation import Codec, euclidean

TRUTHS = Path(__file__).with_name("emoji_truths")
PAIRS = [json.loads(line) for line in (TRUTHS / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]
CASES = [  # pictures, settings of the call
    (8, {}),
    pytest.param(len(PAIRS), dict(num_inference_steps=100, spacing="uniform"), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module")
def pipe():
    pipe = VQDiffusionPipeline.from_pretrained(EMOJI_MODEL)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def codec(pipe):
    return Codec(pipe.vqvae, 64, 64)


@pytest.fixture(scope="module")
def truths():
    return np.stack([np.asarray(Image.open(TRUTHS / pair["file_name"]).convert("RGB")) for pair in PAIRS])


def rows(arrays):
    return arrays.reshape(len(arrays), -1)


def test_it_is_small_and_so_are_both():
    emoji, shapes = (
        sum(path.stat().st_size for path in MODELS[name].rglob("*") if path.is_file()) for name in ("emoji", "shapes")
    )
    assert emoji <= 15e6 and emoji + shapes <= 25e6


def test_its_vqvae_reconstructs_pictures_that_it_was_not_trained_on(codec, truths):
    errors = (codec.reconstructions(truths).astype(float) - truths) ** 2
    assert np.mean(10 * np.log10(255**2 / rows(errors).mean(1))) >= 28  # dB


@pytest.mark.parametrize("count, settings", CASES)
def test_it_draws_people_that_it_was_not_trained_on(count, settings, pipe, codec, truths):
    """The true picture that is nearest to a sample is that of its prompt."""
    prompts = [pair["text"] for pair in PAIRS[:count]]
    pictures = pipe(prompts, generator=list(range(count)), **settings)[0]
    samples = codec.features(np.stack([np.asarray(picture) for picture in pictures]))
    nearest = euclidean(rows(samples), rows(codec.features(truths))).argmin(1)
    assert np.mean(nearest == np.arange(count)) >= 0.9
