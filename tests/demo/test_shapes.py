import itertools
from pathlib import Path

import numpy as np
import pytest

from mindone_vq.demo import shapes
from mindone_vq.demo.shapes import (
    BACKGROUNDS,
    COLOURS,
    KINDS,
    SHAPES,
    Scene,
    Shape,
    caption,
    draw,
    is_held_out,
    random_scene,
    read,
)

PAIRS = list(itertools.combinations(itertools.product(COLOURS, KINDS), 2))


def pixels(scene, rng):
    return np.asarray(draw(scene, rng))


def test_the_oracle_reads_what_was_drawn(rng):
    scenes = [random_scene(rng, held_out=None) for _ in range(400)]
    right = [read(pixels(scene, rng)) == scene for scene in scenes]
    assert np.mean(right) >= 0.995


def test_the_oracle_reads_every_single_shape(rng):
    scenes = [Scene(background, shape) for background in BACKGROUNDS for shape in SHAPES]
    assert np.mean([read(pixels(scene, rng)) == scene for scene in scenes]) >= 0.995


def test_the_oracle_reads_pictures_that_are_a_little_wrong(rng):
    """Noise and a speck, as in generated pictures."""
    right = 0
    for _ in range(60):
        scene = random_scene(rng, held_out=None)
        x = pixels(scene, rng).astype(float) + rng.normal(0, 12, (64, 64, 3))
        x[2:5, 2:5] = 255 - x[2:5, 2:5]
        right += read(x.clip(0, 255).astype(np.uint8)) == scene
    assert right >= 57


def test_what_shows_no_scene_is_read_as_none(rng):
    assert read(np.full((64, 64, 3), 128, np.uint8)) is None
    three = np.full((64, 64, 3), 10, np.uint8)
    for x in (5, 25, 45):
        three[20:34, x : x + 14] = COLOURS["red"]
    assert read(three) is None
    twins = Scene("white", Shape("small", "red", "ring"), Shape("large", "red", "ring"), "left")
    assert read(pixels(twins, rng)) is None


def test_another_scene_is_read_as_another(rng):
    scene = Scene("gray", Shape("small", "blue", "ring"), Shape("large", "yellow", "triangle"), "left")
    assert read(pixels(scene, rng)) == scene
    x = pixels(scene, rng)
    assert read(np.ascontiguousarray(x[:, ::-1])) == Scene("gray", scene.second, scene.first, "left")
    assert read(np.ascontiguousarray(x.transpose(1, 0, 2))).relation == "above"


def test_more_than_a_tenth_of_the_combinations_is_held_out_and_listed():
    singles = [Scene(background, shape) for background in BACKGROUNDS for shape in SHAPES]
    held_singles = [scene for scene in singles if is_held_out(scene)]
    pairs = [Scene("black", Shape("small", *a), Shape("large", *b), "left") for a, b in PAIRS]
    held_pairs = [scene for scene in pairs if is_held_out(scene)]
    assert 0.1 <= len(held_singles) / len(singles) <= 0.15
    assert 0.1 <= len(held_pairs) / len(pairs) <= 0.15
    lines = [caption(scene) for scene in held_singles]
    lines += [
        f"{s.first.colour} {s.first.kind} with {s.second.colour} {s.second.kind}, in any size, place and background"
        for s in held_pairs
    ]
    assert Path(shapes.__file__).with_name("shapes_held_out.txt").read_text().splitlines() == lines


def test_a_held_out_pair_is_held_out_in_every_arrangement(rng):
    for _ in range(300):
        scene = random_scene(rng, pairs=1.0, held_out=True)
        turned = Scene("white", scene.second, scene.first, "above")
        other_size = Shape("large" if scene.first.size == "small" else "small", scene.first.colour, scene.first.kind)
        assert is_held_out(turned)
        assert is_held_out(Scene("gray", other_size, scene.second, "left"))


def test_training_scenes_are_never_held_out(rng):
    scenes = [random_scene(rng, pairs=0.7) for _ in range(500)]
    assert not any(is_held_out(scene) for scene in scenes)
    assert 0.6 < np.mean([scene.second is not None for scene in scenes]) < 0.8
    assert all(is_held_out(random_scene(rng, held_out=True)) for _ in range(50))


def test_captions_vary_and_say_the_same(rng):
    scene = Scene("gray", Shape("small", "blue", "ring"), Shape("large", "yellow", "triangle"), "left")
    assert caption(scene) == "a small blue ring to the left of a large yellow triangle on a gray background"
    captions = {caption(scene, rng) for _ in range(300)}
    assert len(captions) > 50
    for text in captions:
        ring, triangle = text.index("blue ring"), text.index("yellow triangle")
        assert ("left of" in text) == (ring < triangle)
        assert ("right of" in text) == (ring > triangle)


@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_seed_gives_the_same_pictures(seed):
    def made():
        rng = np.random.default_rng(seed)
        scene = random_scene(rng)
        return caption(scene, rng), pixels(scene, rng)

    (text, x), (again, y) = made(), made()
    assert text == again
    assert np.array_equal(x, y)
