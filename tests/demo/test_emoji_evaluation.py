"""Pictures are compared with the true pictures of all cells."""

import json

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from mindone_vq.demo import emoji as demo_emoji
from mindone_vq.demo.emoji import Cell, read
from mindone_vq.demo.emoji_evaluation import (
    BATCH,
    COPIES,
    RECONSTRUCTIONS,
    SAMPLES,
    Codec,
    euclidean,
    nearest_by_words,
    retrieve,
)
from mindone_vq.demo.prompts import EmojiPrompts
from tests.demo.emoji_packages import write_packages
from tests.tiny_pipeline import random_pipeline

CELLS = [
    Cell(role, gender, tone) for role in ("cook", "elf") for gender in ("man", "woman") for tone in ("dark", "light")
]


@pytest.fixture(scope="module")
def vqvae():
    return random_pipeline(np.random.default_rng(0)).vqvae


@pytest.fixture
def emoji(tmp_path, monkeypatch):
    """All emoji of small packages, two of whose cells are held out."""
    excluded = frozenset({"running | man | dark", "firefighter | woman | light"})
    monkeypatch.setattr(demo_emoji, "held_out", lambda: excluded)
    return read(*write_packages(tmp_path))


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
    a, b = (rng.integers(0, 256, (count, 75)).astype(np.float32) for count in (3, 4))
    expected = [[np.sqrt(((x - y) ** 2).mean()) for y in b] for x in a]
    np.testing.assert_allclose(euclidean(a, b), expected, rtol=1e-5)


def test_features_and_reconstructions_are_those_of_the_vqvae(vqvae, rng):
    pictures = rng.integers(0, 256, (BATCH + 3, 12, 12, 3)).astype(np.uint8)
    pixels = Tensor(pictures.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
    codec = Codec(vqvae, 12, 12)
    np.testing.assert_allclose(codec.features(pictures), vqvae.encode(pixels).latents.asnumpy(), atol=1e-4)
    expected = (vqvae(pixels).sample.asnumpy().transpose(0, 2, 3, 1).clip(-1, 1) + 1) * 127.5
    again = codec.reconstructions(pictures)
    assert again.shape == pictures.shape and again.dtype == np.uint8
    assert np.abs(again - expected).max() <= 0.5 + 1e-2


def test_copying_takes_the_caption_with_most_words_in_common():
    captions = ["man cook, dark skin tone", "woman elf, dark skin tone", "red apple"]
    assert nearest_by_words("man elf, dark skin tone", captions) in (0, 1)
    assert nearest_by_words("woman elf, light skin tone", captions) == 1
    assert nearest_by_words("apple", captions) == 2


def test_as_many_prompts_of_trained_cells_follow(emoji):
    for seed in range(100):
        asked = EmojiPrompts(emoji, None, True, seed)
        assert [each.is_held_out for each in asked.wanted] == [True, True, False, False]


def test_true_pictures_are_perfect_samples(vqvae, emoji):
    asked = EmojiPrompts(emoji, None, True, seed=0)
    assert asked.prompts[:2] == ["woman firefighter, light skin tone", "man running, dark skin tone"]
    assert len(asked.prompts) == 4 and len(set(asked.prompts)) == 4
    truths = np.stack([asked.truth(i)[0] for i in range(4)])
    pictures = [Image.fromarray(each) for each in Codec(vqvae, 64, 64).reconstructions(truths)]
    scores, verdicts = asked.judge(vqvae)(pictures)
    held, trained = scores.groups["held out"], scores.groups["trained"]
    for group in (held, trained):
        rows = group.retrieval["pixels"]
        assert rows[SAMPLES] == rows[RECONSTRUCTIONS] and rows[SAMPLES].exact.value == 1
        assert group.memorisation.to_truth == 0
    assert held.memorisation.nearer_to_truth.value == 1 and trained.memorisation.nearer_to_truth is None
    assert held.memorisation.to_training == pytest.approx(held.memorisation.truth_to_training) != 0
    assert trained.memorisation.to_training == pytest.approx(0, abs=0.1) != trained.memorisation.truth_to_training
    copies = held.retrieval["pixels"][COPIES]
    assert copies.exact.value == 0 < copies.tone.value
    assert trained.retrieval["pixels"][COPIES].exact.value == 0
    assert scores.chance == {"exact": 1 / 54, "role": 1 / 3, "gender": 1 / 3, "tone": 1 / 6}
    assert verdicts[1] == {"right": scores.right[1], "shown": str(scores.found[1])}
    assert set(json.loads(json.dumps(scores.to_dict()))) == {"chance", "held out", "trained"}
    assert "held out, by pixels: samples: exact 100.0%, role 100.0%, gender 100.0%, tone 100.0%" in str(scores)


def test_a_copy_of_another_cell_is_found_out(vqvae, emoji):
    asked = EmojiPrompts(emoji, None, False, seed=0)
    wanted = {(each.cell.role, each.cell.gender, each.cell.tone): each for each in emoji if each.cell}
    copied = [wanted["firefighter", "woman", "dark"], wanted["running", "man", "light"]]
    made = Codec(vqvae, 64, 64).reconstructions(np.stack([each.picture() for each in copied]))
    judge = asked.judge(vqvae)
    scores, _ = judge([Image.fromarray(each) for each in made])
    held = scores.groups["held out"]
    unblurred, _ = judge([each.picture() for each in copied])
    shown = held.retrieval["pixels"], unblurred.groups["held out"].retrieval["features"]
    for shares in (rows[SAMPLES] for rows in shown):
        assert [getattr(shares, name).value for name in ("exact", "role", "gender", "tone")] == [0, 1, 1, 0]
    assert held.memorisation.nearer_to_truth.value == 0 and held.memorisation.to_training == pytest.approx(0, abs=0.1)
    assert "trained" not in scores.groups


def test_pictures_of_another_size_are_an_error(vqvae, emoji):
    asked = EmojiPrompts(emoji, 1, False, seed=0)
    with pytest.raises(ValueError, match="the pictures are 32 x 16 pixels, the true ones 64 x 64"):
        asked.judge(vqvae)([Image.new("RGB", (32, 16))])
    with pytest.raises(ValueError, match="3 prompts are asked for, there are 2 such emoji"):
        EmojiPrompts(emoji, 3, False, seed=0)
