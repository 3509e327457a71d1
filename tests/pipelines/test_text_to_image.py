"""VQDiffusionPipeline as its user sees it."""

import os
import subprocess
import sys
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

import mindone_vq
from mindone_vq import CLIPTextModel, VQDiffusionPipeline, VQDiffusionScheduler
from mindone_vq.conversion.convert import convert
from mindone_vq.conversion.options import Options
from mindone_vq.weights.rules import state_dict_parameters
from tests.shapes32_model import MODEL, SETTINGS
from tests.tiny_pipeline import random_pipeline

PROMPTS = ["a large red circle on a white background", "a small cyan ring on a black background"]


def codes(pipe, prompt=PROMPTS, **options):
    return pipe(prompt, output_type="latent", **{"num_inference_steps": 5, "generator": 0, **options})[0].asnumpy()


@pytest.mark.slow
def test_a_prompt_gives_a_picture_of_what_it_says(demo_pipe):
    image = demo_pipe(PROMPTS[0], generator=0, **SETTINGS)[0][0]
    assert isinstance(image, Image.Image)
    assert image.size == (32, 32)
    pixels = np.asarray(image).astype(int)
    assert (pixels[0, 0] > 200).all()  # white corner
    red, green, blue = pixels[16, 16]
    assert red > 150 > 100 > max(green, blue)


def test_every_output_type_and_the_output_object(tiny):
    options = dict(num_inference_steps=5, generator=0, return_dict=True)
    array = tiny(PROMPTS, output_type="np", **options).images
    assert array.shape == (2, 12, 12, 3)
    assert array.dtype == np.float32
    assert array.min() >= 0
    assert array.max() <= 1
    pictures = tiny(PROMPTS, **options).images
    assert np.array_equal(np.asarray(pictures[1]), (array[1] * 255).round())
    latents = tiny(PROMPTS, output_type="latent", **options).images
    assert latents.shape == (2, 36)
    assert latents.dtype == ms.int32
    assert latents.asnumpy().max() < 12  # no mask is left
    assert np.array_equal(tiny.decode_latents(latents, "np"), array)


def test_images_of_a_prompt_lie_next_to_each_other(tiny):
    generators = [0, 1, 2, 3]
    together = codes(tiny, num_images_per_prompt=2, generator=generators)
    alone = codes(tiny, [PROMPTS[0], PROMPTS[0], PROMPTS[1], PROMPTS[1]], generator=generators)
    assert np.array_equal(together, alone)


@pytest.mark.parametrize("guidance_scale", [1.0, 4.0])
def test_an_image_with_its_own_generator_is_the_same_alone_and_in_a_batch(guidance_scale, tiny):
    options = dict(guidance_scale=guidance_scale, num_inference_steps=10)
    together = codes(tiny, generator=[11, 12], **options)
    alone = np.concatenate([codes(tiny, prompt, generator=11 + i, **options) for i, prompt in enumerate(PROMPTS)])
    assert (together == alone).mean() >= 0.97  # of 72


