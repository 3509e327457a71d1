"""The planned pictures and the files of a folder; without a model."""

import json
import os

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mindone_vq.batch import KEY, Picture, PictureFolder, describe, plan
from mindone_vq.text.prompts import Prompt

SETTINGS = {"weights": "0123", "num_inference_steps": 5, "guidance_scale": 2.0}
PICTURES = plan([Prompt("a cat", "000000"), Prompt("ein Kätzchen ☃", "cat", 7)], 3)


@pytest.fixture
def image(rng):
    return Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))


def folder(path, pictures=PICTURES, **changes):
    return PictureFolder(path, pictures, {**SETTINGS, **changes}, {"model": "mine"})


def names(path):
    return sorted(entry.relative_to(path).as_posix() for entry in path.rglob("*") if entry.is_file())


def test_each_picture_has_a_seed_and_a_name():
    prompts = [Prompt("a", "000000"), Prompt("b", "bee", 100), Prompt("c", "000002")]
    assert plan(prompts, 5) == [
        Picture("a", 5, "000000.png"),
        Picture("b", 100, "bee.png"),
        Picture("c", 7, "000002.png"),
    ]
    three = plan(prompts, 5, 3)
    assert [picture.seed for picture in three] == [5, 6, 7, 100, 101, 102, 11, 12, 13]
    assert [picture.name for picture in three[3:6]] == ["bee_0.png", "bee_1.png", "bee_2.png"]


def test_the_manifest_comes_when_every_picture_is_there(image, tmp_path):
    pictures = folder(tmp_path / "new")
    assert (pictures.done(), pictures.finish()) == (set(), False)
    pictures.save(1, image)
    assert (folder(tmp_path / "new").done(), pictures.finish()) == ({1}, False)
    assert names(tmp_path / "new") == ["pictures/cat.png"]
    assert np.array_equal(Image.open(tmp_path / "new/pictures/cat.png"), image)
    pictures.save(0, image)
    assert (pictures.done(), pictures.finish()) == ({0, 1}, True)
    lines = [json.loads(line) for line in (tmp_path / "new/manifest.jsonl").read_text("utf-8").splitlines()]
    assert lines == [
        {"file": "pictures/000000.png", "prompt": "a cat", "seed": 3, **SETTINGS, "model": "mine"},
        {"file": "pictures/cat.png", "prompt": "ein Kätzchen ☃", "seed": 7, **SETTINGS, "model": "mine"},
    ]
    for line in lines:
        assert describe(tmp_path / "new" / line["file"]).items() <= line.items()


def test_what_killed_runs_left_is_removed_in_the_end(image, tmp_path):
    ours = ["pictures/.cat.png.ab12_x9z", "pictures/.000000.png.aaaaaaaa", ".manifest.jsonl.bbbbbbbb"]
    others = [".cat.png.aaaaaaaa", "pictures/.dog.png.aaaaaaaa", "pictures/.DS_Store", "notes.txt", ".hidden"]
    (tmp_path / "pictures").mkdir()
    for name in ours + others:
        (tmp_path / name).write_text("half a picture")
    pictures = folder(tmp_path)
    assert pictures.done() == set()
    for number in range(2):
        pictures.save(number, image)
    assert set(ours) < set(names(tmp_path))  # not before: another process may be writing them
    assert pictures.finish()
    assert names(tmp_path) == sorted([*others, "manifest.jsonl", "pictures/000000.png", "pictures/cat.png"])


def test_workers_that_finish_together_leave_one_manifest(image, tmp_path, monkeypatch):
    pictures = folder(tmp_path)
    for number in range(2):
        pictures.save(number, image)
    replace, calls = os.replace, []

    def interrupted(temporary, path):
        calls.append(path)
        if len(calls) == 1:  # another process removes this temporary file and finishes first
            assert folder(tmp_path).finish()
        replace(temporary, path)

    monkeypatch.setattr(os, "replace", interrupted)
    assert pictures.finish()
    assert len(calls) == 2
    assert names(tmp_path) == ["manifest.jsonl", "pictures/000000.png", "pictures/cat.png"]
    assert len((tmp_path / "manifest.jsonl").read_text("utf-8").splitlines()) == 2


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"weights": "4567"}, "weights '0123' instead of '4567'"),
        ({"guidance_scale": 3.0}, "guidance_scale 2.0 instead of 3.0"),
        ({"dtype": "float16"}, "dtype None instead of 'float16'"),
        ({"pictures": [Picture("a dog", 7, "cat.png")]}, "prompt 'ein Kätzchen ☃' instead of 'a dog'"),
        ({"pictures": [Picture("ein Kätzchen ☃", 8, "cat.png")]}, "seed 7 instead of 8"),
        ({"pictures": PICTURES[:1]}, "is not one of the planned pictures"),
    ],
)
def test_other_pictures_are_refused(changes, message, image, tmp_path):
    folder(tmp_path).save(1, image)
    with pytest.raises(ValueError) as caught:
        folder(tmp_path, **changes).done()
    assert str(caught.value).startswith(f"{tmp_path / 'pictures/cat.png'} exists, but ")
    assert message in str(caught.value)
    assert folder(tmp_path).done() == {1}


def test_more_prompts_may_be_asked_for(image, tmp_path):
    folder(tmp_path).save(1, image)
    assert folder(tmp_path, [*PICTURES, Picture("a dog", 9, "dog.png")]).done() == {1}


@pytest.mark.parametrize("content", ["nothing", "no picture", "no description", "no JSON", "no object"])
def test_a_picture_that_does_not_say_how_it_was_made_is_refused(content, image, tmp_path):
    path = tmp_path / "pictures/cat.png"
    path.parent.mkdir()
    if content in ("nothing", "no picture"):
        path.write_bytes(b"" if content == "nothing" else b"\x89PNG\r\n\x1a\n" + b"0" * 50)
    else:
        text = PngInfo()
        text.add_text("Title" if content == "no description" else KEY, "[1]" if content == "no object" else "{")
        image.save(path, pnginfo=text)
    with pytest.raises(ValueError, match=r"cat\.png exists, but contains no description"):
        folder(tmp_path).done()


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="file is a file; give a folder"):
        folder(tmp_path / "file").done()
