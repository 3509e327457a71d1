"""pipe.warm_up compiles what the next call needs, and changes nothing else."""

import logging

import numpy as np
import pytest

from mindone_vq import (
    ClassToImagePipeline,
    ClassTransformer2DModel,
    UnconditionalPipeline,
    UnconditionalTransformer2DModel,
    VQDiffusionImg2ImgPipeline,
    VQDiffusionInpaintPipeline,
    VQDiffusionPipeline,
)
from mindone_vq.nn import device
from mindone_vq.pipelines import denoising
from tests.tiny_pipeline import random_weights

SIZE = dict(num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=6, num_vector_embeds=13)
BLACK, GREY = (np.full((12, 12, 3), value, np.uint8) for value in (0, 99))
STEPS = {"num_inference_steps": 8}
WEIGHTED = [("stripes", 1.0), ("a cross", 0.5)]


def fresh(tiny, kind=VQDiffusionPipeline):
    """A pipeline over the same weights that has compiled nothing."""
    return kind(**tiny.components)


def codes_and_compiled(pipe, caplog, *arguments, **options):
    """The codes of a call, and the names of the graphs that it compiled."""
    caplog.clear()
    codes = pipe(*arguments, output_type="latent", generator=7, **STEPS, **options)[0]
    pipe.decode_latents(codes)
    lines = [record.message for record in caplog.records if record.message.startswith("Compiling the ")]
    return codes.asnumpy(), lines


def check(pipe, other, caplog, warm_up, *arguments, **options):
    """``pipe``, warmed up, compiles nothing and gives the codes of ``other``, which was not."""
    caplog.set_level(logging.INFO, "mindone_vq")
    assert pipe.warm_up(**warm_up, **STEPS) is None
    assert "Compiling the denoising step" in caplog.text or "Compiling the draw" in caplog.text
    codes, compiled = codes_and_compiled(pipe, caplog, *arguments, **options)
    assert compiled == []
    assert np.array_equal(codes, codes_and_compiled(other, caplog, *arguments, **options)[0])


@pytest.mark.parametrize(
    "batch_size, prompt, options",
    [
        pytest.param(
            *(None, "stripes", {"sampler": "confidence", "truncation_rate": 0.86, "spacing": "cosine"}),
            marks=pytest.mark.slow,
        ),
        (2, ["stripes", "a cross"], {"guidance_scale": 3.0, "guidance_schedule": (0.3, 0.6)}),
        pytest.param(
            *(2, ["stripes", "a cross"], {"negative_prompt": ["dots", "waves"], "num_images_per_prompt": 2}),
            marks=pytest.mark.slow,
        ),
        pytest.param(1, "stripes", {"guidance_scale": 1.0, "top_k": 3}, marks=pytest.mark.slow),
    ],
)
def test_a_prompt_compiles_nothing_after_it(batch_size, prompt, options, tiny, caplog):
    given = {name: value for name, value in options.items() if name != "negative_prompt"}
    warm_up = {"batch_size": batch_size, **given}
    check(fresh(tiny), tiny, caplog, warm_up, prompt, **options)


@pytest.mark.slow
def test_weighted_prompts_are_given_in_place_of_a_batch_size(tiny, caplog):
    check(fresh(tiny), tiny, caplog, {"prompt": [("", 1.0), ("", 1.0)]}, WEIGHTED)
    with pytest.raises(ValueError, match="batch_size is 2, which prompt says, too: leave one of them out"):
        tiny.warm_up(2, prompt=WEIGHTED)


@pytest.mark.slow
def test_several_batch_sizes(tiny, caplog):
    pipe = fresh(tiny)
    check(pipe, tiny, caplog, {"batch_size": [1, 2]}, ["stripes", "dots"])
    assert codes_and_compiled(pipe, caplog, "stripes")[1] == []


@pytest.mark.slow
def test_layer_by_layer(tiny, caplog, monkeypatch):
    monkeypatch.setattr(device, "LARGE", 0)
    options = {"guidance_schedule": (0.5, 1.0)}
    check(fresh(tiny), fresh(tiny), caplog, options, "stripes", **options)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size, images", [(1, BLACK), (2, GREY), (2, [BLACK, GREY])])
