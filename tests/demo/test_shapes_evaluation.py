import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mindone_vq.demo.shapes import SIDE, Scene, Shape, caption, draw, ideal_pictures, paint, random_scene
from mindone_vq.demo.shapes_evaluation import off, score, strictly_right, understand
from mindone_vq.demo.share import Share

RING = Shape("large", "red", "ring")
SQUARE = Shape("small", "blue", "square")
PAIR = Scene("white", RING, SQUARE, "left")
EMPTY = np.full((SIDE, SIDE, 3), 245, np.uint8)


def shares(group):
    return {name: (share.hits, share.count) for name, share in group.properties.items()}


def test_drawn_pictures_are_all_right(rng):
    scenes = [random_scene(rng, pairs=0.5, held_out=None) for _ in range(40)]
    scores = score(scenes, [draw(scene, rng) for scene in scenes])
    assert scores.found == tuple(scenes)
    assert scores.right == (True,) * 40
    ones = sum(scene.second is None for scene in scenes)
    assert (scores.one.exact, scores.two.exact) == (Share(ones, ones), Share(40 - ones, 40 - ones))
    assert set(shares(scores.one)) == {"number", "background", "size", "colour", "kind"}
    assert all(share.value == 1 for share in scores.one.properties.values())
    twos = 40 - ones
    assert shares(scores.two) == {
        "number": (twos, twos),
        "background": (twos, twos),
        "size": (2 * twos, 2 * twos),
        "colour": (2 * twos, 2 * twos),
        "kind": (2 * twos, 2 * twos),
        "relation": (twos, twos),
    }


# for the prompt of PAIR; the right answers for number, background, size, colour, kind (of 2), relation
@pytest.mark.parametrize(
    "shown, right",
    [
        (replace(PAIR, first=replace(RING, colour="green")), (1, 1, 2, 1, 2, 1)),
        (replace(PAIR, second=replace(SQUARE, size="large", kind="cross")), (1, 1, 1, 2, 1, 1)),
        (replace(PAIR, background="black"), (1, 0, 2, 2, 2, 1)),
        (replace(PAIR, first=SQUARE, second=RING), (1, 1, 2, 2, 2, 0)),  # changed places
        (replace(PAIR, relation="above"), (1, 1, 2, 2, 2, 0)),
        (Scene("white", SQUARE), (0, 1, 1, 1, 1, 0)),  # one is missing
        (None, (0, 0, 0, 0, 0, 0)),
    ],
)
def test_an_error_is_counted_in_its_property(shown, right, rng):
    picture = EMPTY if shown is None else np.asarray(draw(shown, rng))
    scores = score([PAIR], [picture])
    assert (scores.found, scores.right, scores.one) == ((shown,), (False,), None)
    assert scores.two.exact == Share(0, 1)
    assert scores.two.unread == (shown is None)
    assert tuple(hits for hits, _ in shares(scores.two).values()) == right
    assert tuple(count for _, count in shares(scores.two).values()) == (1, 1, 2, 2, 2, 1)


def test_a_second_shape_that_is_not_in_the_prompt_is_a_wrong_number(rng):
    scores = score([Scene("white", SQUARE)], [draw(PAIR, rng)])
    assert scores.two is None
    assert scores.right == (False,)
    assert [hits for hits, _ in shares(scores.one).values()] == [0, 1, 1, 1, 1]


def test_pictures_of_another_size_are_read_too(rng):
    picture = draw(PAIR, rng)
    scenes = [PAIR] * 3
    sizes = [picture, picture.resize((256, 256), Image.BICUBIC), picture.resize((48, 48), Image.BICUBIC)]
    assert score(scenes, sizes).right == (True,) * 3
    assert score(scenes, [np.asarray(size) for size in sizes]).right == (True,) * 3


def test_an_interval_is_wilsons():
    assert Share(183, 250).interval == pytest.approx((0.673889, 0.783089), abs=1e-6)
    assert Share(0, 7).interval == pytest.approx((0, 0.354330), abs=1e-6)
    assert Share(7, 7).interval == pytest.approx((0.645670, 1), abs=1e-6)


