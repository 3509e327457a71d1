"""The model card of a saved pipeline."""

import numpy as np
import pytest
import yaml

import mindone_vq
from mindone_vq import VQDiffusionPipeline
from mindone_vq.conversion.convert import convert
from mindone_vq.conversion.options import Options
from tests.markdown import python_blocks
from tests.tiny_pipeline import random_pipeline


@pytest.fixture(scope="module")
def pipe():
    return random_pipeline(np.random.default_rng(0))


def card_in(folder):
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_card_describes_the_pipeline(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    card = card_in(tmp_path)
    front = yaml.safe_load(card.split("---")[1])
    assert front["pipeline_tag"] == "text-to-image" and "vq-diffusion" in front["tags"]
    parameters = sum(each.size for each in pipe.transformer.get_parameters())
    assert f"| transformer | Transformer2DModel | {parameters:,} |" in card
    assert f"codes of {pipe.transformer.num_vector_embeds - 1} kinds" in card
    assert "`guidance_scale=5.0`" in card and mindone_vq.__version__ in card


def test_its_first_lines_of_python_draw(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    names = {}
    exec(python_blocks(tmp_path / "README.md")[0].replace("path/or/hub-id", str(tmp_path)), names)
    assert names["image"].width == pipe.transformer.width * pipe.vqvae.downscale


def test_a_student_takes_its_own_steps(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "teacher")
    student = VQDiffusionPipeline.from_pretrained(tmp_path / "teacher")
    student.default_settings["num_inference_steps"] = 2
    student.save_pretrained(tmp_path / "student")
    assert 'pipe("a prompt", num_inference_steps=10, generator=0)' in card_in(tmp_path / "teacher")
    assert 'pipe("a prompt", num_inference_steps=2, generator=0)' in card_in(tmp_path / "student")


def test_somebody_s_own_card_is_kept_and_ours_is_replaced(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    pipe.training_notes = "Trained on nothing."
    pipe.save_pretrained(tmp_path)
    assert "Trained on nothing." in card_in(tmp_path)
    (tmp_path / "README.md").write_text("My own.")
    pipe.save_pretrained(tmp_path)
    assert card_in(tmp_path) == "My own."


def test_a_converted_pipeline_has_one_too(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "source")
    convert(Options(str(tmp_path / "source"), tmp_path / "out"))
    card = card_in(tmp_path / "out")
    assert card.split("\n# ")[1].startswith("source\n") and "Converted from `source`." in card
    assert VQDiffusionPipeline.from_pretrained(tmp_path / "out").config == {
        **VQDiffusionPipeline.from_pretrained(tmp_path / "source").config,
        "_name_or_path": str(tmp_path / "out"),
    }
