"""The HTTP API over a backend that draws nothing: what is accepted, refused, and answered."""

import asyncio
import base64
import io
import struct
import time
import zlib

import httpx
import numpy as np
import openai
import pytest
from PIL import Image
from starlette.testclient import TestClient

from mindone_vq.diffusion.samplers import SAMPLERS
from mindone_vq.serving import settings
from mindone_vq.serving.api import make_app
from mindone_vq.serving.errors import APIError
from mindone_vq.serving.settings import ServingSettings
from mindone_vq.weights.pretrained import FLOAT_TYPES

pytestmark = pytest.mark.serve
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
SETTINGS = ServingSettings(most_bytes=100_000, most_pixels=10_000, most_steps=50, steps=20, timeout=5)


class Recorder:
    """A backend that keeps the requests, and answers with a byte for each seed."""

    def __init__(self):
        self.requests, self.error = [], None

    async def generate(self, request):
        self.requests.append(request)
        if self.error:
            raise self.error
        return [bytes([seed % 256]) for seed in request.seeds]

    async def describe(self):
        return {"width": 64, "height": 64}


@pytest.fixture
def backend():
    return Recorder()


@pytest.fixture
def client(backend):
    return TestClient(make_app(backend, SETTINGS))


def png(picture, **options):
    file = io.BytesIO()
    picture.save(file, format="PNG", **options)
    return file.getvalue()


def test_the_openai_client_works_unchanged(backend):
    async def ask():
        transport = httpx.ASGITransport(make_app(backend, SETTINGS))
        async with httpx.AsyncClient(transport=transport) as http:
            client = openai.AsyncOpenAI(api_key="any", base_url="http://local/v1", http_client=http, max_retries=0)
            made = await client.images.generate(
                model="shapes", prompt="a ring", n=2, size="64x64", extra_body={"seed": 7, "steps": 10, "guidance": 2}
            )
            picture = png(Image.new("RGB", (64, 64), "red"))
            mask = png(Image.new("RGBA", (64, 64), (0, 0, 0, 0)))
            await client.images.edit(image=picture, mask=mask, prompt="a cross", extra_body={"seed": 3})
            models = [each.id async for each in client.models.list()]
            with pytest.raises(openai.BadRequestError, match="Unknown parameter: 'colour'"):
                await client.images.generate(prompt="a ring", extra_body={"colour": 1})
            with pytest.raises(openai.NotFoundError, match="There is no model 'dall-e-3' here"):
                await client.images.generate(prompt="a ring", model="dall-e-3")
            return made, models

    made, models = asyncio.run(ask())
    assert [base64.b64decode(each.b64_json) for each in made.data] == [b"\x07", b"\x08"]
    assert abs(made.created - time.time()) < 60 and models == ["shapes"]
    drawn, edited = backend.requests
    assert (drawn.prompt, drawn.seeds, drawn.image) == ("a ring", (7, 8), None)
    assert drawn.options == {"num_inference_steps": 10, "guidance_scale": 2.0, "sampler": "ancestral"}
    assert (edited.prompt, edited.seeds) == ("a cross", (3,))
    assert edited.image.size == (64, 64) and edited.mask.getextrema() == (255, 255)


def test_seeds_are_drawn_where_none_is_given(client, backend):
    answers = [client.post(GENERATIONS, json={"prompt": "a", "n": 2}).json()["data"] for _ in range(2)]
    first, second = (tuple(each["seed"] for each in data) for data in answers)
    assert first != second and first[1] == first[0] + 1
    assert [request.seeds for request in backend.requests] == [first, second]
    assert backend.requests[0].options == {"num_inference_steps": 20, "sampler": "ancestral"}