def test_the_same_seed_gives_the_same_picture_and_another_one_another(tiny):
    first, second, third = (codes(tiny, generator=seed) for seed in (1, np.random.default_rng(1), 2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, third)


@pytest.mark.slow
def test_the_same_seed_gives_bit_identical_images_in_two_processes(tmp_path):
    script = (
        "import sys, numpy as np; from mindone_vq import *; from tests.shapes32_model import *\n"
        "pipe = VQDiffusionPipeline.from_pretrained(MODEL)\n"
        f"images = pipe({PROMPTS!r}, num_inference_steps=20, generator=3, output_type='np', **SETTINGS)[0]\n"
        "np.save(sys.argv[1], images)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(mindone_vq.__file__).parents[1])}
    for name in ("first", "second"):
        subprocess.run([sys.executable, "-c", script, str(tmp_path / name)], check=True, env=environment)
    first, second = (np.load(tmp_path / f"{name}.npy") for name in ("first", "second"))
    assert np.array_equal(first, second)
    assert first.std() > 0.05


def test_callbacks_see_every_step_and_may_change_the_codes(tiny):
    seen, also_seen = [], []

    def watch(step, timestep, latents):
        seen.append((step, timestep, (latents.asnumpy() == 12).mean()))

    def clear(pipe, step, timestep, tensors):
        assert pipe is tiny
        also_seen.append(step)
        return {"latents": Tensor(np.full((2, 36), 12), ms.int32)} if step < 9 else None

    codes(tiny, num_inference_steps=10, callback=watch, callback_steps=3)
    assert [entry[:2] for entry in seen] == [(0, 9), (3, 6), (6, 3), (9, 0)]
    masked = [entry[2] for entry in seen]
    assert masked == sorted(masked, reverse=True)
    assert masked[0] > 0.6 > 0 == masked[-1]
    seen.clear()
    codes(tiny, num_inference_steps=10, callback_on_step_end=clear, callback=watch)
    assert also_seen == list(range(10))
    assert [entry[2] for entry in seen] == [1.0] * 9 + [0.0]  # all masked again after each step but the last


def test_calls_that_share_a_scheduler_do_not_disturb_each_other(tiny):
    other = VQDiffusionPipeline.from_pipe(tiny)
    assert other.scheduler is tiny.scheduler
    alone, inner = codes(tiny), codes(tiny, num_inference_steps=3, generator=5)
    seen = []

    def call_the_other(*_):
        seen.append(codes(other, num_inference_steps=3, generator=5))

    assert np.array_equal(codes(tiny, callback=call_the_other), alone)
    assert len(seen) == 5 and all(np.array_equal(each, inner) for each in seen)
    assert len(tiny.scheduler.timesteps) == 10  # as it was


def test_given_latents_are_where_the_chain_starts(tiny):
    start = np.full((2, 36), 12)
    assert np.array_equal(codes(tiny, latents=start), codes(tiny))
    assert np.array_equal(codes(tiny, latents=Tensor(start, ms.int64)), codes(tiny))
    start[:, :18] = 3
    assert not np.array_equal(codes(tiny, latents=start), codes(tiny))


def test_embeddings_can_take_the_place_of_prompts(tiny):
    embeddings, null = tiny.encode_prompt(PROMPTS, 1, True)
    assert np.allclose(np.linalg.norm(embeddings.asnumpy(), axis=-1), 1, atol=1e-5)
    from_embeddings = codes(tiny, None, prompt_embeds=embeddings, negative_prompt_embeds=null)
    assert np.array_equal(from_embeddings, codes(tiny))


def test_a_negative_prompt_is_what_guidance_steers_away_from(tiny):
    other = codes(tiny, negative_prompt=PROMPTS[1])
    assert not np.array_equal(other, codes(tiny))
    assert np.array_equal(other, codes(tiny, negative_prompt=[PROMPTS[1]] * 2))
    embeddings, _ = tiny.encode_prompt([PROMPTS[1]], 1, False)
    assert np.array_equal(other, codes(tiny, negative_prompt_embeds=embeddings))
    assert np.array_equal(codes(tiny, negative_prompt="x", guidance_scale=1.0), codes(tiny, guidance_scale=1.0))


def test_a_prompt_that_is_cut_says_what_was_lost(tiny, caplog):
    codes(tiny, "a small red circle on a white background in the style of nobody")
    assert "style of nobody" in caplog.text


def test_a_call_uses_the_settings_of_the_model_and_they_are_saved_with_it(tiny, tmp_path):
    pipe = VQDiffusionPipeline.from_pipe(tiny)
    assert np.array_equal(codes(pipe), codes(pipe, guidance_scale=5.0, truncation_rate=1.0))
    assert "_default_settings" not in pipe.index({}, pipe.default_settings)
    chosen = {"guidance_scale": 1.0, "truncation_rate": 0.3, "sampler": "confidence", "spacing": "square"}
    pipe.default_settings.update(chosen)
    own = codes(pipe)
    assert np.array_equal(own, codes(tiny, **chosen))
    for name, value in (("truncation_rate", 1.0), ("sampler", "ancestral"), ("spacing", "uniform")):
        assert not np.array_equal(own, codes(pipe, **{name: value}))
    pipe.default_settings["num_inference_steps"] = 4
    four = pipe("stripes", generator=0, output_type="latent")[0].asnumpy()
    assert np.array_equal(four, tiny("stripes", 4, generator=0, output_type="latent", **chosen)[0].asnumpy())
    pipe.save_pretrained(tmp_path / "pipe")
    convert(Options(str(tmp_path / "pipe"), tmp_path / "converted"))
    for folder in ("pipe", "converted"):
        loaded = VQDiffusionPipeline.from_pretrained(tmp_path / folder)
        assert loaded.default_settings == pipe.default_settings


def weights(pipe):
    cells = {name: part for name, part in pipe.components.items() if isinstance(part, ms.nn.Cell)}
    named = (
        (f"{name}.{key}", each) for name, cell in cells.items() for key, each in state_dict_parameters(cell).items()
    )
    return {name: parameter.asnumpy() for name, parameter in named}


def assert_same_weights(ours, theirs):
    ours, theirs = weights(ours), weights(theirs)
    assert len(ours) == len(theirs) > 50
    for name, value in ours.items():
        other = theirs[name]
        assert value.dtype == other.dtype and np.array_equal(value, other), name


def test_a_saved_pipeline_has_the_same_weights_and_draws_the_same(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "pipe")
    again = VQDiffusionPipeline.from_pretrained(tmp_path / "pipe")
    assert_same_weights(again, tiny)
    assert np.array_equal(codes(again), codes(tiny))
    tiny.save_pretrained(tmp_path / "half", variant="fp16")
    assert (tmp_path / "half/transformer/diffusion_pytorch_model.fp16.safetensors").is_file()
    assert_same_weights(VQDiffusionPipeline.from_pretrained(tmp_path / "half", variant="fp16"), tiny)
    without_null = random_pipeline(np.random.default_rng(1), learned_null=False)
    without_null.save_pretrained(tmp_path / "without")
    again = VQDiffusionPipeline.from_pretrained(tmp_path / "without")
    assert_same_weights(again, without_null)
    assert again.learned_classifier_free_sampling_embeddings.embeddings is None


def test_components_serve_a_second_pipeline_and_can_be_exchanged(tiny):
    second = VQDiffusionPipeline(**tiny.components)
    assert second.transformer is tiny.transformer
    assert np.array_equal(codes(second), codes(tiny))
    other = random_pipeline(np.random.default_rng(2))
    second.transformer = other.transformer
    assert not np.array_equal(codes(second), codes(tiny))
    second.transformer = tiny.transformer
    assert np.array_equal(codes(second), codes(tiny))


def test_a_component_can_be_given_to_from_pretrained(demo_pipe):
    encoder = CLIPTextModel.from_pretrained(MODEL, subfolder="text_encoder")
    pipe = VQDiffusionPipeline.from_pretrained(MODEL, text_encoder=encoder, vqvae=demo_pipe.vqvae)
    assert pipe.text_encoder is encoder
    assert pipe.vqvae is demo_pipe.vqvae


def test_float16_runs_and_can_be_chosen_afterwards(tiny, tmp_path):
    tiny.save_pretrained(tmp_path / "pipe")
    half = VQDiffusionPipeline.from_pretrained(tmp_path / "pipe", mindspore_dtype=ms.float16)
    assert half.dtype == half.vqvae.dtype == half.text_encoder.dtype == ms.float16
    full = VQDiffusionPipeline.from_pretrained(tmp_path / "pipe").to(ms.float16)
    assert_same_weights(full, half)
    images = half(PROMPTS, num_inference_steps=5, generator=0)[0]
    assert images[0].size == (12, 12)
    assert (codes(half) == codes(tiny)).mean() > 0.5


@pytest.mark.parametrize("mode", [ms.GRAPH_MODE, ms.PYNATIVE_MODE])
def test_both_modes_of_the_caller_work_and_stay(mode, tiny):
    before = ms.get_context("mode")
    expected = codes(tiny)
    try:
        ms.set_context(mode=mode)
        assert np.array_equal(codes(VQDiffusionPipeline(**tiny.components)), expected)
        assert ms.get_context("mode") == mode
    finally:
        ms.set_context(mode=before)


def test_the_progress_bar_can_be_switched_off(tiny, capsys):
    pipe = VQDiffusionPipeline(**tiny.components)
    codes(pipe)
    assert "5/5" in capsys.readouterr().err
    pipe.set_progress_bar_config(disable=True)
    codes(pipe)
    assert "5/5" not in capsys.readouterr().err


def test_parts_that_do_not_belong_together_are_refused(tiny):
    with pytest.raises(ValueError, match="num_vec_classes"):
        VQDiffusionPipeline(**{**tiny.components, "scheduler": VQDiffusionScheduler(14, 10)})
    with pytest.raises(ValueError, match="num_train_timesteps"):
        VQDiffusionPipeline(**{**tiny.components, "scheduler": VQDiffusionScheduler(13, 100)})
    with pytest.raises(TypeError, match="text_encoder is a builtins.object"):
        VQDiffusionPipeline(**{**tiny.components, "text_encoder": object()})


def test_nothing_is_written_where_a_part_cannot_be_saved(tiny, tmp_path):
    pipe = VQDiffusionPipeline(**tiny.components)
    pipe.__dict__["text_encoder"] = object()  # as mindnlp's, which has no save_pretrained
    with pytest.raises(TypeError, match="text_encoder is a object, which this pipeline can run but not save"):
        pipe.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out").exists()
