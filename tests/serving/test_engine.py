"""The engine draws for many callers what each would get alone."""

import asyncio
import contextlib
import logging
import threading

import numpy as np
import pytest
from PIL import Image

from mindone_vq import VQDiffusionImg2ImgPipeline, VQDiffusionInpaintPipeline
from mindone_vq.serving import engine as engine_module
from mindone_vq.serving.engine import Engine
from mindone_vq.serving.request import Busy, Cancelled, ImageRequest
from tests.tiny_pipeline import random_pipeline

STEPS = {"num_inference_steps": 8}
MINUTE = 60
GRAY = (128, 128, 128)


@pytest.fixture(scope="module")
def pipe():
    return random_pipeline(np.random.default_rng(0))


@pytest.fixture(scope="module")
def _engine(pipe):
    engine = Engine(pipe, batch_sizes=(1, 4), most_waiting=6)
    yield engine
    engine.close()


@pytest.fixture
def engine(_engine, monkeypatch):
    """The engine; ``engine.drawn`` has the prompts of every batch from here on."""
    drawn, generate = [], _engine._generate
    monkeypatch.setattr(_engine, "drawn", drawn, raising=False)

    def spied(jobs):
        drawn.append([job.request.prompt for job in jobs])
        return generate(jobs)

    monkeypatch.setattr(_engine, "_generate", spied)
    return _engine


@pytest.fixture
def held(engine):
    """Holds the engine inside of a first job until ``held.go()``: what is submitted meanwhile waits."""
    started, go = threading.Event(), threading.Event()

    def wait(progress):
        started.set()
        assert go.wait(MINUTE)

    engine.submit(ImageRequest("first", (0,), STEPS), wait)
    assert started.wait(MINUTE)
    yield go.set
    go.set()


def request(prompt="stripes", seeds=(1,), **options):
    return ImageRequest(prompt, tuple(seeds), {**STEPS, **options})


def alike(pictures, others):
    return len(pictures) == len(others) and all(np.array_equal(a, b) for a, b in zip(pictures, others))


def test_pictures_are_those_of_the_pipeline(engine, pipe):
    options = dict(sampler="confidence", spacing="square", guidance_scale=3.0, truncation_rate=0.9)
    got = engine.submit(request("stripes", (5, 6, 9), **options)).pictures.result(MINUTE)
    expected = pipe(["stripes"] * 4, generator=[5, 6, 9, 0], **STEPS, **options)[0]
    assert alike(got, expected[:3])
    one = engine.submit(request("stripes", (5,), **options)).pictures.result(MINUTE)
    assert alike(one, pipe("stripes", generator=[5], **STEPS, **options)[0])


def test_waiting_requests_of_equal_settings_share_a_batch(engine, held, pipe):
    one = engine.submit(request("a", (1, 2)))
    other = engine.submit(request("b", (3,), guidance_scale=1.0))
    two = engine.submit(request("c", (4,)))
    assert [engine.place(job) for job in (one, other, two)] == [1, 2, 3]
    held()
    pictures = one.pictures.result(MINUTE) + two.pictures.result(MINUTE)
    other.pictures.result(MINUTE)  # MindSpore compiles in one thread at a time: the engine must have ended
    assert alike(pictures, pipe(["a", "a", "c", "c"], generator=[1, 2, 4, 0], **STEPS)[0][:3])
    assert engine.drawn == [["first"], ["a", "c"], ["b"]]
    assert engine.place(one) == 0


def test_under_load_a_batch_waits_for_those_who_ask_again(engine, held, monkeypatch):
    monkeypatch.setattr(engine_module, "LINGER", 100)  # times as long as the batch before
    monkeypatch.setattr(engine, "_linger", engine._linger)  # is as before when the test ends
    two = [engine.submit(request("a", (1, 2))), engine.submit(request("b", (1, 2)))]
    held()
    for job in two:
        job.pictures.result(MINUTE)
    later = threading.Timer(0.5, lambda: jobs.append(engine.submit(request("d", (1, 2, 3)))))
    later.start()
    jobs = [engine.submit(request("c"))]
    later.join(MINUTE)
    for job in jobs:
        job.pictures.result(MINUTE)
    assert engine.drawn == [["first"], ["a", "b"], ["c", "d"]]


