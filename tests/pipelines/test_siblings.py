"""The pipelines of classes and of nothing."""

import numpy as np
import pytest

from mindone_vq import (
    ClassToImagePipeline,
    ClassTransformer2DModel,
    UnconditionalPipeline,
    UnconditionalTransformer2DModel,
    VQDiffusionPipeline,
    VQDiffusionScheduler,
)
from tests.tiny_pipeline import random_pipeline, random_weights

SIZE = dict(num_attention_heads=2, attention_head_dim=8, num_layers=1, sample_size=6, num_vector_embeds=13)


@pytest.fixture(scope="module")
def pipes():
    rng = np.random.default_rng(3)
    vqvae, scheduler = random_pipeline(rng).vqvae, VQDiffusionScheduler(13, 10)
    classes = ClassTransformer2DModel(**SIZE, num_embeds_ada_norm=10, num_class_embeds=5)
    nothing = UnconditionalTransformer2DModel(**SIZE, num_embeds_ada_norm=10)
    made = (
        ClassToImagePipeline(vqvae, random_weights(classes, rng, 0.3), scheduler),
        UnconditionalPipeline(vqvae, random_weights(nothing, rng, 0.3), scheduler),
    )
    for pipe in made:
        pipe.set_progress_bar_config(disable=True)
    return made


def codes(pipe, *arguments, **options):
    return pipe(*arguments, num_inference_steps=6, output_type="latent", **{"generator": 0, **options})[0].asnumpy()


def test_a_class_decides_the_picture_and_guidance_changes_it(pipes):
    pipe, _ = pipes
    assert codes(pipe, [1, 2]).shape == (2, 36)
    assert not np.array_equal(codes(pipe, 1), codes(pipe, 2))
    assert not np.array_equal(codes(pipe, 1), codes(pipe, 1, guidance_scale=1.0))
    together = codes(pipe, 1, num_images_per_class=2, generator=[4, 5])
    alone = np.concatenate([codes(pipe, 1, generator=seed) for seed in (4, 5)])
    assert (together == alone).mean() >= 0.97


def test_pictures_of_nothing_differ_by_their_seed(pipes):
    _, pipe = pipes
    together = codes(pipe, 3, generator=[1, 2, 1])
    assert np.array_equal(together[0], together[2])
    assert not np.array_equal(together[0], together[1])


def test_both_are_saved_and_loaded(pipes, tmp_path):
    for pipe in pipes:
        pipe.save_pretrained(tmp_path / type(pipe).__name__)
        again = type(pipe).from_pretrained(tmp_path / type(pipe).__name__)
        assert again.transformer.config == pipe.transformer.config
        before, after = pipe.transformer.parameters_dict(), again.transformer.parameters_dict()
        assert all(np.array_equal(before[name].asnumpy(), after[name].asnumpy()) for name in before)
        with pytest.raises(ValueError, match=f"index of a {type(pipe).__name__}"):
            VQDiffusionPipeline.from_pretrained(tmp_path / type(pipe).__name__)


@pytest.mark.parametrize(
    "labels, error, named",
    [
        (4, ValueError, "class_labels go from 0 to 3"),
        (-1, ValueError, "class_labels go from 0 to 3"),
        ([], TypeError, "class_labels is an integer"),
        ("cat", TypeError, "class_labels is an integer"),
        ([1.5], TypeError, "class_labels is an integer"),
    ],
)
def test_what_is_no_class_is_refused(labels, error, named, pipes):
    with pytest.raises(error, match=named):
        pipes[0](labels)


def test_a_number_of_pictures_below_one_is_refused(pipes):
    with pytest.raises(ValueError, match="batch_size is 0"):
        pipes[1](0)
