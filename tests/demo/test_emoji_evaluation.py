"""Pictures are compared with the true pictures of all cells."""

import numpy as np
import pytest

from mindone_vq.demo.emoji import Cell
from mindone_vq.demo.emoji_evaluation import (
    euclidean,
    feature_distances,
    nearest_by_words,
    pixel_distances,
    reconstructions,
    retrieve,
)
from tests.tiny_pipeline import random_pipeline

CELLS = [
    Cell(role, gender, tone) for role in ("cook", "elf") for gender in ("man", "woman") for tone in ("dark", "light")
]


def test_the_nearest_true_picture_says_what_is_shown():
    distances = np.ones((4, len(CELLS)))
    found = [CELLS[0], CELLS[1], CELLS[3], CELLS[7]]  # right, other tone, other gender and tone, all other
    for row, cell in enumerate(found):
        distances[row, CELLS.index(cell)] = 0.5
    result = retrieve(distances, CELLS, [CELLS[0]] * 4)
    shares = [each.hits for each in (result.exact, result.role, result.gender, result.tone)]
    assert shares == [1, 3, 2, 1]
    assert str(result) == "exact 25.0%, role 75.0%, gender 50.0%, tone 25.0%"
    assert result.to_dict()["role"]["share"] == 0.75


def test_distances_are_roots_of_mean_squares(rng):
    a, b = (rng.integers(0, 256, (count, 5, 5, 3)).astype(np.uint8) for count in (3, 4))
    expected = [[np.sqrt(((x.astype(float) - y) ** 2).mean()) for y in b] for x in a]
    np.testing.assert_allclose(pixel_distances(a, b), expected)
    assert euclidean(a.astype(float), a.astype(float)).diagonal() == pytest.approx(0)


def test_features_and_reconstructions_are_those_of_the_vqvae(rng):
    vqvae = random_pipeline(rng).vqvae
    pictures = rng.integers(0, 256, (3, 12, 12, 3)).astype(np.uint8)
    distances = feature_distances(vqvae, pictures, pictures)
    assert distances.shape == (3, 3) and (distances.argmin(1) == np.arange(3)).all()
    assert distances.max() > 0.01
    again = reconstructions(vqvae, pictures)
    assert again.shape == pictures.shape and again.dtype == np.uint8 and not np.array_equal(again, pictures)


def test_copying_takes_the_caption_with_most_words_in_common():
    captions = ["man cook, dark skin tone", "woman elf, dark skin tone", "red apple"]
    assert nearest_by_words("man elf, dark skin tone", captions) in (0, 1)
    assert nearest_by_words("woman elf, light skin tone", captions) == 1
    assert nearest_by_words("apple", captions) == 2
