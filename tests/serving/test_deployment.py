"""The endpoint as it is served: two replicas under Ray Serve, on this machine."""

import base64
import concurrent.futures
import io
import os
import threading
import time

import httpx
import numpy as np
import openai
import psutil
import pytest
import ray
from PIL import Image
from ray import serve

from mindone_vq import VQDiffusionInpaintPipeline, VQDiffusionPipeline
from mindone_vq.batch import KEY
from mindone_vq.serving.deployment import make_application
from mindone_vq.serving.settings import ServingSettings
from tests.tiny_pipeline import random_pipeline

pytestmark = pytest.mark.serve
KEY_OF_API, ADDRESS = "s3cret", "http://127.0.0.1:8012"
STEPS = {"steps": 8}
PROCESS = "ray::ServeReplica:mindone_vq:Replica"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    random_pipeline(np.random.default_rng(0)).save_pretrained(folder)
    return folder


def settings_for(folder, replicas=2):
    return ServingSettings(
        model=str(folder),
        api_key=KEY_OF_API,
        batch_sizes=(1, 4),
        samplers=("ancestral",),
        most_waiting=16,
        most_pictures=4,
        most_steps=10,
        steps=8,
        replicas=replicas,
        most_replicas=2,
        timeout=60,
    )


@pytest.fixture(scope="module", autouse=True)
def served(folder, tmp_path_factory):
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"working_dir": None}, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": 8012})
    serve.run(make_application(settings_for(folder)), name="mindone_vq")
    yield
    serve.shutdown()
    ray.shutdown()


@pytest.fixture
def client(folder):
    return openai.OpenAI(api_key=KEY_OF_API, base_url=f"{ADDRESS}/v1", max_retries=0)


def pictures(answer):
    return [Image.open(io.BytesIO(base64.b64decode(each.b64_json))) for each in answer.data]


def replicas():
    """The processes that draw."""
    named = psutil.process_iter(["cmdline"])
    return [each.pid for each in named if (each.info["cmdline"] or [""])[0].startswith(PROCESS)]


def ask(client, i):
    return pictures(client.images.generate(prompt=f"prompt {i}", n=1, extra_body={"seed": i, **STEPS}))[0]


def test_it_draws_what_the_pipeline_draws(client, folder):
    (picture,) = pictures(client.images.generate(prompt="stripes", extra_body={"seed": 5, **STEPS}))
    pipe = VQDiffusionPipeline.from_pretrained(folder)
    assert np.array_equal(picture, pipe("stripes", generator=[5], num_inference_steps=8)[0][0])
    assert '"seed": 5' in picture.info[KEY] and '"prompt": "stripes"' in picture.info[KEY]


def test_it_edits(client, folder, rng):
    image = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
    mask = Image.fromarray((np.arange(144).reshape(12, 12) % 12 >= 6).astype(np.uint8) * 255)
    files = []
    for each in (image, mask):
        files.append(io.BytesIO())
        each.save(files[-1], format="PNG")
        files[-1].name = "picture.png"
    answer = client.images.edit(image=files[0], mask=files[1], prompt="dots", extra_body={"seed": 3, **STEPS})
    inpaint = VQDiffusionInpaintPipeline.from_pretrained(folder)
    expected = inpaint([image], [mask], ["dots"], generator=[3], num_inference_steps=8)[0][0]
    assert np.array_equal(pictures(answer)[0], expected)


def test_errors_of_a_replica_reach_the_client(client):
    with pytest.raises(openai.BadRequestError, match="num_inference_steps is 10|steps is 11"):
        client.images.generate(prompt="a", extra_body={"steps": 11})
    with pytest.raises(openai.AuthenticationError, match="API key is missing or wrong"):
        client.with_options(api_key="wrong").images.generate(prompt="a")
    assert httpx.get(f"{ADDRESS}/healthz").json() == {"status": "ok", "width": 12, "height": 12}


def test_many_clients_lose_nothing_while_a_replica_dies(client):
    assert len(replicas()) == 2
    expected = ask(client, 3)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked = [pool.submit(ask, client, i) for i in range(60)]
        next(concurrent.futures.as_completed(asked))
        os.kill(replicas()[0], 9)
        got = [each.result() for each in asked]
    assert len(got) == 60 and np.array_equal(got[3], expected)
    deadline = time.monotonic() + 90
    while len(replicas()) < 2 and time.monotonic() < deadline:
        time.sleep(1)
    assert len(replicas()) == 2


def test_a_client_that_goes_is_forgotten(client):
    with pytest.raises(httpx.TimeoutException):
        body = {"prompt": "a", "n": 4, **STEPS}
        headers = {"authorization": f"Bearer {KEY_OF_API}"}
        httpx.post(f"{ADDRESS}/v1/images/generations", json=body, headers=headers, timeout=0.02)
    assert ask(client, 1).size == (12, 12)


def test_what_is_too_much_is_refused_and_told_when_to_come_again():
    body = {"prompt": "a", "n": 4, "steps": 10}
    headers = {"authorization": f"Bearer {KEY_OF_API}"}
    with httpx.Client(timeout=60, headers=headers) as client, concurrent.futures.ThreadPoolExecutor(60) as pool:
        asked = [pool.submit(client.post, f"{ADDRESS}/v1/images/generations", json=body) for _ in range(120)]
        answers = [each.result() for each in asked]
    refused = [each for each in answers if each.status_code != 200]
    assert refused and len(refused) < 120
    for each in refused:
        assert each.status_code in (429, 503) and each.json()["error"]["code"] == "busy"
        assert int(each.headers["retry-after"]) >= 1


def test_replicas_that_are_replaced_draw_first_what_they_have(client, folder):
    """The settings change under load; nothing is lost."""
    before, stop = set(replicas()), threading.Event()

    def ask_on(first):
        drawn = 0
        while not stop.is_set():
            ask(client, first + drawn)
            drawn += 1
        return drawn

    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        asking = [pool.submit(ask_on, 1000 * i) for i in range(4)]
        try:
            serve.run(make_application(settings_for(folder, replicas=1)), name="mindone_vq")
        finally:
            stop.set()
        assert all(each.result() for each in asking)
    assert before.isdisjoint(replicas())
