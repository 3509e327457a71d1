import json
import logging
import struct
import sys
import time

import numpy as np
import pytest
from PIL import Image

from mindone_vq.training.logs import TrainingLog

RED = Image.new("RGB", (4, 3), "red")


@pytest.fixture
def without_tensorboard(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)


def lines(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def steps(folder):
    return [line["step"] for line in lines(folder)]


def events(folder):
    """Everything in the event files, oldest file first."""
    event_pb2 = pytest.importorskip("tensorboardX.proto.event_pb2")
    for path in sorted((folder / "tensorboard").iterdir(), key=lambda path: int(path.name.rpartition(".")[2])):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack("<Q", content[:8])
            yield event_pb2.Event.FromString(content[12 : 12 + length])  # after the length, its checksum
            content = content[16 + length :]  # and after the event, its own


def test_a_line_per_step_as_soon_as_it_is_logged(tmp_path, without_tensorboard):
    before = time.time() - 0.001
    with TrainingLog(tmp_path / "new" / "run") as log:
        log.scalars(1, {"loss": np.float32(0.5), "images/s": 3})
        log.scalars(2, {"loss": float("nan")})
        first, second = lines(tmp_path / "new" / "run")
    log.scalars(3, {"loss": 1.0})
    assert before <= first.pop("time") <= time.time() + 0.001
    assert first == {"step": 1, "loss": 0.5, "images/s": 3.0}
    assert (second["step"], second["loss"]) == (2, None)
    assert steps(tmp_path / "new" / "run") == [1, 2]


@pytest.mark.parametrize(
    "torn",
    ["", '{"step": 2, "ti', '{"step": 2}', "\0\0\0", "3\n", '{"step": null}\n', '{"loss": 1}\n'],
    ids=["nothing", "half", "no newline", "zeros", "a number", "null", "no step"],
)
def test_a_resumed_log_has_no_step_twice_and_no_torn_line(torn, tmp_path, without_tensorboard):
    with TrainingLog(tmp_path) as log:
        for step in (1, 2, 2, 3, 4):
            log.scalars(step, {"loss": step})
    with open(tmp_path / "log.jsonl", "a") as file:
        file.write(torn)
    with TrainingLog(tmp_path, step=2) as log:
        log.scalars(3, {"loss": -3})
    kept = [1, 2, 2, 2, 3] if torn == '{"step": 2}' else [1, 2, 2, 3]
    assert steps(tmp_path) == kept
    assert lines(tmp_path)[-1]["loss"] == -3
    assert [path.name for path in tmp_path.iterdir()] == ["log.jsonl"]


def test_a_start_from_nothing_empties_the_log(tmp_path, without_tensorboard):
    for _ in range(2):
        with TrainingLog(tmp_path) as log:
            log.scalars(0, {"loss": 1})
            log.scalars(1, {"loss": 1})
    assert steps(tmp_path) == [0, 1]


def test_the_old_log_stays_if_the_new_one_cannot_be_written(tmp_path, without_tensorboard, monkeypatch):
    with TrainingLog(tmp_path) as log:
        log.scalars(1, {"loss": 1})
    with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
        patch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
        TrainingLog(tmp_path, step=0)
    assert steps(tmp_path) == [1]


def test_pictures_are_written_whole(tmp_path, without_tensorboard):
    with TrainingLog(tmp_path) as log:
        log.picture(20, "a_red-one", RED)
    assert [path.name for path in (tmp_path / "previews").iterdir()] == ["a_red-one-20.png"]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "previews" / "a_red-one-20.png")), np.asarray(RED))


def test_tensorboard_has_the_same_and_hides_what_is_done_again(tmp_path):
    pytest.importorskip("tensorboardX")
    with TrainingLog(tmp_path) as log:
        for step in (1, 2, 3):
            log.scalars(step, {"loss": step / 2, "images/s": 8})
        log.picture(3, "preview", RED.convert("L"))
    with TrainingLog(tmp_path, step=2) as log:  # within the same second: the first file must stay
        log.scalars(3, {"loss": -1})
    scalars, pictures, starts = [], [], []
    for event in events(tmp_path):
        if event.HasField("session_log"):
            starts.append((event.step, len(scalars)))
        for value in event.summary.value:
            if value.HasField("image"):
                pictures.append((event.step, value.tag, value.image.height, value.image.width))
            else:
                scalars.append((event.step, value.tag, value.simple_value))
    rates = [(step, "images/s", 8.0) for step in (1, 2, 3)]
    losses = [(1, "loss", 0.5), (2, "loss", 1.0), (3, "loss", 1.5), (3, "loss", -1.0)]
    assert sorted(scalars) == sorted(rates + losses)
    assert pictures == [(3, "preview", 3, 4)]
    assert starts == [(0, 0), (3, 6)]  # TensorBoard drops what an earlier file has from the step of a start on


def test_without_tensorboard_one_warning_says_how_to_install_it(tmp_path, without_tensorboard, caplog):
    with caplog.at_level(logging.WARNING), TrainingLog(tmp_path) as log:
        for step in (1, 2):
            log.scalars(step, {"loss": 1})
            log.picture(step, "preview", RED)
    assert [record.message for record in caplog.records] == [
        "tensorboardX is not installed: nothing is written for TensorBoard, log.jsonl has the same scalars. "
        "To have both: pip install tensorboardX"
    ]
    assert steps(tmp_path) == [1, 2]
    assert len(list((tmp_path / "previews").iterdir())) == 2
    assert not (tmp_path / "tensorboard").exists()


def test_the_other_processes_write_nothing(tmp_path, without_tensorboard, caplog):
    with TrainingLog(tmp_path / "run", enabled=False) as log:
        log.scalars(1, {"loss": 1})
        log.picture(1, "preview", RED)
    assert list(tmp_path.iterdir()) == []
    assert caplog.records == []
