"""Inpainting, outpainting, image to image."""

import inspect

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

from mindone_vq import (
    UnconditionalPipeline,
    VQDiffusionImg2ImgPipeline,
    VQDiffusionInpaintPipeline,
    VQDiffusionPipeline,
    VQDiffusionScheduler,
    VQModel,
)
from mindone_vq.demo import SHAPES_MODEL
from mindone_vq.diffusion.options import SamplingOptions
from mindone_vq.diffusion.sample_step import UNKNOWN
from mindone_vq.pipelines.compilation import CompiledGraph
from tests.tiny_pipeline import random_pipeline, random_weights

PROMPT = "a large red circle on a white background"
STEPS = dict(num_inference_steps=5, generator=3)


@pytest.fixture(scope="module")
def inpaint(tiny):
    return VQDiffusionInpaintPipeline.from_pipe(tiny)


@pytest.fixture(scope="module")
def img2img(tiny):
    return VQDiffusionImg2ImgPipeline.from_pipe(tiny)


def picture(rng, size=12):
    return Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))


def half(size=12):
    mask = np.zeros((size, size), bool)
    mask[:, size // 2 :] = True
    return mask


@pytest.mark.parametrize(
    "sampler, resample",
    [
        ("ancestral", 3),
        pytest.param("ancestral", 1, marks=pytest.mark.slow),
        pytest.param("purity", 1, marks=pytest.mark.slow),
        pytest.param("purity", 3, marks=pytest.mark.slow),
    ],
)
def test_pixels_outside_the_mask_are_the_originals(resample, sampler, inpaint, rng):
    image, options = picture(rng), dict(resample=resample, sampler=sampler, **STEPS)
    (result,) = inpaint(image, half(), PROMPT, **options)[0]
    assert np.array_equal(np.asarray(result)[:, :6], np.asarray(image)[:, :6])
    assert not np.array_equal(np.asarray(result)[:, 6:], np.asarray(image)[:, 6:])
    array = inpaint(image, half(), PROMPT, output_type="np", **options)[0]
    assert np.array_equal(array[0][:, :6], np.asarray(image, np.float32)[:, :6] / 255)
    codes = inpaint(image, half(), PROMPT, output_type="latent", **options)[0].asnumpy().reshape(6, 6)
    known = inpaint.encode_pictures(np.asarray(image)[None]).reshape(6, 6)
    assert np.array_equal(codes[:, :3], known[:, :3])


@pytest.mark.parametrize("sampler", ["ancestral", "confidence"])
def test_known_codes_are_as_noisy_as_the_rest(sampler, inpaint, rng):
    """At each step the share of masks among the held codes, and among the others, is the schedule's."""
    images, seen, counts = [picture(rng) for _ in range(60)], [], []

    def see(pipe, step, t, given):
        is_mask = given["latents"].asnumpy().reshape(60, 6, 6) == 12
        seen.append([is_mask[:, :, :3].mean(), is_mask[:, :, 3:].mean()])
        counts.append(is_mask[:, :, 3:].sum((1, 2)))

    options = dict(output_type="latent", num_inference_steps=5, sampler=sampler)
    inpaint(images, half(), [PROMPT] * 60, callback_on_step_end=see, **options)
    schedule = inpaint.scheduler.schedule
    expected = [schedule.masked_share(step.s) for step in inpaint.scheduler.steps(5, sampler)]
    assert np.abs(np.array(seen) - np.array(expected)[:, None]).max() < 0.05 and seen[-1] == [0, 0]
    if sampler == "confidence":  # which counts
        assert np.array_equal(counts, np.floor(18 * np.array(expected) + 0.5)[:, None].repeat(60, 1))


def test_resampling_goes_back_between(inpaint, rng, monkeypatch):
    """Each step but its last time; and what it went back to is what is gone on with."""
    jumps = []

    def forward_jump(x_s, s, t, generator):
        jumps.append((round(s), round(t)))
        return Tensor(np.full_like(x_s.asnumpy(), 5))

    monkeypatch.setattr(inpaint.scheduler, "forward_jump", forward_jump)
    options = dict(resample=3, sampler="halton", output_type="latent", **STEPS)
    codes = inpaint(picture(rng), half(), PROMPT, **options)[0].asnumpy().reshape(6, 6)
    steps = inpaint.scheduler.steps(STEPS["num_inference_steps"], "halton")
    assert jumps == [(round(step.s), round(step.t)) for step in steps for _ in range(2)]
    assert (codes[:, 3:] == 5).all()  # a sampler that reveals keeps what it finds


def forward(codes, keep, mask, rng):
    """The forward process: a code is masked, kept, or any of 12; masks stay masks."""
    u = rng.random(codes.shape)
    other = np.stack([rng.integers(0, 12, codes.shape[1]) for _ in codes])
    changed = np.where(u < mask, 12, np.where(u < mask + keep, codes, other))
    return np.where(codes == 12, 12, changed)


def reference(pipe, codes, is_known, sampler, resample, seed):
    """Inpainting on the host: the pipeline's step one at a time, and the known codes put in their places after it."""
    rng, schedule = np.random.default_rng(seed), pipe.scheduler.schedule
    options = SamplingOptions(5, guidance_scale=3.0, sampler=sampler)
    embeddings = [each.asnumpy() for each in pipe.encode_prompt([PROMPT] * len(codes))]
    denoise = pipe.denoiser.step(pipe.denoiser.condition(*embeddings), options)

    def held(s):
        if s == -1:
            return codes
        keep, _, mask = schedule.cumulative(max(round(s), 0))
        return forward(codes, keep, mask, rng)

    x_t = np.where(is_known, held(9), 12).astype(np.int32)
    counted_out = np.where(is_known, 0, UNKNOWN).astype(np.int32)  # samplers do not count these; 0 does not stay
    for step in pipe.scheduler.steps(5, options.sampler):
        for left in reversed(range(resample)):
            uniforms = options.sampler.draw_uniforms([rng], *x_t.shape)
            x_s = denoise(Tensor(x_t), [step], uniforms[None], counted_out[None]).asnumpy()
            x_t = np.where(is_known, held(step.s), x_s).astype(np.int32)
            if left and round(step.s) < round(step.t):
                keep, _, mask = schedule.between(round(step.t), round(step.s))
                x_t = forward(x_t, keep, mask, rng).astype(np.int32)
    return x_t


@pytest.mark.parametrize("resample", [1, 2])
@pytest.mark.parametrize("sampler", ["ancestral", "purity"])
def test_the_codes_are_those_of_a_loop_on_the_host(sampler, resample, inpaint, rng, monkeypatch):
    """In the same order of random numbers; and without resampling one call of the graph does all steps."""
    images, calls, run = [picture(rng) for _ in range(20)], [], CompiledGraph.__call__
    monkeypatch.setattr(
        CompiledGraph, "__call__", lambda graph, *inputs: calls.append(graph.name) or run(graph, *inputs)
    )
    options = dict(num_inference_steps=5, sampler=sampler, resample=resample, guidance_scale=3.0)
    found = inpaint(images, half(), [PROMPT] * 20, generator=8, output_type="latent", **options)[0].asnumpy()
    assert calls.count("denoising step") == (1 if resample == 1 else 5 * resample)
    codes = inpaint.encode_pictures(np.stack([np.asarray(image) for image in images]))
    is_known = np.tile(np.arange(6) < 3, (20, 6))
    assert np.array_equal(found, reference(inpaint, codes, is_known, sampler, resample, 8))


def test_a_mask_of_everything_is_text_to_image(tiny, inpaint, rng):
    expected = tiny(PROMPT, output_type="latent", **STEPS)[0].asnumpy()
    codes = inpaint(picture(rng), np.ones((12, 12), bool), PROMPT, output_type="latent", **STEPS)[0].asnumpy()
    assert np.array_equal(codes, expected)


def test_the_painted_part_starts_from_masks_in_a_student_too(tiny, rng, monkeypatch):
    scheduler = VQDiffusionScheduler.from_config(tiny.scheduler.config, num_start_codes=1)
    student, calls = VQDiffusionInpaintPipeline.from_pipe(tiny, scheduler=scheduler), []
    sampled = student._sampled
    monkeypatch.setattr(student, "_sampled", lambda call, *others: calls.append(call) or sampled(call, *others))
    student(picture(rng), half(), PROMPT, **STEPS)
    student(picture(rng), half(), PROMPT, **STEPS, latents=np.full(calls[0].x_T.shape, 3))
    masked, given = (call.x_T.asnumpy().reshape(6, 6) for call in calls)
    assert (masked[:, 3:] == scheduler.mask_class).all() and (given[:, 3:] == 3).all()


def test_a_mask_of_nothing_returns_the_picture(inpaint, rng):
    image = picture(rng)
    assert np.array_equal(np.asarray(inpaint(image, half() & False, PROMPT, **STEPS)[0][0]), np.asarray(image))


@pytest.mark.parametrize("sampler", ["ancestral", "purity", "confidence", "halton"])
def test_strength_goes_from_the_picture_to_the_prompt(sampler, tiny, img2img, rng):
    image, options = picture(rng), dict(output_type="latent", sampler=sampler, **STEPS)
    known = img2img.encode_pictures(np.asarray(image)[None])
    assert np.array_equal(img2img(image, PROMPT, strength=0.0, **options)[0].asnumpy(), known)
    expected = tiny(PROMPT, **options)[0].asnumpy()
    assert np.array_equal(img2img(image, PROMPT, strength=1.0, **options)[0].asnumpy(), expected)
    between = img2img(image, PROMPT, strength=0.4, **options)[0].asnumpy()
    assert 0 < (between == known).mean() < 1


def test_variations_need_no_prompt(img2img, rng):
    images = [picture(rng), picture(rng)]
    known = img2img.encode_pictures(np.stack([np.asarray(image) for image in images]))
    varied = img2img.variations(images, strength=0.4, output_type="latent", **STEPS)[0].asnumpy()
    assert varied.shape == known.shape and 0 < (varied == known).mean() < 1
    assert np.array_equal(
        img2img.variations(images[0], strength=0.0, output_type="latent", **STEPS)[0].asnumpy(), known[:1]
    )


@pytest.mark.parametrize("sampler", ["ancestral", pytest.param("confidence", marks=pytest.mark.slow)])
def test_edits_are_the_same_alone_and_in_a_batch(sampler, inpaint, rng):
    images, seeds = [picture(rng) for _ in range(2)], [5, 6]
    options = dict(num_inference_steps=5, output_type="latent", sampler=sampler)
    together = inpaint(images, half(), [PROMPT] * 2, generator=seeds, **options)[0].asnumpy()
    for i, seed in enumerate(seeds):
        alone = inpaint(images[i], half(), PROMPT, generator=[seed], **options)[0].asnumpy()
        assert (alone[0] == together[i]).mean() >= 0.97
    again = inpaint(images, half(), [PROMPT] * 2, generator=seeds, **options)[0].asnumpy()
    assert np.array_equal(together, again)


def test_other_sizes_and_modes(inpaint, rng, caplog):
    image = picture(rng, 24).convert("RGBA")
    mask = Image.fromarray(half(48).astype(np.uint8) * 255).convert("1")
    (result,) = inpaint(image, mask, PROMPT, **STEPS)[0]
    assert result.size == (12, 12)
    assert "image is 24 x 24; the model paints 12 x 12" in caplog.text and "mask is 48 x 48" in caplog.text
    grey = inpaint(np.asarray(picture(rng).convert("L")), half(), PROMPT, **STEPS)[0][0]
    assert grey.size == (12, 12)


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(image="a.png"), TypeError, "image is a PIL picture or a numpy array.*given str"),
        (dict(image=[]), ValueError, "image is an empty list"),
        (dict(image=np.zeros((4, 4, 2), np.uint8)), ValueError, r"\(4, 4, 2\)"),
        (dict(image=np.full((12, 12, 3), 200.0)), ValueError, r"floats must be in \[0, 1\]"),
        (dict(image=np.zeros((12, 12, 3), np.int64)), TypeError, "int64"),
        (dict(image=Image.new("F", (12, 12))), ValueError, "'F'"),
        (dict(resample=0), ValueError, "resample is 0"),
        (dict(output_type="jpg"), ValueError, "output_type is 'jpg'"),
        (dict(image=[Image.new("RGB", (12, 12))] * 3), ValueError, "3 pictures or masks given for 1"),
    ],
)
def test_what_is_no_picture_is_refused(change, error, words, inpaint):
    arguments = {"image": Image.new("RGB", (12, 12)), "mask": half(), "prompt": PROMPT, **STEPS, **change}
    with pytest.raises(error, match=words):
        inpaint(**arguments)


