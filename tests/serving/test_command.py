"""``serve run mindone_vq.serving:app``, as docs/serving.md says."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from tests.tiny_pipeline import random_pipeline

pytestmark = pytest.mark.serve
ADDRESS = "http://127.0.0.1:8000"
SETTINGS = {"BATCH_SIZES": "1", "MOST_PICTURES": "1", "SAMPLERS": "ancestral", "STEPS": "8", "MOST_STEPS": "10"}
MINUTES = 5


@pytest.fixture
def served(tmp_path):
    random_pipeline(np.random.default_rng(0)).save_pretrained(tmp_path / "model")
    given = {**SETTINGS, "MODEL": str(tmp_path / "model")}
    environment = {**os.environ, **{f"MINDONE_VQ_{name}": value for name, value in given.items()}}
    command = [str(Path(sys.executable).with_name("serve")), "run", "mindone_vq.serving:app"]
    with open(tmp_path / "output", "w") as output:
        process = subprocess.Popen(command, env=environment, cwd=tmp_path, stdout=output, stderr=subprocess.STDOUT)
    yield process, tmp_path / "output"
    process.kill()


def is_ready():
    try:
        return httpx.get(f"{ADDRESS}/healthz").json().get("width") == 12  # of the tiny pipeline, and no other server's
    except httpx.HTTPError:
        return False


def test_the_command_serves_until_it_is_interrupted(served):
    process, output = served
    end = time.monotonic() + 60 * MINUTES
    while not is_ready():
        assert process.poll() is None and time.monotonic() < end, output.read_text()
        time.sleep(1)
    answer = openai.OpenAI(base_url=f"{ADDRESS}/v1", api_key="any").images.generate(prompt="a ring", n=1)
    assert len(answer.data[0].b64_json) > 100
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0
