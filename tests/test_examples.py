"""The examples: one as a command, the others by their main functions on a pipeline that is compiled once.

They all use batches of one and the same sampler, so that no step compiles again.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from PIL import Image

import mindone_vq
from mindone_vq import (
    ClassToImagePipeline,
    ClassTransformer2DModel,
    UnconditionalPipeline,
    UnconditionalTransformer2DModel,
    VQDiffusionImg2ImgPipeline,
    VQDiffusionInpaintPipeline,
    VQDiffusionPipeline,
    VQDiffusionScheduler,
)
from mindone_vq.demo import emoji as demo_emoji
from mindone_vq.demo.emoji import Emoji
from mindone_vq.demo.shapes import is_held_out, read
from mindone_vq.demo.shapes_evaluation import score, understand
from tests.demo.emoji_packages import write_packages
from tests.tiny_pipeline import random_pipeline

EXAMPLES = Path(mindone_vq.__file__).parents[1] / "examples"
HALTON = ("--sampler", "halton")


@pytest.fixture(scope="module")
def pipe():
    return random_pipeline(np.random.default_rng(0))


@pytest.fixture
def loaded():
    """The arguments with which pipelines were loaded."""
    return []


@pytest.fixture
def run(pipe, loaded, monkeypatch):
    """Runs an example in this process; models of text to image are ``pipe``."""

    def from_pretrained(cls, model, **options):
        loaded.append((model, options))
        return cls.from_pipe(pipe)

    for kind in (VQDiffusionPipeline, VQDiffusionInpaintPipeline, VQDiffusionImg2ImgPipeline):
        monkeypatch.setattr(kind, "from_pretrained", classmethod(from_pretrained))
    monkeypatch.syspath_prepend(EXAMPLES)
    return lambda example, *arguments: importlib.import_module(example).main([str(each) for each in arguments])


def columns(picture, side, margin=8):
    """The number of columns of a grid of pictures of ``side`` pixels: 12, enlarged by a whole factor."""
    count, rest = divmod(Image.open(picture).width - margin, side + margin)
    assert rest == 0
    return count


@pytest.mark.slow
def test_a_prompt_alone_uses_the_bundled_model(tmp_path):
    command = [sys.executable, str(EXAMPLES / "text_to_image.py"), "a large red circle on a white background"]
    environment = {**os.environ, "PYTHONPATH": str(EXAMPLES.parent)}
    result = subprocess.run(
        [*command, "--steps", "20"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert "Compiling the denoising step" in result.stderr
    assert "20/20" in result.stderr
    assert "Wrote outputs/text_to_image.png (256 x 256)" in result.stdout
    picture = np.asarray(Image.open(tmp_path / "outputs/text_to_image.png")).astype(int)
    red, green, blue = picture[128, 128]
    assert red > 150 > 100 > max(green, blue)
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


def test_every_option_at_once(run, pipe, loaded):
    run(
        *("text_to_image", "a small blue square"),
        *("--model", "mine", "--steps", 4, "--guidance-scale", 2.5, "--truncation-rate", 0.9, "--seed", 3),
        *("--negative-prompt", "a circle", "--dtype", "float16", *HALTON),
        *("--output", "grid.png", "--filmstrip", "film/strip.png"),
    )
    assert loaded == [("mine", {"mindspore_dtype": ms.float16})]
    assert Image.open("grid.png").size == (264, 264)
    assert columns("film/strip.png", 96) == 4


def test_a_mistake_is_one_line(run, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["text_to_image.py", "a", "--steps", "101"])
    example = importlib.import_module("text_to_image")
    with pytest.raises(SystemExit, match="^ValueError: num_inference_steps is 101"):
        example.common.run(example.main)
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize(
    "example, arguments, expected",
    [
        ("inpaint", ["a large blue ring", "--resample", 2], 3),
        pytest.param("inpaint", ["a large blue ring", "--num-images", 2], 4, marks=pytest.mark.slow),
        pytest.param(
            *("inpaint", ["a large red circle", "--image", "narrow.png", "--outpaint", 3, 0], 3),
            marks=pytest.mark.slow,
        ),
        ("image_to_image", ["a large blue ring", "--strengths", 0.5, 1], 3),
        pytest.param("image_to_image", ["--strengths", 0.3], 2, marks=pytest.mark.slow),
    ],
)
def test_pictures_are_edited(example, arguments, expected, run):
    Image.new("RGB", (6, 12), (245, 245, 245)).save("narrow.png")
    run(example, *arguments, "--steps", 3, *HALTON, "--output", "edited.png")
    assert columns("edited.png", 264) == expected


def test_samplers_are_compared(run):
    run("compare_samplers", "a ring", "--columns", 2, 4, "--samplers", "halton", "halton", "--output", "grid.png")
    assert columns("grid.png", 132) == 2
    assert 2 * 132 < Image.open("grid.png").height < 3 * 132


@pytest.fixture
def other_models(pipe):
    """Folders of pipelines of six classes and the null class, and without a condition."""
    size = dict(num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=4, num_vector_embeds=13)
    size.update(num_embeds_ada_norm=10, position_table_size=8)
    scheduler = VQDiffusionScheduler(13, 10)
    classes = ClassTransformer2DModel(**size, num_class_embeds=7)
    ClassToImagePipeline(pipe.vqvae, classes, scheduler).save_pretrained("classes")
    UnconditionalPipeline(pipe.vqvae, UnconditionalTransformer2DModel(**size), scheduler).save_pretrained("any")


@pytest.mark.slow
def test_classes_and_no_condition_make_pictures_too(run, other_models):
    run("class_to_image", 0, 5, "--model", "classes", "--num-images", 3, "--steps", 2, "--output", "classes.png")
    assert columns("classes.png", 256) == 3
    run("unconditional", "--model", "any", "--steps", 2, "--output", "any.png")
    assert Image.open("any.png").size == (256, 256)


def test_arguments_of_the_other_models(run, other_models):
    with pytest.raises(ValueError, match=r"class_labels go from 0 to 5, given \[6\]"):
        run("class_to_image", 6, "--model", "classes")
    with pytest.raises(ValueError, match="num_inference_steps is 11"):
        run("unconditional", "--model", "any", "--steps", 11)


def test_demo_data_is_an_image_folder_with_captions(run):
    run("make_demo_data", "data", "--count", 7, "--held-out")
    entries = [json.loads(line) for line in Path("data/metadata.jsonl").read_text().splitlines()]
    assert len(entries) == 7
    for entry in entries:
        scene = read(np.asarray(Image.open(Path("data", entry["file_name"]))))
        assert is_held_out(scene)
        assert f"{scene.first.colour} {scene.first.kind}" in entry["text"]
    with pytest.raises(ValueError, match=r"data/metadata\.jsonl exists already"):
        run("make_demo_data", "data")


def test_prompts_are_generated_read_and_scored(run, capsys):
    common = ("--steps", 2, "--batch-size", 1, "--seed", 7, *HALTON)
    run("evaluate", *common, "--count", 3, "--kind", "both", "--save-pictures")
    folder = Path("outputs/evaluate")
    assert sorted(path.name for path in folder.iterdir()) == ["grid.png", "pictures", "report.json"]
    report = json.loads((folder / "report.json").read_text())
    entries, settings = report["pictures"], report["settings"]
    default = {"guidance_scale": 5.0, "truncation_rate": 1.0}
    expected = {**default, "steps": 2, "seed": 7, "batch_size": 1, "count": 3, "held_out": True, "kind": "both"}
    assert {name: settings[name] for name in expected} == expected
    assert [entry["seed"] for entry in entries] == [7, 8, 9]
    scenes = [understand(entry["prompt"]) for entry in entries]
    assert all(map(is_held_out, scenes))
    assert [scene.second is not None for scene in scenes] == [False, True, True]
    scores = score(scenes, [Image.open(folder / entry["file"]) for entry in entries])
    assert report["scores"] == json.loads(json.dumps(scores.to_dict()))
    assert str(scores) in capsys.readouterr().out
    assert [entry["right"] for entry in entries] == list(scores.right)
    assert [entry["shown"] and understand(entry["shown"]) for entry in entries] == list(scores.found)
    assert len(report["speed"]["seconds_of_batches"]) == 3
    assert Image.open(folder / "grid.png").width > 3 * 192

    # The same prompts and another one from a file: the same pictures, and the other one is not read.
    lines = [json.dumps({"text": text}) for text in [entry["prompt"] for entry in entries] + ["a teddy bear"]]
    Path("prompts.jsonl").write_text("\n".join(lines) + "\n\n")
    run("evaluate", *common, "--prompts", "prompts.jsonl", "--output", "again")
    again = json.loads(Path("again/report.json").read_text())
    assert again["scores"]["two"]["exact"]["count"] == 2
    *same, bear = again["pictures"]
    assert (bear["prompt"], "right" in bear) == ("a teddy bear", False)
    assert Path("again", bear["file"]).is_file()
    for entry, other in zip(entries, same):
        assert (folder / entry["file"]).read_bytes() == Path("again", other["file"]).read_bytes()


def test_emoji_are_compared_with_true_pictures(run, tmp_path, monkeypatch):
    google, emojibase = write_packages(tmp_path)
    original = Emoji.picture
    monkeypatch.setattr(Emoji, "picture", lambda self: original(self).resize((12, 12)))
    monkeypatch.setattr(demo_emoji, "held_out", lambda: frozenset({"running | man | dark"}))
    options = ("--batch-size", 1, "--steps", 2, *HALTON)
    run("evaluate", "--model", "emoji", "--emoji", google, emojibase, "--all", *options)
    report = json.loads(Path("outputs/evaluate/report.json").read_text())
    assert report["settings"]["emoji"] == [str(google), str(emojibase)] and report["settings"]["count"] == 2
    assert report["pictures"][0]["prompt"] == "man running, dark skin tone"
    assert set(report["pictures"][1]) == {"prompt", "seed", "file", "right", "shown"}
    assert report["scores"]["held out"]["retrieval"]["features"]["samples"]["exact"]["count"] == 1
    assert report["scores"]["trained"]["memorisation"]["nearer_to_truth"] is None
    assert Image.open("outputs/evaluate/grid.png").width > 4 * 192  # each picture beside the true one


def test_a_bundled_model_is_chosen_by_name(run, loaded):
    bundled = {"shapes": "shapes64", "shapes-student": "shapes64_student", "emoji": "emoji64"}
    for name, folder in {**bundled, "./shapes": "shapes"}.items():
        run("text_to_image", "a ring", "--model", name, "--steps", 2, *HALTON)
        assert Path(loaded[-1][0]).name == folder
    run("text_to_image", "a ring", "--steps", 2, *HALTON)
    assert Path(loaded[-1][0]).name == "shapes64"


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--model", "emoji"], "give their folders with --emoji; examples/emoji_data.py says how to get them"),
        (["--emoji", "google", "emojibase", "--kind", "one"], "leave out --emoji"),
        (["--emoji", "google", "emojibase"], "google/emoji.json"),
        (["--count", 0], "--count is 0; it must be at least 1."),
        (["--pairs", 2], "--pairs is 2.0; it must be from 0 to 1."),
        (["--prompts", "none.txt"], "none.txt is not a file"),
        (["--prompts", "prompts.jsonl", "--all"], "leave out --prompts"),
    ],
)
def test_mistakes_of_an_evaluation_are_reported_before_a_model_is_loaded(arguments, message, run, loaded):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run("evaluate", *arguments)
    assert not loaded