def test_a_strength_out_of_range_is_refused(img2img):
    with pytest.raises(ValueError, match="strength is 1.2"):
        img2img(Image.new("RGB", (12, 12)), PROMPT, strength=1.2)


def test_from_pipe_takes_over_weights_graphs_and_settings(tiny, monkeypatch):
    monkeypatch.setitem(tiny.default_settings, "guidance_scale", 1.7)
    made = VQDiffusionInpaintPipeline.from_pipe(tiny)
    assert made.default_settings["guidance_scale"] == 1.7 and made.default_settings is not tiny.default_settings
    assert made.transformer is tiny.transformer and made._graphs is tiny._graphs
    scheduler = VQDiffusionScheduler(13, 5)
    changed = VQDiffusionInpaintPipeline.from_pipe(tiny, scheduler=scheduler)
    assert changed.scheduler is scheduler and tiny.scheduler is not scheduler
    with pytest.raises(TypeError, match="cannot be made of a UnconditionalPipeline"):
        VQDiffusionInpaintPipeline.from_pipe(object.__new__(UnconditionalPipeline))
    with pytest.raises(TypeError, match="cannot be made of a dict"):
        VQDiffusionInpaintPipeline.from_pipe(tiny.components)


def test_folders_of_the_plain_pipeline_load_and_are_saved_as_such(tmp_path):
    pipe = VQDiffusionInpaintPipeline.from_pretrained(SHAPES_MODEL)
    pipe.save_pretrained(tmp_path)
    assert type(VQDiffusionPipeline.from_pretrained(tmp_path)) is VQDiffusionPipeline
    assert pipe.default_settings == VQDiffusionPipeline.from_pretrained(SHAPES_MODEL).default_settings


