"""The VQ-VAE of the emoji model in the package, on true pictures that it was not trained on.

``emoji_truths`` has 24 of the pictures that ``examples/emoji_data.py --held-out`` writes: Noto Emoji, Apache-2.0.
"""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from mindone_vq import VQModel
from mindone_vq.demo import EMOJI_MODEL, SHAPES_MODEL
from mindone_vq.demo.emoji_evaluation import Codec

TRUTHS = Path(__file__).with_name("emoji_truths")
PAIRS = [json.loads(line) for line in (TRUTHS / "metadata.jsonl").read_text(encoding="utf-8").splitlines()]


def test_it_is_small_and_so_are_both():
    emoji, shapes = (
        sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        for folder in (EMOJI_MODEL, SHAPES_MODEL)
    )
    assert emoji <= 15e6 and emoji + shapes <= 25e6


def test_its_vqvae_reconstructs_pictures_that_it_was_not_trained_on():
    truths = np.stack([np.asarray(Image.open(TRUTHS / pair["file_name"]).convert("RGB")) for pair in PAIRS])
    codec = Codec(VQModel.from_pretrained(EMOJI_MODEL, subfolder="vqvae"), *truths.shape[1:3])
    errors = (codec.reconstructions(truths).astype(float) - truths) ** 2
    assert np.mean(10 * np.log10(255**2 / errors.mean((1, 2, 3)))) >= 28  # dB
