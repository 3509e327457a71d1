"""Samplers, spacings, guidance schedules, composed prompts, top-k: through a pipeline."""

import numpy as np
import pytest

from mindone_vq.diffusion.samplers import SAMPLERS, Confidence, Purity
from tests.pipelines.test_compilation import new_graphs

PROMPTS = ["a ring", "a large cross"]


@pytest.fixture(scope="module")
def pipe(tiny):
    return tiny


def codes(pipe, prompt=PROMPTS, **options):
    return pipe(prompt, output_type="latent", **{"num_inference_steps": 4, "generator": 0, **options})[0].asnumpy()


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("steps, spacing", [(1, "uniform"), (5, "masked"), (7, "cosine")])
def test_every_sampler_ends_without_masks_and_repeats_itself(sampler, steps, spacing, pipe):
    options = dict(sampler=sampler, num_inference_steps=steps, spacing=spacing, generator=[4, 9])
    result = codes(pipe, **options)
    assert result.max() < 12 and len(np.unique(result)) > 3
    assert np.array_equal(codes(pipe, **options), result)
    alone = codes(pipe, PROMPTS[1], **{**options, "generator": [9]})
    assert (alone[0] == result[1]).mean() >= 0.97


def test_heuristics_take_more_steps_than_there_are_timesteps(pipe):
    assert codes(pipe, sampler="halton", num_inference_steps=30).max() < 12
    with pytest.raises(ValueError, match="the 10 timesteps of training"):
        codes(pipe, num_inference_steps=30)


def test_settings_within_a_sampler_compile_nothing(pipe):
    pipe = type(pipe)(**pipe.components)  # without the graphs of other tests
    for sampler, other in (("purity", Purity(r=3.0)), ("confidence", Confidence(temperature=1.0))):
        new_graphs(pipe, "a ring", sampler=sampler)
        assert new_graphs(pipe, "a ring", sampler=other, spacing="cosine", num_inference_steps=7) == 0
    new_graphs(pipe, "a ring", top_k=3)
    assert new_graphs(pipe, "a ring", top_k=5) == 0
    new_graphs(pipe, "a ring")
    assert new_graphs(pipe, "a ring", guidance_schedule="linear") == 0
    assert new_graphs(pipe, "a ring", guidance_schedule=(0.2, 0.7)) == 1  # the step without guidance
    assert new_graphs(pipe, "a ring", guidance_schedule=(0.3, 0.9)) == 0


def test_guidance_schedules_end_where_they_say(pipe):
    plain = codes(pipe, guidance_scale=6.0)
    assert np.array_equal(codes(pipe, guidance_scale=6.0, guidance_schedule=(0.0, 1.0)), plain)
    assert not np.array_equal(codes(pipe, guidance_scale=6.0, guidance_schedule="linear"), plain)
    unguided = codes(pipe, guidance_scale=1.0)
    assert (codes(pipe, guidance_scale=6.0, guidance_schedule=(0.0, 1e-9)) == unguided).mean() >= 0.5
    with pytest.raises(ValueError, match=r"guidance_schedule is \(0.7, 0.2\)"):
        codes(pipe, guidance_schedule=(0.7, 0.2))


def test_one_class_is_top_1_and_all_are_no_truncation(pipe):
    sure = codes(pipe, top_k=1, sampler="halton", num_inference_steps=1)
    assert np.array_equal(codes(pipe, top_k=1, sampler="halton", num_inference_steps=1, generator=8), sure)
    assert np.array_equal(codes(pipe, top_k=12), codes(pipe, truncation_rate=1.0))
    with pytest.raises(ValueError, match="top_k is 0"):
        codes(pipe, top_k=0)


def test_a_prompt_of_weight_one_is_the_prompt_and_weights_share(pipe):
    plain = codes(pipe, PROMPTS[0], guidance_scale=3.0)
    assert np.array_equal(codes(pipe, [(PROMPTS[0], 1.0)], guidance_scale=3.0), plain)
    assert (codes(pipe, [(PROMPTS[0], 1.0), (PROMPTS[1], 0.0)], guidance_scale=3.0) == plain).mean() >= 0.97
    assert (codes(pipe, [(PROMPTS[0], 0.4), (PROMPTS[0], 0.6)], guidance_scale=3.0) == plain).mean() >= 0.97
    both = codes(pipe, [(PROMPTS[0], 0.5), (PROMPTS[1], 0.5)], guidance_scale=3.0, num_images_per_prompt=2)
    assert both.shape == (2, 36)
    with pytest.raises(ValueError, match="guidance_scale is 1.0"):
        codes(pipe, [(PROMPTS[0], 1.0)], guidance_scale=1.0)
    with pytest.raises(TypeError, match="none of these"):
        codes(pipe, [(PROMPTS[0], 1.0), "a ring"], guidance_scale=3.0)
