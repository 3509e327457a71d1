"""examples/generate_batch.py --ray: the files of one process, also where a worker is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import mindone_vq
from tests.tiny_pipeline import random_pipeline

pytestmark = pytest.mark.serve
ROOT = Path(mindone_vq.__file__).parents[1]
PICTURES, TIMEOUT = 12, 300


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    folder = tmp_path_factory.mktemp("given")
    random_pipeline(np.random.default_rng(3)).save_pretrained(folder / "model")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"text": f"a {i}"}) + "\n" for i in range(PICTURES)))
    return folder


def command(given, output, *others):
    fixed = ("--output", output, "--model", given / "model", "--steps", 6, "--batch-size", 2, *others)
    return [sys.executable, *map(str, (ROOT / "examples/generate_batch.py", given / "prompts.jsonl", *fixed))]


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def workers_of(process):
    """The processes of a run in which Ray does a task."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if child.cmdline()[0].startswith("ray::generate"):
                found.append(child.pid)
        except (psutil.NoSuchProcess, psutil.ZombieProcess, IndexError):
            continue
    return found


def test_it_makes_the_same_files_though_a_worker_is_killed(given, tmp_path):
    subprocess.run(command(given, tmp_path / "whole"), check=True, capture_output=True, timeout=TIMEOUT)
    output = tmp_path / "on_ray"
    with open(tmp_path / "log", "w+") as log:
        on_ray = command(given, output, "--ray", "--workers", 2)
        process = subprocess.Popen(on_ray, stdout=log, stderr=subprocess.STDOUT)
        deadline, killed = time.monotonic() + TIMEOUT, None
        while process.poll() is None and time.monotonic() < deadline:
            if killed is None and list(output.glob("pictures/[!.]*")) and (workers := workers_of(process)):
                killed = workers[0]
                os.kill(killed, signal.SIGKILL)
            time.sleep(0.02)
        log.seek(0)
        assert process.poll() == 0, log.read()
    assert killed is not None
    assert content(output) == content(tmp_path / "whole")
    assert len(content(output)) == PICTURES + 1