def test_one_who_asks_alone_does_not_wait(engine, held, monkeypatch):
    monkeypatch.setattr(engine_module, "LINGER", 1e6)
    held()
    for prompt in ("a", "b"):
        engine.submit(request(prompt)).pictures.result(MINUTE)
    assert engine.drawn == [["first"], ["a"], ["b"]]


def test_edits_are_those_of_their_pipelines(engine, pipe, rng):
    image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    mask = Image.fromarray((np.arange(144).reshape(12, 12) % 12 >= 6).astype(np.uint8) * 255)
    painted = engine.submit(ImageRequest("dots", (3,), STEPS, image, mask)).pictures.result(MINUTE)
    inpaint = VQDiffusionInpaintPipeline.from_pipe(pipe)
    assert alike(painted, inpaint([image], [mask], ["dots"], generator=[3], **STEPS)[0])
    changed = engine.submit(ImageRequest("dots", (3,), STEPS, image, None, 0.5)).pictures.result(MINUTE)
    img2img = VQDiffusionImg2ImgPipeline.from_pipe(pipe)
    assert alike(changed, img2img([image], ["dots"], strength=0.5, generator=[3], **STEPS)[0])
    assert not alike(painted, changed)
    varied = engine.submit(ImageRequest("", (3,), STEPS, image, None, 0.5)).pictures.result(MINUTE)
    assert alike(varied, img2img.variations([image], strength=0.5, generator=[3], **STEPS)[0])
    assert not alike(varied, changed)


def test_edits_of_one_batch_have_their_own_pictures(engine, held, rng):
    images = [Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)) for _ in range(2)]
    left = Image.fromarray((np.arange(144).reshape(12, 12) % 12 < 6).astype(np.uint8) * 255)
    jobs = [engine.submit(ImageRequest("dots", (3,), STEPS, image, left)) for image in images]
    held()
    for job, image in zip(jobs, images):
        (picture,) = job.pictures.result(MINUTE)
        assert np.array_equal(np.asarray(picture)[:, 6:], np.asarray(image)[:, 6:])
    assert engine.drawn[1:] == [["dots", "dots"]]


def test_previews_show_what_is_there_and_gray_elsewhere(engine):
    seen = []
    job = engine.submit(request("stripes", (1, 2)), seen.append, preview_every=3)
    pictures = job.pictures.result(MINUTE)
    assert [(each.step, each.steps) for each in seen] == [(i, 8) for i in range(1, 9)]
    assert [each.step for each in seen if each.pictures] == [3, 6]
    grays = [np.mean(np.all(np.asarray(each.pictures[0]) == GRAY, -1)) for each in seen if each.pictures]
    assert 0 < grays[1] < grays[0] < 1
    last = []
    engine.submit(request("stripes", (1, 2)), last.append, preview_every=8).pictures.result(MINUTE)
    assert alike(last[-1].pictures, pictures)


def test_a_waiting_request_can_be_cancelled(engine, held):
    job, other = engine.submit(request("a")), engine.submit(request("b"))
    job.cancel()
    held()
    with pytest.raises(Cancelled):
        job.pictures.result(MINUTE)
    other.pictures.result(MINUTE)
    assert engine.drawn == [["first"], ["b"]]


def test_asyncio_may_cancel_what_it_waits_for(engine, held):
    async def wait_a_little(job):
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(job.pictures), 0.05)

    job, other = engine.submit(request("a")), engine.submit(request("b"))
    asyncio.run(wait_a_little(job))
    job.cancel()
    held()
    other.pictures.result(MINUTE)
    with pytest.raises(Cancelled):
        job.pictures.result(MINUTE)


