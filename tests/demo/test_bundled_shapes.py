"""The model in the package. All tests use batches of eight, so that they share compiled graphs."""

import mindspore as ms
import numpy as np
import pytest

from mindone_vq import VQDiffusionInpaintPipeline, VQDiffusionPipeline
from mindone_vq.demo import SHAPES_MODEL
from mindone_vq.demo.shapes import Scene, Shape, caption, draw, random_scene
from mindone_vq.demo.shapes_evaluation import score

BATCH = 8
FEW_STEPS = dict(num_inference_steps=10, sampler="confidence", spacing="square")
SAMPLING = [FEW_STEPS, pytest.param(dict(num_inference_steps=50), marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def pipe():
    pipe = VQDiffusionPipeline.from_pretrained(SHAPES_MODEL)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_it_is_small():
    assert sum(path.stat().st_size for path in SHAPES_MODEL.rglob("*") if path.is_file()) <= 12e6


def test_its_vqvae_reconstructs(pipe, rng):
    right, editing = [], VQDiffusionInpaintPipeline.from_pipe(pipe)
    for _ in range(6):
        scenes = [random_scene(rng, held_out=None) for _ in range(BATCH)]
        codes = editing.encode_pictures(np.stack([np.asarray(draw(scene, rng)) for scene in scenes]))
        right += score(scenes, pipe.decode_latents(ms.Tensor(codes, ms.int32))).right
    assert np.mean(right) >= 0.93


@pytest.mark.parametrize("sampling", SAMPLING)
def test_it_draws_what_the_prompt_says(sampling, pipe):
    scenes = [
        Scene("white", Shape("large", "red", "circle")),
        Scene("gray", Shape("small", "blue", "ring")),
        Scene("black", Shape("large", "green", "cross")),
        Scene("white", Shape("small", "purple", "square")),
    ] * 2
    pictures = pipe([caption(scene) for scene in scenes], generator=list(range(BATCH)), **sampling)[0]
    assert pictures[0].size == (64, 64)
    assert np.mean(score(scenes, pictures).right) >= 0.75


@pytest.mark.parametrize("sampling", SAMPLING)
def test_inpainting_changes_the_masked_half(sampling, pipe, rng):
    """The prompt contradicts what the mask covers, and the oracle reads both halves."""
    kept, covered = Shape("large", "red", "circle"), Shape("small", "green", "square")
    new = [Shape("large", "blue", "ring"), Shape("small", "yellow", "cross")]
    new += [Shape("large", "purple", "diamond"), Shape("small", "pink", "triangle")]
    before = [Scene("white", kept, covered, relation) for relation in ("left", "above") for _ in new]
    after = [Scene("white", kept, shape, scene.relation) for scene, shape in zip(before, new * 2)]
    pictures = np.stack([np.asarray(draw(scene, rng)) for scene in before])
    masks = np.zeros((BATCH, 64, 64), bool)
    masks[:4, :, 32:] = masks[4:, 32:] = True
    inpaint = VQDiffusionInpaintPipeline.from_pipe(pipe)
    results = inpaint(pictures, masks, [caption(scene) for scene in after], generator=list(range(BATCH)), **sampling)[0]
    arrays = np.stack([np.asarray(result) for result in results])
    assert np.array_equal(arrays[~masks], pictures[~masks])
    assert sum(score(after, results).right) >= 7
    assert not any(score(before, results).right)
