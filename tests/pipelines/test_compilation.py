"""What compiles again, counted where MindSpore keeps its compiled graphs."""

import numpy as np
import pytest

from tests.compilation import compiled_graphs
from tests.tiny_pipeline import random_pipeline


@pytest.fixture
def pipe():
    return random_pipeline(np.random.default_rng(5))


def new_graphs(pipe, *prompts, **options) -> int:
    before = compiled_graphs()
    pipe(list(prompts), output_type="np", **{"num_inference_steps": 4, "generator": 0, **options})
    return compiled_graphs() - before


def test_only_shapes_and_guidance_and_truncation_on_or_off_compile(pipe):
    assert new_graphs(pipe, "a ring", guidance_scale=2.0) == 4  # text encoder, context, step, decoder
    assert new_graphs(pipe, "a large ring", guidance_scale=2.0) == 0
    assert new_graphs(pipe, "a ring", guidance_scale=7.5) == 0
    assert new_graphs(pipe, "a ring", truncation_rate=0.86) == 1  # the step with truncation
    assert new_graphs(pipe, "a ring", truncation_rate=0.5) == 0
    assert new_graphs(pipe, "a ring", num_inference_steps=10) == 0
    assert new_graphs(pipe, "a ring", generator=99) == 0
    assert new_graphs(pipe, "a ring", negative_prompt="a circle") == 0
    assert new_graphs(pipe, "a ring", latents=np.full((1, 36), 3)) == 0
    assert new_graphs(pipe, "a ring", guidance_scale=1.0) == 2  # context and step without guidance
    assert new_graphs(pipe, "a ring", "a cross") == 4  # all at batch 2
    assert new_graphs(pipe, "a ring", guidance_scale=3.0) == 0


def test_compiling_is_announced(pipe, caplog):
    caplog.set_level("INFO", "mindone_vq")
    new_graphs(pipe, "a ring")
    for name, batch in (("text encoder", 1), ("context", 2), ("denoising step", 1), ("decoder", 1)):
        assert f"Compiling the {name} for batch {batch}" in caplog.text
    caplog.clear()
    new_graphs(pipe, "a cross")
    assert "ompil" not in caplog.text