def test_codes_that_the_transformer_does_not_know_are_read_as_class_0(rng):
    """A VQ-VAE of 20 codes, of which the transformer knows 12: its mask is the 13th."""
    small, big = random_pipeline(rng), VQModel.from_config(random_pipeline(rng).vqvae.config, num_vq_embeddings=20)
    random_weights(big, rng, 0.2)
    pipe = VQDiffusionInpaintPipeline(**{**small.components, "vqvae": big})
    images = np.stack([np.asarray(picture(rng)) for _ in range(20)])
    latents = big.encode(Tensor(images.transpose(0, 3, 1, 2) / np.float32(127.5) - 1)).latents
    used = np.argsort(-np.bincount(big.quantize(latents)[2].asnumpy().ravel(), minlength=20))
    table, order = big.quantize.embedding.embedding_table, np.arange(20)
    order[[12, 13, 0]] = used[:3]  # the likeliest codes: the mask's number, one beyond it, and one that is known
    order[np.setdiff1d(np.arange(20), [12, 13, 0])] = used[3:]
    table.set_data(Tensor(table.asnumpy()[order]))
    own = big.quantize(latents)[2].asnumpy().reshape(20, 36)
    assert (own == 12).any() and (own == 13).any() and (own == 0).any()
    codes = pipe.encode_pictures(images)
    assert np.array_equal(codes, np.where(own < 12, own, 0))
    kept = pipe(list(images), half(), [PROMPT] * 20, output_type="latent", **STEPS)[0].asnumpy().reshape(20, 6, 6)
    assert np.array_equal(kept[:, :, :3], codes.reshape(20, 6, 6)[:, :, :3])
    same = VQDiffusionImg2ImgPipeline.from_pipe(pipe)
    for strength in (0.0, 0.5):
        drawn = same(list(images), [PROMPT] * 20, strength=strength, output_type="latent", **STEPS)[0].asnumpy()
        assert drawn.max() < 12 and (strength > 0 or np.array_equal(drawn, codes))


