"""The model in the package."""

import mindspore as ms
import numpy as np
import pytest

from mindone_vq import VQDiffusionInpaintPipeline, VQDiffusionPipeline
from mindone_vq.demo import MODEL
from mindone_vq.demo.evaluation import score
from mindone_vq.demo.shapes import Scene, Shape, caption, draw, random_scene
from mindone_vq.pictures import to_model_range


@pytest.fixture(scope="module")
def pipe():
    pipe = VQDiffusionPipeline.from_pretrained(MODEL)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_small():
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 12e6


def test_its_codec_shows_what_it_was_given(pipe, rng):
    scenes = [random_scene(rng, held_out=None) for _ in range(60)]
    pixels = np.stack([np.asarray(draw(scene, rng)).transpose(2, 0, 1) for scene in scenes])
    (latents,) = pipe.vqvae.encode(ms.Tensor(to_model_range(pixels)))
    _, _, codes = pipe.vqvae.quantize(latents)
    pictures = pipe.decode_latents(codes.reshape(len(scenes), -1))
    assert np.mean(score(scenes, pictures).right) >= 0.93


@pytest.mark.parametrize(
    "options",
    [
        dict(num_inference_steps=50),
        dict(num_inference_steps=16, sampler="confidence", spacing="square"),
    ],
)
def test_it_draws_what_it_is_told(options, pipe):
    scenes = [
        Scene("white", Shape("large", "red", "circle")),
        Scene("gray", Shape("small", "blue", "ring")),
        Scene("black", Shape("large", "green", "cross")),
        Scene("white", Shape("small", "purple", "square")),
    ]
    prompts = [caption(scene) for scene in scenes for _ in range(4)]
    pictures = pipe(prompts, generator=list(range(16)), **options)[0]
    assert pictures[0].size == (64, 64)
    right = score([scene for scene in scenes for _ in range(4)], pictures).right
    assert np.mean(right) >= 0.75


@pytest.mark.parametrize("sampler", ["ancestral", "confidence"])
def test_inpainting_changes_the_half_it_is_told_to(sampler, pipe, rng):
    """The prompt contradicts what the mask covers, and the oracle reads both halves."""
    kept, covered = Shape("large", "red", "circle"), Shape("small", "green", "square")
    asked = [Shape("large", "blue", "ring"), Shape("small", "yellow", "cross"), Shape("large", "purple", "diamond")] * 2
    before = [Scene("white", kept, covered, relation) for relation in ("left",) * 3 + ("above",) * 3]
    after = [Scene(scene.background, kept, new, scene.relation) for scene, new in zip(before, asked)]
    pictures = np.stack([np.asarray(draw(scene, rng)) for scene in before])
    masks = np.zeros((6, 64, 64), bool)
    masks[:3, :, 32:] = masks[3:, 32:] = True
    inpaint = VQDiffusionInpaintPipeline.from_pipe(pipe)
    options = dict(num_inference_steps=20, sampler=sampler, generator=list(range(6)))
    results = inpaint(pictures, masks, [caption(scene) for scene in after], **options)[0]
    arrays = np.stack([np.asarray(result) for result in results])
    assert np.array_equal(arrays[~masks], pictures[~masks])
    assert sum(score(after, results).right) >= 5
    assert not any(score(before, results).right)