def test_pictures_are_encoded_too(batch_size, images, tiny, caplog):
    mask, prompt = np.eye(12, dtype=bool), ["stripes", "dots"][:batch_size]
    pipe, other = fresh(tiny, VQDiffusionInpaintPipeline), VQDiffusionInpaintPipeline.from_pipe(tiny)
    check(pipe, other, caplog, {"batch_size": batch_size, "resample": 2}, images, mask, prompt, resample=2)


@pytest.mark.slow
def test_a_picture_is_changed_after_it(tiny, caplog):
    pipe, other = fresh(tiny, VQDiffusionImg2ImgPipeline), VQDiffusionImg2ImgPipeline.from_pipe(tiny)
    options = {"strength": 0.4, "guidance_schedule": (0.1, 0.6)}
    check(pipe, other, caplog, {"batch_size": 1, **options}, GREY, "stripes", **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, network, condition, count",
    [
        (ClassToImagePipeline, ClassTransformer2DModel, {"num_class_embeds": 5}, [3, 1]),
        (UnconditionalPipeline, UnconditionalTransformer2DModel, {}, 2),
    ],
)
def test_the_other_kinds(kind, network, condition, count, tiny, caplog, rng):
    transformer = random_weights(network(**SIZE, num_embeds_ada_norm=10, **condition), rng, 0.3)
    pipe, other = (kind(tiny.vqvae, transformer, tiny.scheduler) for _ in range(2))
    for each in (pipe, other):
        each.set_progress_bar_config(disable=True)
    check(pipe, other, caplog, {"batch_size": 2}, count)


def test_nothing_else_changes(tiny, capfd):
    """Every argument of a call may be handed on; generators do not advance and callbacks are not called."""
    pipe, generator, seen = VQDiffusionPipeline.from_pipe(tiny), np.random.default_rng(5), []
    pipe.set_progress_bar_config(desc="shown")
    before = np.random.get_state()[1].copy(), generator.bit_generator.state
    attributes = dict(vars(pipe))
    pipe.warm_up(
        num_inference_steps=6,
        generator=generator,
        callback=lambda *given: seen.append(given),
        callback_on_step_end=lambda *given: seen.append(given),
    )
    assert vars(pipe) == attributes
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert generator.bit_generator.state == before[1]
    assert not seen
    assert "shown" not in capfd.readouterr().err
    pipe("stripes", num_inference_steps=6)
    assert "shown" in capfd.readouterr().err


def test_a_step_for_each_graph_is_run(tiny, monkeypatch):
    steps, sample = [], VQDiffusionPipeline.sample

    def counted(*arguments):
        steps.append(-1)  # x_T is no step
        for each in sample(*arguments):
            steps[-1] += 1
            yield each

    monkeypatch.setattr(denoising, "steps_in_a_graph", lambda: 1)
    monkeypatch.setattr(VQDiffusionPipeline, "sample", counted)
    tiny.warm_up(num_inference_steps=10)
    tiny.warm_up(num_inference_steps=10, guidance_schedule=(0.5, 1.0))
    assert steps == [1, 2]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": [1, 1.5]}, "batch_size is an integer, given 1.5"),
        ({"guidance": 3}, "guidance"),
        ({"num_inference_steps": 11}, "num_inference_steps is 11"),
    ],
)
def test_mistakes(options, message, tiny):
    with pytest.raises((TypeError, ValueError), match=message):
        tiny.warm_up(**options)


def test_another_batch_size_compiles(tiny, caplog):
    """What the tests above look for is seen where it is."""
    caplog.set_level(logging.INFO, "mindone_vq")
    pipe = fresh(tiny)
    pipe.warm_up(**STEPS)
    graphs = ("text encoder", "context", "denoising step", "decoder")
    compiled = [f"Compiling the {name} for batch {2 * (name == 'context') + 2} ..." for name in graphs]
    assert codes_and_compiled(pipe, caplog, ["stripes", "dots"])[1] == compiled