def test_scores_are_for_people_and_for_json(rng):
    single = Scene("gray", SQUARE)
    scores = score([single, single, PAIR], [draw(single, rng), EMPTY, draw(PAIR, rng)])
    message = str(scores)
    assert "one shape: 1 of 2 exactly as in the prompt = 50.0% (95 %: 9.5% to 90.5%)" in message
    assert "colour 50.0%" in message
    assert "pictures without a readable scene: 1" in message
    content = json.loads(json.dumps(scores.to_dict()))
    assert content["one"]["exact"]["share"] == 0.5
    assert content["one"]["unread"] == 1
    assert content["two"]["properties"]["size"]["count"] == 2
    assert score([single], [EMPTY]).to_dict()["two"] is None


@pytest.mark.parametrize(
    "scenes, pictures, message",
    [
        ([PAIR], [EMPTY] * 2, "1 scenes and 2 pictures given"),
        ([], [], "0 scenes and 0 pictures given"),
        ([PAIR], [EMPTY / 255], r"array of float64 \(64, 64, 3\); it must be uint8"),
        ([PAIR], [EMPTY[..., 0]], r"array of uint8 \(64, 64\); it must be"),
    ],
)
def test_what_cannot_be_scored_is_refused(scenes, pictures, message):
    with pytest.raises(ValueError, match=message):
        score(scenes, pictures)


def test_every_caption_is_understood(rng):
    for _ in range(1000):
        scene = random_scene(rng, held_out=None)
        assert understand(caption(scene, rng)) == scene
    assert understand("A small  blue SQUARE on white\n") == Scene("white", SQUARE)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a teddy bear playing in the pool",
        "a small blue square",
        "a small blue square on white and more",
        "a small blue square left of a large blue square on white",
    ],
)
def test_other_texts_are_not(text):
    assert understand(text) is None


def test_a_strict_look_wants_one_of_the_ideal_pictures(rng):
    scene = Scene("white", Shape("large", "red", "circle"), Shape("small", "blue", "ring"), "left")
    ideals = ideal_pictures(scene)
    assert len({ideal.tobytes() for ideal in ideals}) == 9
    drawn = {np.asarray(draw(scene, rng)).tobytes() for _ in range(100)}
    assert drawn == {ideal.tobytes() for ideal in ideals}
    assert off(scene, ideals[4]).argmin() == 4 and off(scene, ideals[4]).min() == 0
    speckled, spoiled = ideals[4].copy(), ideals[4].copy()
    speckled.reshape(-1, 3)[::104] = (0, 255, 255)  # 40 pixels of 4096, far from each other
    spoiled.reshape(-1, 3)[::96] = (0, 255, 255)  # 43
    between = np.asarray(paint(scene, np.array([4.0, -4.0])))
    faded = (ideals[4].astype(int) * 0.95).astype(np.uint8)
    scores = score([scene] * 5, [ideals[0], speckled, spoiled, between, faded])
    assert scores.right[:3] == (True, True, True)
    assert scores.strict == (True, True, False, False, True)
    assert scores.two.strict.hits == sum(scores.strict) and scores.two.to_dict()["strict"]["count"] == 5


def test_a_wrong_scene_is_never_strict():
    scene, other = (Scene("white", Shape("large", "red", kind)) for kind in ("circle", "ring"))
    scores = score([scene, scene], [ideal_pictures(scene)[0], ideal_pictures(other)[0]])
    assert scores.strict == (True, False) and "in a strict look 50.0%" in str(scores)


def test_pictures_are_accepted_where_they_are_strictly_right(rng):
    scene = Scene("white", RING)
    speck = np.array(draw(scene, rng))
    speck[:4, :6] = speck[-4:, -6:] = 0  # each too small for the oracle to be a shape
    pictures = [draw(scene, rng), Image.fromarray(speck), draw(PAIR, rng), draw(scene, rng)]
    prompts = [caption(scene), caption(scene), caption(scene), "something else"]
    assert strictly_right(prompts, pictures) == [True, False, False, False]