@pytest.mark.parametrize(
    "body, status, parameter, message",
    [
        ({}, 400, "prompt", "Missing required parameter: 'prompt'."),
        ({"prompt": ""}, 400, "prompt", "prompt is ''"),
        ({"prompt": ["a"]}, 400, "prompt", "prompt is ['a']"),
        ({"prompt": "a" * 2001}, 400, "prompt", "at most 2000 characters"),
        ({"prompt": "a", "n": 0}, 400, "n", "n is 0"),
        ({"prompt": "a", "n": 10**6}, 400, "n", "n is 1000000; this endpoint gives at most 10."),
        ({"prompt": "a", "n": "2"}, 400, "n", "n is '2'"),
        ({"prompt": "a", "steps": 51}, 400, "steps", "steps is 51; this endpoint gives at most 50."),
        ({"prompt": "a", "seed": -1}, 400, "seed", "seed is -1"),
        ({"prompt": "a", "guidance": 1e9}, 400, "guidance", "guidance is 1000000000.0"),
        ({"prompt": "a", "sampler": "halton"}, 400, "sampler", "this endpoint has ancestral, confidence"),
        ({"prompt": "a", "spacing": "odd"}, 400, "spacing", "spacing is 'odd'"),
        ({"prompt": "a", "size": "1024x1024"}, 400, "size", "this model draws 64x64"),
        ({"prompt": "a", "model": "x"}, 404, "model", "There is no model 'x' here; this endpoint has 'shapes'."),
        ({"prompt": "a", "response_format": "url"}, 400, "response_format", "response_format is 'url'"),
        ({"prompt": "a", "stream": True}, 400, "stream", "stream is True"),
        ({"prompt": "a", "strength": 0.5}, 400, "strength", "Unknown parameter: 'strength'."),
        (["prompt"], 400, None, "The body is a list; send a JSON object."),
    ],
)
def test_bad_fields_are_refused_in_the_form_of_openai(client, backend, body, status, parameter, message):
    answer = client.post(GENERATIONS, json=body)
    error = answer.json()["error"]
    assert answer.status_code == status and error["param"] == parameter and message in error["message"]
    assert error["type"] == "invalid_request_error" and len(error["message"]) < 300
    assert backend.requests == []


def test_broken_bodies_are_refused(client, backend):
    broken = client.post(GENERATIONS, content=b'{"prompt": ', headers={"content-type": "application/json"})
    assert broken.status_code == 400 and "The body is not JSON" in broken.json()["error"]["message"]
    large = client.post(GENERATIONS, json={"prompt": "a" * 200_000})
    assert large.status_code == 413 and "more than 100000 bytes" in large.json()["error"]["message"]
    nowhere = client.get("/v1/nothing")
    assert nowhere.status_code == 404 and nowhere.json()["error"]["message"].startswith("GET /v1/nothing: ")
    assert client.get(GENERATIONS).status_code == 405
    assert backend.requests == []


def test_a_key_is_asked_for(backend):
    client = TestClient(make_app(backend, ServingSettings(api_key="s3cret")))
    for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer é".encode()}):
        for answer in (
            client.post(GENERATIONS, json={"prompt": "a"}, headers=headers),
            client.get("/v1/models", headers=headers),
        ):
            assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
    assert backend.requests == []
    assert client.post(GENERATIONS, json={"prompt": "a"}, headers={"authorization": "Bearer s3cret"}).status_code == 200
    assert client.get("/healthz").json() == {"status": "ok", "width": 64, "height": 64}


def edit(client, files, **fields):
    return client.post(EDITS, data={"prompt": "a", **fields}, files=files)


def test_what_is_transparent_is_painted(client, backend):
    half = np.full((8, 8, 4), 255, np.uint8)
    half[:, 4:, 3] = 0
    transparent, plain = Image.fromarray(half), Image.new("RGB", (8, 8), "blue")
    white = Image.fromarray((np.arange(64).reshape(8, 8) % 8 >= 4).astype(np.uint8) * 255)
    cases = [{"image": plain, "mask": transparent}, {"image": transparent}, {"image": plain, "mask": white}]
    for files in cases:
        assert edit(client, {name: png(each) for name, each in files.items()}).status_code == 200
    for request in backend.requests:
        assert np.array_equal(np.asarray(request.mask) >= 128, np.arange(64).reshape(8, 8) % 8 >= 4)
    assert edit(client, {"image": png(plain)}, strength="0.25", steps="7").status_code == 200
    last = backend.requests[-1]
    assert last.mask is None and last.strength == 0.25 and last.options["num_inference_steps"] == 7


