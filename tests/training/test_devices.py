"""Two processes that train one model, started by msrun as a user does it, against one."""

from pathlib import Path

import numpy as np
import pytest

from tests.msrun import msrun
from tests.training import tiny_runs as tiny

# Python imports this at every start: which process writes what below the run's folder.
WATCH = """
import os, sys

def note(event, arguments):
    if event not in ("open", "os.mkdir", "os.rename", "os.remove"):
        return
    writes = event != "open" or arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes and str(arguments[0]).startswith(os.environ["WATCHED"]):
        who = os.environ.get("MS_ROLE", "") + os.environ.get("RANK_ID", "")
        with open(os.path.join(os.environ["NOTES"], who), "a") as file:
            file.write(str(arguments[0]) + chr(10))

sys.addaudithook(note)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    return str(tiny.make_codec(tmp_path_factory.mktemp("codec") / "vqvae"))


def on_two_devices(script, settings, folder):
    """Trains; what each process of msrun wrote below the run's folder, by its role and rank."""
    watch, notes, logs = (folder / name for name in ("watch", "notes", "logs"))
    for each in (watch, notes):
        each.mkdir()
    (watch / "sitecustomize.py").write_text(WATCH)
    changes = {
        "PYTHONPATH": f"{watch}:{tiny.ROOT}",
        "WATCHED": str(settings["output"]),
        "NOTES": str(notes),
    }
    before = set(Path.cwd().iterdir())
    code, said, workers = msrun(2, tiny.example(script, settings), logs, **tiny.environment(**changes))
    assert code == 0, (said, workers)
    assert workers.keys() == {"worker_0.log", "worker_1.log"}
    assert not any("Traceback" in text for text in workers.values()), workers
    assert {path.name for path in set(Path.cwd().iterdir()) - before} <= {"watch", "notes", "logs", "two", "two.yaml"}
    return {path.name: path.read_text().splitlines() for path in notes.iterdir()}


def assert_logs_agree(folder, expected, tolerance):
    """Everything that is logged, at every step."""
    lines, expected_lines = tiny.log(folder), tiny.log(expected)
    assert [line["step"] for line in lines] == [line["step"] for line in expected_lines]
    for line, expected_line in zip(lines, expected_lines):
        assert line.keys() == expected_line.keys()
        for name in line.keys() - {"time", "images_per_second"}:
            np.testing.assert_allclose(line[name], expected_line[name], rtol=tolerance, err_msg=name)


@pytest.fixture(scope="module")
def text_on_one(data, codec, tmp_path_factory):
    """The settings of a run on one device, whose log is compared."""
    settings = tiny.text_settings(
        data,
        tmp_path_factory.mktemp("one") / "one",
        vqvae=codec,
        num_timesteps=3,
        steps=10,
        learning_rate=1e-2,
        schedule="plateau",
        plateau_window=1,
        plateau_patience=1,
        save_every=5,
    )
    tiny.run(tiny.text_training(settings))
    assert len(set(tiny.column(settings["output"], "learning_rate"))) > 1
    return settings


@pytest.mark.parametrize("accumulation", [2, pytest.param(1, marks=pytest.mark.slow)])
def test_text_to_image_on_two_devices(accumulation, text_on_one, tmp_path):
    settings = {**text_on_one, "output": tmp_path / "two", "accumulation": accumulation}
    wrote = on_two_devices(tiny.TEXT_EXAMPLE, settings, tmp_path)
    assert wrote.keys() == {"MS_WORKER0"}
    assert any("step-00000010" in line for line in wrote["MS_WORKER0"])
    assert_logs_agree(tmp_path / "two", text_on_one["output"], 1e-4)


@pytest.mark.slow
def test_a_codec_on_two_devices(data, tmp_path):
    one = tiny.codec_settings(data, tmp_path / "one", steps=12, dead_below=6.0, codebook_decay=0.7, ema_decay=0.9)
    tiny.run(tiny.codec_training(one))
    assert sum(tiny.column(tmp_path / "one", "dead_codes")[:-1]) > 0
    wrote = on_two_devices(tiny.CODEC_EXAMPLE, {**one, "output": tmp_path / "two"}, tmp_path)
    assert wrote.keys() == {"MS_WORKER0"}
    assert_logs_agree(tmp_path / "two", tmp_path / "one", 1e-3)
