"""The examples as their user runs them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mindone_vq
from mindone_vq import (
    ClassToImagePipeline,
    ClassTransformer2DModel,
    UnconditionalPipeline,
    UnconditionalTransformer2DModel,
    VQDiffusionScheduler,
    VQModel,
)
from mindone_vq.demo import MODEL
from mindone_vq.demo.shapes import is_held_out, read

ROOT = Path(mindone_vq.__file__).parents[1]


def run(script, *arguments, folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / script), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_a_prompt_alone_uses_the_bundled_model(tmp_path):
    result = run("text_to_image.py", "a large red circle on a white background", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "Compiling the denoising step" in result.stderr
    assert "100/100" in result.stderr
    assert "Wrote outputs/text_to_image.png (256 x 256)" in result.stdout
    picture = np.asarray(Image.open(tmp_path / "outputs/text_to_image.png")).astype(int)
    red, green, blue = picture[128, 128]
    assert red > 150 > 100 > max(green, blue)
    assert [path.name for path in tmp_path.iterdir()] == ["outputs"]


def test_every_option_at_once(tmp_path):
    result = run(
        "text_to_image.py",
        *("a small blue square on a gray background", "a large pink ring on a black background"),
        *("--model", MODEL, "--steps", 12, "--guidance-scale", 2.5, "--truncation-rate", 0.9, "--seed", 3),
        *("--num-images", 2, "--negative-prompt", "a circle", "--dtype", "float16", "--device", "CPU"),
        *("--output", "grid.png", "--filmstrip", "film/strip.png"),
        folder=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    sheet, film = Image.open(tmp_path / "grid.png"), Image.open(tmp_path / "film/strip.png")
    assert sheet.width == 2 * (256 + 8) + 8
    assert film.width == 10 * (128 + 8) + 8
    assert film.height > 4 * 96


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["a", "--steps", "101"], "ValueError: num_inference_steps is 101"),
        (["a", "--truncation-rate", "0"], "ValueError: truncation_rate is 0.0"),
        (["a", "--model", "no/such/folder"], "FileNotFoundError: no/such/folder"),
    ],
)
def test_a_mistake_is_one_line(arguments, said, tmp_path):
    result = run("text_to_image.py", *arguments, folder=tmp_path)
    assert result.returncode == 1
    assert said in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "script, arguments, columns",
    [
        ("inpaint.py", ["a large blue ring on a white background", "--resample", 2, "--num-images", 2], 4),
        pytest.param(
            "image_to_image.py",
            ["a large blue ring on a white background", "--strengths", 0.5, 1],
            3,
            marks=pytest.mark.slow,
        ),
        ("image_to_image.py", ["--strengths", 0.3], 2),
    ],
)
def test_pictures_are_edited(script, arguments, columns, tmp_path):
    result = run(script, *arguments, "--steps", 8, "--sampler", "halton", "--output", "edited.png", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "edited.png").width == columns * (256 + 8) + 8


@pytest.mark.slow
def test_what_is_around_a_picture_is_painted(tmp_path):
    Image.new("RGB", (32, 64), (245, 245, 245)).save(tmp_path / "narrow.png")
    options = ["--image", "narrow.png", "--outpaint", 32, 0, "--steps", 8]
    result = run("inpaint.py", "a large red circle on a white background", *options, folder=tmp_path)
    assert result.returncode == 0, result.stderr


def test_samplers_are_compared(tmp_path):
    options = ["--columns", 2, 4, "--samplers", "ancestral", "purity", "--output", "grid.png"]
    result = run("compare_samplers.py", "a large red circle on a white background", *options, folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "grid.png").width == 2 * (128 + 8) + 8


@pytest.fixture(scope="module")
def small_models(tmp_path_factory):
    """Pipelines of random weights: of six classes and the null class, and unconditional."""
    vqvae = VQModel(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=6,
        num_vq_embeddings=12,
    )
    size = dict(num_attention_heads=2, attention_head_dim=8, num_layers=2, sample_size=4, num_vector_embeds=13)
    size.update(num_embeds_ada_norm=10, position_table_size=8)
    scheduler = VQDiffusionScheduler(13, 10)
    folder = tmp_path_factory.mktemp("models")
    ClassToImagePipeline(vqvae, ClassTransformer2DModel(**size, num_class_embeds=7), scheduler).save_pretrained(
        folder / "classes"
    )
    UnconditionalPipeline(vqvae, UnconditionalTransformer2DModel(**size), scheduler).save_pretrained(folder / "nothing")
    return folder


def test_classes_and_nothing_make_pictures_too(small_models, tmp_path):
    common = ("--steps", 5, "--output")
    classes = ("class_to_image.py", 0, 5, "--model", small_models / "classes", "--num-images", 3)
    result = run(*classes, *common, "classes.png", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "classes.png").width == 3 * (256 + 8) + 8
    result = run("unconditional.py", "--model", small_models / "nothing", *common, "nothing.png", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert Image.open(tmp_path / "nothing.png").size == (256, 256)
    result = run("class_to_image.py", 6, "--model", small_models / "classes", *common, "x.png", folder=tmp_path)
    assert "class_labels go from 0 to 5, given [6]" in result.stderr.splitlines()[-1]


def test_demo_data_is_an_image_folder_with_captions(tmp_path):
    result = run("make_demo_data.py", "data", "--count", 7, "--held-out", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    entries = [json.loads(line) for line in (tmp_path / "data" / "metadata.jsonl").read_text().splitlines()]
    assert len(entries) == 7
    for entry in entries:
        scene = read(np.asarray(Image.open(tmp_path / "data" / entry["file_name"])))
        assert is_held_out(scene)
        assert f"{scene.first.colour} {scene.first.kind}" in entry["text"]
    again = run("make_demo_data.py", "data", folder=tmp_path)
    assert "is there already" in again.stderr.splitlines()[-1]