def bomb(side):
    """A PNG of a kilobyte that says it has side x side pixels."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 100_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "files, fields, message",
    [
        ({}, {}, "Send the picture to edit as the file 'image'."),
        ({"image": b"no picture"}, {}, "image cannot be read as a PNG, JPEG or WebP"),
        ({"image": bomb(5_000)}, {}, "image has 5000 x 5000 pixels; at most 10000"),
        ({"image": bomb(60_000)}, {}, "could be decompression bomb"),
        ({"image": bomb(90)[:60]}, {}, "image cannot be read as a PNG"),
        (
            {"image": png(Image.new("L", (8, 8))), "mask": png(Image.new("L", (9, 8)))},
            {},
            "The mask is 9 x 8, the image",
        ),
        ({"image": png(Image.new("L", (8, 8))), "other": b""}, {}, "Unknown file 'other'"),
        ({"image": png(Image.new("L", (8, 8)))}, {"strength": "2"}, "strength is '2'"),
        ({"image": png(Image.new("L", (8, 8)))}, {"colour": "2"}, "Unknown parameter: 'colour'."),
    ],
)
def test_bad_edits_are_refused(client, backend, files, fields, message):
    answer = edit(client, files or {"nothing": ("", b"")}, **fields)
    assert answer.status_code == 400 and message in answer.json()["error"]["message"]
    assert backend.requests == []


def test_a_backend_that_is_busy_or_slow_is_an_honest_answer(backend):
    client = TestClient(make_app(backend, ServingSettings(timeout=0.2)))
    backend.error = APIError(429, "busy", code="busy", retry_after=6.6)
    answer = client.post(GENERATIONS, json={"prompt": "a"})
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "7")
    assert answer.json()["error"] == {"message": "busy", "type": "server_error", "param": None, "code": "busy"}

    async def never(request):
        await asyncio.sleep(60)

    backend.generate = never
    answer = client.post(GENERATIONS, json={"prompt": "a"})
    assert answer.status_code == 504 and "Not drawn within 0.2 s" in answer.json()["error"]["message"]


def test_what_settings_may_name_is_what_there_is():
    assert set(settings.SAMPLERS) == set(SAMPLERS) and set(settings.FLOAT_TYPES) == set(FLOAT_TYPES)


def test_settings_come_from_the_environment():
    given = {"MINDONE_VQ_MODEL": "me/model", "MINDONE_VQ_BATCH_SIZES": "2, 8", "MINDONE_VQ_MOST_PICTURES": "8"}
    read = ServingSettings.from_environment({**given, "MINDONE_VQ_TIMEOUT": "7.5", "MINDONE_VQ_API_KEY": ""})
    assert (read.model, read.batch_sizes, read.timeout) == ("me/model", (2, 8), 7.5)
    assert read.samplers == ("ancestral", "confidence") and read.api_key == ""
    for variables, message in (
        ({"MINDONE_VQ_TIMEOUT": "soon"}, "MINDONE_VQ_TIMEOUT is 'soon'"),
        ({"MINDONE_VQ_BATCH_SIZES": "1,4"}, "most_pictures is 10, more than the largest of batch_sizes, 4"),
        ({"MINDONE_VQ_DTYPE": "half"}, "dtype is 'half'; it must be float32, float16, bfloat16"),
        ({"MINDONE_VQ_SAMPLERS": "ancestral,euler"}, "samplers has 'euler'; there are ancestral"),
        ({"MINDONE_VQ_REPLICAS": "2"}, "most_replicas is 1, fewer than the 2 of replicas"),
    ):
        with pytest.raises(ValueError, match=message):
            ServingSettings.from_environment(variables)
