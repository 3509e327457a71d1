"""Bad input: an error that names the thing, before any work."""

import json
import shutil

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq import VQDiffusionPipeline
from tests.shapes32_model import MODEL
from tests.tiny_pipeline import random_pipeline


@pytest.fixture(scope="module")
def pipe():
    return random_pipeline(np.random.default_rng(0))


FLOATS = Tensor(np.ones((1, 12, 24), np.float32))


@pytest.mark.parametrize(
    "prompt, options, error, named",
    [
        ([], {}, ValueError, "prompt is an empty list"),
        (7, {}, TypeError, "prompt is a string"),
        (None, {}, ValueError, "give prompt or prompt_embeds"),
        (["a", 7], {}, TypeError, r"prompt\[1\] is 7"),
        (["a", None], {}, TypeError, r"prompt\[1\] is None"),
        ({"a": 1}, {}, TypeError, "prompt is a string"),
        ("a", dict(num_inference_steps=0), ValueError, "num_inference_steps is 0"),
        ("a", dict(num_inference_steps=-5), ValueError, "num_inference_steps is -5"),
        ("a", dict(num_inference_steps=11), ValueError, "between 1 and the 10 timesteps"),
        ("a", dict(num_inference_steps=2.0), TypeError, "num_inference_steps is an integer"),
        ("a", dict(guidance_scale=float("nan")), ValueError, "guidance_scale is nan"),
        ("a", dict(guidance_scale=float("inf")), ValueError, "guidance_scale is inf"),
        ("a", dict(guidance_scale="5"), TypeError, "guidance_scale is a number"),
        ("a", dict(truncation_rate=0.0), ValueError, "truncation_rate is 0.0"),
        ("a", dict(truncation_rate=1.01), ValueError, "truncation_rate is 1.01"),
        ("a", dict(truncation_rate=-0.5), ValueError, "truncation_rate is -0.5"),
        ("a", dict(truncation_rate=float("nan")), ValueError, "truncation_rate is nan"),
        ("a", dict(num_images_per_prompt=0), ValueError, "num_images_per_prompt is 0"),
        ("a", dict(num_images_per_prompt=1.5), TypeError, "num_images_per_prompt is an integer"),
        ("a", dict(callback_steps=0), ValueError, "callback_steps is 0"),
        ("a", dict(callback_steps=None), TypeError, "callback_steps is an integer"),
        ("a", dict(output_type="png"), ValueError, "output_type is 'png'"),
        ("a", dict(generator=[1, 2]), ValueError, "2 generators given for 1 images"),
        ("a", dict(generator="seed"), TypeError, "numpy.random.Generator"),
        ("a", dict(latents=np.zeros((1, 35), int)), ValueError, r"latents have shape \(1, 35\)"),
        ("a", dict(latents=np.zeros((2, 36), int)), ValueError, r"latents have shape \(2, 36\)"),
        ("a", dict(latents=np.zeros((1, 36))), TypeError, "latents are codes, integers"),
        ("a", dict(latents=Tensor(np.zeros((1, 36)), ms.float32)), TypeError, "latents are codes, integers"),
        ("a", dict(latents=np.full((1, 36), 13)), ValueError, "codes go from 0 to 11, the mask is 12"),
        ("a", dict(latents=np.full((1, 36), -1)), ValueError, "latents go from -1"),
        ("a", dict(prompt_embeds=FLOATS), ValueError, "not both"),
        (None, dict(prompt_embeds=FLOATS[:, :, :5]), ValueError, "prompt_embeds has shape"),
        (None, dict(prompt_embeds=np.ones((1, 12, 24))), TypeError, "prompt_embeds is a float Tensor"),
        ("a", dict(negative_prompt_embeds=FLOATS[0]), ValueError, "negative_prompt_embeds has shape"),
        ("a", dict(negative_prompt_embeds=FLOATS, negative_prompt="b"), ValueError, "not both"),
        ("a", dict(negative_prompt=["b", "c"]), ValueError, "2 negative prompts given for 1"),
        ("a", dict(negative_prompt=3), TypeError, "negative_prompt is a string"),
    ],
)
def test_a_bad_argument_is_named(prompt, options, error, named, pipe):
    with pytest.raises(error, match=named):
        pipe(prompt, **{"num_inference_steps": 3, **options})


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(MODEL, tmp_path / "pipe")
    return tmp_path / "pipe"


def test_a_missing_component_is_named(folder):
    shutil.rmtree(folder / "learned_classifier_free_sampling_embeddings")
    with pytest.raises(FileNotFoundError, match="lacks the folder of learned_classifier_free"):
        VQDiffusionPipeline.from_pretrained(folder)


def test_a_folder_without_an_index_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model_index\.json does not exist"):
        VQDiffusionPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize("library", ["diffusers", "vq_diffusion"])
def test_the_index_of_old_and_new_diffusers_is_read(folder, library):
    index = json.loads((folder / "model_index.json").read_text())
    index["learned_classifier_free_sampling_embeddings"][0] = library
    index["tokenizer"][1] = "CLIPTokenizerFast" if library == "diffusers" else "CLIPTokenizer"
    (folder / "model_index.json").write_text(json.dumps(index))
    assert VQDiffusionPipeline.from_pretrained(folder).scheduler.num_embed == 65


def test_the_index_of_another_pipeline_is_refused(folder):
    index = json.loads((folder / "model_index.json").read_text())
    for wrong, named in (
        ({"_class_name": "StableDiffusionPipeline"}, "index of a StableDiffusionPipeline"),
        ({"transformer": ["diffusers", "UNet2DConditionModel"]}, "expected a Transformer2DModel"),
        ({"_default_settings": {"steps": 3}}, "numbers for guidance_scale and truncation_rate"),
        ({"_default_settings": [2.0]}, "numbers for guidance_scale and truncation_rate"),
    ):
        (folder / "model_index.json").write_text(json.dumps({**index, **wrong}))
        with pytest.raises(ValueError, match=named):
            VQDiffusionPipeline.from_pretrained(folder)


def test_a_config_without_norm_type_loads(folder):
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    del config["norm_type"]
    path.write_text(json.dumps(config))
    pipe = VQDiffusionPipeline.from_pretrained(folder)
    assert type(pipe.transformer.transformer_blocks[0].norm1).__name__ == "AdaLayerNorm"


def test_a_variant_that_no_component_has_falls_back_and_says_so(folder, caplog):
    plain = folder / "vqvae" / "diffusion_pytorch_model.safetensors"
    plain.rename(folder / "vqvae" / "diffusion_pytorch_model.fp16.safetensors")
    VQDiffusionPipeline.from_pretrained(folder, variant="fp16")
    assert "transformer has no variant 'fp16'" in caplog.text
    with pytest.raises(FileNotFoundError, match="vqvae holds no weights"):
        VQDiffusionPipeline.from_pretrained(folder)


def test_saving_over_a_file_is_refused(pipe, tmp_path):
    (tmp_path / "here").write_text("mine")
    with pytest.raises(FileExistsError, match="give a folder"):
        pipe.save_pretrained(tmp_path / "here")


def test_bfloat16_on_a_cpu_is_refused(folder):
    if ms.get_context("device_target") == "CPU":
        with pytest.raises(ValueError, match="bfloat16"):
            VQDiffusionPipeline.from_pretrained(folder, mindspore_dtype=ms.bfloat16)("a ring")