def test_a_request_is_cancelled_within_a_step(engine):
    steps = []

    def cancel(progress):
        steps.append(progress.step)
        job.cancel()

    began = threading.Event()
    job = engine.submit(request(), lambda progress: (began.wait(MINUTE), cancel(progress)))
    began.set()
    with pytest.raises(Cancelled):
        job.pictures.result(MINUTE)
    assert steps == [1]


def test_a_request_that_is_cancelled_does_not_end_those_beside_it(engine, held, pipe):
    job, other = engine.submit(request("a")), engine.submit(request("b"))
    job.on_progress = lambda progress: job.cancel()
    held()
    assert alike(other.pictures.result(MINUTE), pipe(["a", "b", "b", "b"], generator=[1, 1, 0, 0], **STEPS)[0][1:2])
    with pytest.raises(Cancelled):
        job.pictures.result(MINUTE)


def test_too_many_are_refused_with_a_time_to_wait(engine, held):
    jobs = [engine.submit(request(seeds=(1, 2))) for _ in range(3)]
    with pytest.raises(Busy, match="6 pictures are waiting already: try again in") as caught:
        engine.submit(request())
    assert caught.value.waiting == 6 and caught.value.retry_after >= 1
    held()
    for job in jobs:
        job.pictures.result(MINUTE)
    engine.submit(request()).pictures.result(MINUTE)


@pytest.mark.parametrize(
    "asked, message",
    [
        (request(seeds=()), "0 pictures are asked for; 1 to 4"),
        (request(seeds=range(5)), "5 pictures are asked for; 1 to 4"),
        (request(sampler="fast"), "sampler is 'fast'"),
        (request(num_inference_steps=0), "num_inference_steps is 0"),
        (request(guidance=3.0), "there is no option guidance"),
        (ImageRequest("a", (1,), STEPS, None, Image.new("L", (12, 12))), "a mask is given without the image"),
        (ImageRequest("a", (1,), STEPS, Image.new("L", (12, 12)), None, 1.5), "strength is 1.5"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_others_wait_for_it(engine, asked, message):
    with pytest.raises((TypeError, ValueError), match=message):
        engine.submit(asked)
    assert engine.drawn == []


def test_an_error_ends_its_batch_alone(engine, monkeypatch):
    def fail(jobs):
        raise MemoryError("no memory")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "_generate", fail)
        with pytest.raises(MemoryError, match="no memory"):
            engine.submit(request()).pictures.result(MINUTE)
    engine.submit(request()).pictures.result(MINUTE)


def test_nothing_compiles_after_a_warm_up(caplog):
    caplog.set_level(logging.INFO, "mindone_vq")
    engine = Engine(random_pipeline(np.random.default_rng(1)), batch_sizes=(1, 2))
    engine.warm_up(sampler="ancestral", **STEPS).result(5 * MINUTE)
    assert "Compiling" in caplog.text
    caplog.clear()
    image = Image.new("RGB", (12, 12))
    asked = [request(seeds=range(count)) for count in (1, 2)]
    asked += [ImageRequest("a", (0,), STEPS, image), ImageRequest("a", (0, 1), STEPS, image, image.convert("L"))]
    for each in asked:
        engine.submit(each, preview_every=3).pictures.result(MINUTE)
    assert "Compiling" not in caplog.text
    engine.close()


def test_a_warm_up_that_fails_says_so(engine):
    with pytest.raises(ValueError, match="sampler is 'fast'"):
        engine.warm_up(sampler="fast").result(MINUTE)


def test_closing_draws_what_waits(pipe):
    engine = Engine(pipe, batch_sizes=(1, 4))
    jobs = [engine.submit(request(seeds=(i,), guidance_scale=1.0 + i)) for i in range(3)]
    engine.close()
    assert all(job.pictures.done() for job in jobs)
    with pytest.raises(RuntimeError, match="closed"):
        engine.submit(request())
