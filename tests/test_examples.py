"""The examples as their user runs them."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mindone_vq
from mindone_vq.demo import MODEL

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
    assert film.width == 10 * (96 + 8) + 8
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