def test_arguments_that_an_edit_does_not_take(tiny, inpaint, img2img, rng, monkeypatch):
    monkeypatch.setattr(CompiledGraph, "__call__", lambda *_: pytest.fail("work before the arguments were checked"))
    image, codes = picture(rng), np.zeros((1, 36), int)
    with pytest.raises(ValueError, match=r"latents are where the chain starts at strength 1; at strength 0\.5"):
        img2img(image, PROMPT, strength=0.5, latents=codes)
    with pytest.raises(TypeError, match="has no argument edit"):
        inpaint(image, half(), PROMPT, edit=None)
    with pytest.raises(TypeError, match="has no argument num_inference_step: did you mean num_inference_steps?"):
        img2img(image, PROMPT, num_inference_step=3)
    with pytest.raises(ValueError, match="num_inference_steps is 0"):
        inpaint(image, half(), PROMPT, num_inference_steps=0)
    with pytest.raises(ValueError, match="2 pictures or masks given for 1"):
        img2img([image] * 2, PROMPT, num_inference_steps=3)
    assert "edit" not in inspect.signature(VQDiffusionPipeline.__call__).parameters


def test_latents_are_taken_where_the_image_has_no_part(img2img, rng):
    x_t = np.where(rng.random((1, 36)) < 0.5, 12, rng.integers(0, 12, (1, 36)))
    options = dict(num_inference_steps=3, generator=1, output_type="latent", latents=x_t)
    edited = img2img(picture(rng), PROMPT, strength=1, **options)[0].asnumpy()
    assert np.array_equal(edited, VQDiffusionPipeline.__call__(img2img, PROMPT, **options)[0].asnumpy())


def test_pictures_of_16_bits(inpaint, rng):
    deep = rng.integers(0, 2**16, (12, 12), dtype=np.uint16)
    grey = np.round(deep / 257).astype(np.uint8)
    for image in (Image.fromarray(deep), deep):
        result = np.asarray(inpaint(image, half(), PROMPT, **STEPS)[0][0])
        assert np.array_equal(result[:, :6], grey[:, :6, None].repeat(3, -1))
