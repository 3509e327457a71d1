"""Emoji of two npm packages become captioned pictures; cells of role, gender and tone are held out whole."""

import importlib
import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

import mindone_vq
from mindone_vq.demo import emoji as demo_emoji
from mindone_vq.demo.emoji import GENDERS, TONES, Cell, held_out, read
from tests.demo.emoji_packages import colour, write_packages

EXAMPLES = Path(mindone_vq.__file__).parents[1] / "examples"


@pytest.fixture
def packages(tmp_path):
    return write_packages(tmp_path)


def test_people_are_factorial(packages):
    emoji = read(*packages)
    cells = [each.cell for each in emoji if each.cell]
    expected = {Cell(r, g, t) for r in ("firefighter", "running", "blond hair") for g in GENDERS for t in TONES}
    assert len(cells) == len(expected) and set(cells) == expected
    assert Counter(each.name for each in emoji if not each.cell) == {
        "prince": 6,
        "OK hand": 6,
        "red apple": 1,
        "men holding hands": 1,  # the one of two tones is left out
    }


@pytest.mark.parametrize(
    "name, tone, captions",
    [
        (
            "woman firefighter",
            "medium-dark",
            [
                "woman firefighter, medium-dark skin tone",
                "woman firefighter with medium-dark skin",
                "woman, firefighter, medium-dark skin",
                "woman with medium-dark skin",
                "medium-dark skin tone",
            ],
        ),
        (
            "person running",
            "yellow",
            [
                "person running",
                "person running with yellow skin",
                "person, running, yellow skin",
                "person with yellow skin",
                "yellow skin tone",
            ],
        ),
        ("OK hand", "dark", ["OK hand, dark skin tone", "OK hand, dark skin tone, sweet"]),
        ("red apple", "yellow", ["red apple", "red apple, fruit, ripe, diet"]),
        ("prince", "yellow", ["prince"]),
    ],
)
def test_captions(name, tone, captions, packages):
    (emoji,) = [each for each in read(*packages) if (each.name, each.tone) == (name, tone)]
    assert emoji.captions == captions


def test_each_role_gender_and_tone_is_trained_somewhere():
    cells = [Cell(*line.split(" | ")) for line in held_out()]
    assert len(cells) == 173
    assert max(Counter(cell.role for cell in cells).values()) <= 4  # of 18
    assert {cell.gender for cell in cells} == set(GENDERS) and {cell.tone for cell in cells} == set(TONES)


def test_the_example_leaves_out_what_is_held_out(packages, tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module("emoji_data")
    monkeypatch.setattr(demo_emoji, "held_out", lambda: frozenset({"running | man | dark"}))
    arguments = [str(each) for each in packages]
    example.main([*arguments, str(tmp_path / "data")])
    example.main([*arguments, str(tmp_path / "held"), "--held-out"])
    lines = [json.loads(line) for line in (tmp_path / "data/metadata.jsonl").read_text().splitlines()]
    texts = {line["text"] for line in lines}
    assert "man running, medium skin tone" in texts and "man running, dark skin tone" not in texts
    assert "dark skin tone" in texts
    assert len(lines) == 53 * 5 + 6 + 12 + 2 + 1
    assert len(texts) == 53 * 3 + len(GENDERS) * len(TONES) + len(TONES) + 6 + 12 + 2 + 1
    (line,) = map(json.loads, (tmp_path / "held/metadata.jsonl").read_text().splitlines())
    assert line == {"file_name": "1f3c3-1f3ff-200d-2642.png", "text": "man running, dark skin tone"}
    picture = Image.open(tmp_path / "held" / line["file_name"])
    assert picture.mode == "RGB" and picture.getpixel((63, 0)) == (255, 255, 255)
    assert picture.getpixel((0, 0)) == colour("1F3C3-1F3FF-200D-2642-FE0F")
    assert "Wrote 67 pictures" in capsys.readouterr().out
    with pytest.raises(ValueError, match="exists already"):
        example.main([*arguments, str(tmp_path / "data")])


def test_the_example_writes_people_alone(packages, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    example = importlib.import_module("emoji_data")
    monkeypatch.setattr(demo_emoji, "held_out", lambda: frozenset({"running | man | dark"}))
    example.main([*map(str, packages), str(tmp_path / "data"), "--people"])
    texts = [json.loads(line)["text"] for line in (tmp_path / "data/metadata.jsonl").read_text().splitlines()]
    assert len(texts) == 53 * 4  # all but what is held out, and no other emoji
    assert "man running, medium skin tone" in texts and "man with medium skin" in texts
    assert "man running, dark skin tone" not in texts and "dark skin tone" not in texts


def test_an_empty_package_is_an_error(packages):
    google, emojibase = packages
    for picture in (google / "img/google/64").iterdir():
        picture.unlink()
    with pytest.raises(FileNotFoundError, match="has no pictures; unpack emoji-datasource-google there"):
        read(google, emojibase)
