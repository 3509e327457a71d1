"""Runs that are killed, stopped by a full disk, or continued in a way that cannot work; as their user sees it."""

import errno
import os
import shutil
import signal
import time

import numpy as np
import pytest

from mindone_vq.training import checkpoint
from mindone_vq.training.checkpoint import latest_checkpoint
from mindone_vq.weights.safetensors_file import read_metadata, read_safetensors
from tests.training import tiny_runs as tiny

NOT_OF_THE_MODEL = {"checkpoints", "cache", "log.jsonl", "previews", "tensorboard", "training.yaml"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_pictures(tmp_path_factory.mktemp("data") / "pictures")


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    return str(tiny.make_codec(tmp_path_factory.mktemp("codec") / "vqvae"))


def long_text_settings(data, codec, output):
    """All that a checkpoint has to hold: sums, averages, a plateau, losses that soon decide which timesteps come."""
    return tiny.text_settings(
        data,
        output,
        vqvae=codec,
        steps=24,
        num_timesteps=3,
        learning_rate=1e-2,
        accumulation=2,
        ema_decay=0.9,
        ema_every=2,
        schedule="plateau",
        plateau_window=3,
        plateau_patience=1,
        log_every=2,
        save_every=5,
    )


def long_codec_settings(data, output):
    """As above: a codebook that starts on the way, dead codes, chance in the pictures."""
    return tiny.codec_settings(
        data,
        output,
        steps=40,
        quantize_from=7,
        dead_below=6.0,
        codebook_decay=0.7,
        crop="random",
        flip=True,
        ema_decay=0.9,
        save_every=8,
    )


@pytest.fixture(scope="module")
def text_run(data, codec, tmp_path_factory):
    """The settings of a run that nobody interrupts."""
    settings = long_text_settings(data, codec, tmp_path_factory.mktemp("text") / "whole")
    code, said = tiny.finish(tiny.TEXT_EXAMPLE, settings, "--resume")  # nothing is there yet: it just starts
    assert code == 0, said
    assert "holds no checkpoint: the run starts from the beginning" in said
    return settings


def kill_when(process, condition, after=0.0):
    """Ends a process by force as soon as a condition holds."""
    deadline = time.monotonic() + tiny.TIMEOUT
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def lines_logged(folder):
    path = folder / "log.jsonl"
    return path.read_bytes().count(b"\n") if path.is_file() else -1


def is_writing_checkpoint(folder, step):
    folder = folder / "checkpoints"
    return folder.is_dir() and any(f"step-{step:08d}" in name for name in os.listdir(folder))


def model_files(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in files
        if path.relative_to(folder).parts[0] not in NOT_OF_THE_MODEL
    }


def assert_same_end(folder, expected):
    """The same model and the same last checkpoint, to the bit; each logged step once."""
    ours, theirs = (latest_checkpoint(each / "checkpoints") for each in (folder, expected))
    assert ours.name == theirs.name
    tensors, expected_tensors = read_safetensors(ours), read_safetensors(theirs)
    assert tensors.keys() == expected_tensors.keys()
    different = [
        name
        for name, tensor in tensors.items()
        if tensor.read_stored().tobytes() != expected_tensors[name].read_stored().tobytes()
    ]
    assert not different
    assert read_metadata(ours)["state"] == read_metadata(theirs)["state"]
    assert model_files(folder) == model_files(expected)
    assert tiny.column(folder, "step") == tiny.column(expected, "step")


@pytest.mark.slow
def test_text_to_image_that_was_killed_ends_as_if_it_had_not_been(text_run, tmp_path):
    settings = {**text_run, "output": tmp_path / "killed"}
    folder = settings["output"]
    first = tiny.start(tiny.TEXT_EXAMPLE, settings)
    kill_when(first, lambda: lines_logged(folder) == 0, after=0.3)  # while it compiles
    second = tiny.start(tiny.TEXT_EXAMPLE, settings, "--resume")
    kill_when(second, lambda: is_writing_checkpoint(folder, 15))
    code, said = tiny.finish(tiny.TEXT_EXAMPLE, settings, "--resume")
    assert code == 0, said
    assert "Continuing from" in said
    assert_same_end(folder, text_run["output"])
    assert tiny.column(folder, "step") == list(range(2, 25, 2))
    # The run has been where a forgotten state would show.
    last = latest_checkpoint(text_run["output"] / "checkpoints")
    assert (read_safetensors(last)["array:timestep_counts"].read_stored() > 10).all()
    assert '"waited"' in read_metadata(last)["state"]
    assert len(set(tiny.column(folder, "learning_rate"))) > 1


@pytest.mark.slow
def test_a_codec_that_was_killed_ends_as_if_it_had_not_been(data, tmp_path):
    whole, killed = (long_codec_settings(data, tmp_path / name) for name in ("whole", "killed"))
    code, said = tiny.finish(tiny.CODEC_EXAMPLE, whole)
    assert code == 0, said
    assert sum(line["dead_codes"] for line in tiny.log(whole["output"])[7:]) > 0
    process = tiny.start(tiny.CODEC_EXAMPLE, killed)
    kill_when(process, lambda: lines_logged(killed["output"]) >= 20)  # between two checkpoints
    code, said = tiny.finish(tiny.CODEC_EXAMPLE, killed, "--resume")
    assert code == 0, said
    assert "Continuing from" in said
    assert_same_end(killed["output"], whole["output"])


def refused(settings, *options):
    """The line with which a run is refused."""
    before = model_files(settings["output"])
    code, said = tiny.finish(tiny.TEXT_EXAMPLE, settings, *options)
    assert code == 1, said
    assert "Traceback" not in said
    assert model_files(settings["output"]) == before
    return said.strip().splitlines()[-1]


def test_a_folder_with_a_run_is_not_overwritten(text_run):
    line = refused(text_run)
    assert line.startswith("ValueError: ")
    assert "holds a run already: continue it with --resume, or choose another folder" in line


def test_a_run_is_not_continued_with_other_settings(text_run):
    line = refused({**text_run, "learning_rate": 0.5, "batch_size": 16, "log_every": 1}, "--resume")
    assert line.startswith("ValueError: ")
    assert "batch_size was 8 and is 16; learning_rate was 0.01 and is 0.5." in line


def test_a_damaged_checkpoint_is_passed_over(text_run, tmp_path):
    folder = tmp_path / "damaged"
    shutil.copytree(text_run["output"], folder)
    last = latest_checkpoint(folder / "checkpoints")
    content = bytearray(last.read_bytes())
    content[-1] ^= 1
    last.write_bytes(content)
    code, said = tiny.finish(tiny.TEXT_EXAMPLE, {**text_run, "output": folder}, "--resume")
    assert code == 0, said
    assert f"{last} is damaged" in said
    assert "Continuing from" in said
    assert_same_end(folder, text_run["output"])


def test_a_full_disk_leaves_what_was_saved_before(data, codec, tmp_path, monkeypatch):
    settings = tiny.text_settings(data, tmp_path / "run", vqvae=codec, save_every=2)
    checkpoints = tmp_path / "run" / "checkpoints"
    write = checkpoint._write

    def until_the_disk_is_full(file, header, tensors):
        if latest_checkpoint(checkpoints) is not None:
            file.write(header[: len(header) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(file, header, tensors)

    monkeypatch.setattr(checkpoint, "_write", until_the_disk_is_full)
    with pytest.raises(OSError, match="No space left on device.*earlier ones are intact; make room") as caught:
        tiny.run(tiny.text_training(settings))
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000002.safetensors"]
    monkeypatch.setattr(checkpoint, "_write", write)
    training = tiny.text_training({**settings, "resume": True})
    steps, advance = [], training.advance
    training.advance = lambda: (steps.append(training.step), advance())[1]
    training.run()
    assert steps == [2, 3, 4, 5]
    assert tiny.column(tmp_path / "run", "step") == [1, 2, 3, 4, 5, 6]
    assert np.isfinite(tiny.column(tmp_path / "run", "loss")).all()
