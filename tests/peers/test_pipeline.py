"""VQDiffusionPipeline in the cases of diffusers' tests/pipelines/vq_diffusion/test_vq_diffusion.py.

With them those of PipelineTesterMixin, tests/pipelines/test_pipelines_common.py, and of the loading of pipelines,
tests/pipelines/test_pipelines.py, that apply to it. What was stored from PyTorch's random numbers is compared with the
peer itself, which gets the numbers that ours draws. The integration test of a trained model is in
tests/parity/test_text_to_image.py.
"""

import inspect
import json
import re

import mindspore as ms
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPTokenizer as TorchTokenizer

import mindone_vq
from mindone_vq import DiffusionPipeline, LearnedClassifierFreeSamplingEmbeddings, VQDiffusionPipeline, VQModel
from mindone_vq.pipelines import pytorch_only
from tests.parity.peers import draw_like_ours, torch_pipeline, without_ftfy
from tests.tiny_pipeline import random_pipeline

PROMPT, STEPS = "a red circle on a white background", 4  # as many steps as timesteps: the chain of both sides


def made():
    return random_pipeline(np.random.default_rng(0), num_train_timesteps=STEPS, layers=1)


@pytest.fixture(scope="module")
def pipe():
    return made()


def draw(pipe, prompt=PROMPT, seed=0, output_type="latent", **options):
    """Codes, from where no decoder has to be compiled, or what is asked for."""
    options = {"num_inference_steps": STEPS, "generator": seed, **options}
    images = pipe(prompt, output_type=output_type, **options)[0]
    return images.asnumpy() if output_type == "latent" else images


@pytest.fixture(scope="module")
def drawn(pipe):
    return draw(pipe)


@pytest.mark.parity
@pytest.mark.parametrize("learned", [False, True], ids=["empty prompt", "learned null text"])
def test_pictures_are_the_peers(learned, pipe, tmp_path, monkeypatch):
    """Classifier-free guidance away from the empty prompt, or from what was learned in its place."""
    null = (
        pipe.learned_classifier_free_sampling_embeddings if learned else LearnedClassifierFreeSamplingEmbeddings(False)
    )
    monkeypatch.setattr(pipe, "learned_classifier_free_sampling_embeddings", null)
    pipe.save_pretrained(tmp_path / "saved")
    theirs = torch_pipeline(tmp_path / "saved")
    options = dict(num_inference_steps=STEPS, output_type="np")
    output = pipe([PROMPT], generator=np.random.default_rng(3), **options)
    from_tuple = pipe([PROMPT], generator=np.random.default_rng(3), return_dict=False, **options)[0]
    draw_like_ours(monkeypatch, 3)
    with torch.no_grad():
        expected = theirs([PROMPT], **options).images
    assert output.images.shape == (1, 12, 12, 3)
    assert np.abs(output.images - expected).max() < 1e-2
    assert np.abs(from_tuple - expected).max() < 1e-2
    assert np.abs(pipe([PROMPT], generator=4, **options)[0] - expected).max() > 0.1


def test_a_saved_pipeline_draws_the_same(pipe, drawn, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = mindone_vq.DiffusionPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded) is VQDiffusionPipeline
    assert np.array_equal(draw(loaded), drawn)
    assert loaded.name_or_path == str(tmp_path)
    assert loaded.config["_class_name"] == "VQDiffusionPipeline"
    assert set(loaded.components) <= set(loaded.config)


def test_the_arguments_of_a_call():
    parameters = inspect.signature(VQDiffusionPipeline.__call__).parameters
    optional = {name for name, each in parameters.items() if each.default is not each.empty}
    assert "prompt" in parameters
    assert {
        "num_inference_steps",
        "guidance_scale",
        "truncation_rate",
        "num_images_per_prompt",
        "generator",
    } <= optional
    assert {"latents", "output_type", "return_dict", "callback", "callback_steps"} <= optional


def test_a_batch_of_unequal_prompts(pipe, drawn):
    """A long prompt beside it does not change a picture that has its own generator."""
    prompts, generators = [PROMPT, 100 * "very long"], [np.random.default_rng(seed) for seed in (0, 1)]
    batch = draw(pipe, prompts, generators)
    assert batch.shape == (2, 36)
    assert np.array_equal(batch[:1], drawn)


def test_outputs_are_tuples_with_names(pipe, drawn):
    for options in ({}, {"return_dict": True}, {"return_dict": False}):
        output = pipe(PROMPT, num_inference_steps=STEPS, generator=0, output_type="latent", **options)
        assert isinstance(output, tuple)
        assert output[0] is output.images
        assert np.array_equal(output.images.asnumpy(), drawn)


def test_arrays_and_pil_pictures_are_the_same(pipe):
    array = draw(pipe, output_type="np")
    (picture,) = draw(pipe, output_type="pil")
    assert isinstance(picture, Image.Image)
    assert np.abs(np.asarray(picture) - (array[0] * 255).round()).max() < 2
    assert array.std() > 0.01


def test_components_are_those_it_was_made_of(pipe):
    arguments = inspect.signature(VQDiffusionPipeline.__init__).parameters.keys() - {"self"}
    assert pipe.components.keys() == arguments
    second = VQDiffusionPipeline(**pipe.components)
    assert all(second.components[name] is component for name, component in pipe.components.items())


def test_a_component_is_registered_in_the_place_of_another(pipe):
    second, vqvae = VQDiffusionPipeline(**pipe.components), VQModel(**pipe.vqvae.config)
    second.register_modules(vqvae=vqvae)
    assert second.vqvae is vqvae
    assert second.components["vqvae"] is vqvae
    assert pipe.vqvae is not vqvae


def test_float16_is_cast_saved_and_loaded(tmp_path):
    """Every network has the type, after a cast and after loading, and the same weights."""
    pipe = made()
    networks = [name for name, component in pipe.components.items() if hasattr(component, "dtype")]
    assert {"vqvae", "transformer", "text_encoder"} <= set(networks)
    assert {pipe.components[name].dtype for name in networks} == {ms.float32}
    pipe.to(ms.float16)
    assert {pipe.components[name].dtype for name in networks} == {ms.float16}
    pipe.save_pretrained(tmp_path)
    loaded = VQDiffusionPipeline.from_pretrained(tmp_path, mindspore_dtype=ms.float16)
    assert {loaded.components[name].dtype for name in networks} == {ms.float16}
    assert loaded.dtype == ms.float16
    for name in networks:
        weights = loaded.components[name].parameters_dict()
        for key, parameter in pipe.components[name].parameters_dict().items():
            assert np.array_equal(weights[key].asnumpy(), parameter.asnumpy())


def test_float16_pictures_stay_close(pipe):
    """Given the same codes: one that is drawn otherwise is another picture."""
    codes = ms.Tensor(np.arange(36, dtype=np.int32).reshape(1, 6, 6) % 12)
    vqvae = VQModel.from_config(pipe.vqvae.config)
    ms.load_param_into_net(vqvae, pipe.vqvae.parameters_dict())
    expected, output = (each.decode_codes(codes).asnumpy() for each in (pipe.vqvae, vqvae.half()))
    assert 0 < np.abs(output - expected).max() < 5e-2


def test_it_says_where_it_runs(pipe):
    assert ms.get_context("device_target").lower() in str(pipe.device).lower()


@pytest.mark.parametrize(
    "switch",
    [
        "enable_attention_slicing",
        "enable_sequential_cpu_offload",
        "enable_model_cpu_offload",
        "enable_xformers_memory_efficient_attention",
    ],
)
def test_what_saves_memory_in_pytorch_changes_no_picture(switch, pipe, drawn, caplog, monkeypatch):
    monkeypatch.setattr(pytorch_only, "_logged", set())
    caplog.set_level("INFO", "mindone_vq")
    getattr(pipe, switch)()
    getattr(pipe, switch)()
    assert sum(switch in record.getMessage() for record in caplog.records) == 1
    assert np.array_equal(draw(pipe), drawn)


def test_the_progress_bar_ends_and_can_be_switched_off(pipe, capsys, monkeypatch):
    monkeypatch.setattr(pipe, "_progress_bar_config", {})
    draw(pipe)
    shown = capsys.readouterr().err
    total = re.search("/(.*?) ", shown).group(1)
    assert total == str(STEPS)
    assert f"{total}/{total}" in shown
    pipe.set_progress_bar_config(disable=True)
    draw(pipe)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("prompts, images", [(1, 1), (1, 2), (2, 1)])
def test_pictures_for_each_prompt(prompts, images, pipe):
    assert draw(pipe, prompts * [PROMPT], num_images_per_prompt=images).shape == (prompts * images, 36)


def test_guidance_keeps_the_shape_and_changes_the_picture(pipe):
    without, guided = (draw(pipe, guidance_scale=scale) for scale in (1.0, 7.5))
    assert without.shape == guided.shape
    assert not np.array_equal(without, guided)


def test_a_tokenizer_of_transformers_draws_and_is_saved(pipe, drawn, tmp_path):
    pipe.tokenizer.save_pretrained(tmp_path / "tokenizer")
    theirs = without_ftfy(TorchTokenizer.from_pretrained(tmp_path / "tokenizer"))
    second = VQDiffusionPipeline(**{**pipe.components, "tokenizer": theirs})
    second.set_progress_bar_config(disable=True)
    assert np.array_equal(draw(second), drawn)
    second.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "model_index.json").read_text())["tokenizer"][0] == "transformers"
    loaded = DiffusionPipeline.from_pretrained(tmp_path / "saved")
    assert loaded.tokenizer("a ring").input_ids == pipe.tokenizer("a ring").input_ids
