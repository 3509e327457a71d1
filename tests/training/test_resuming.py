"""Runs that are cut off, stopped by a full disk, or continued in a way that cannot work."""

import errno
import os
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from mindone_vq.training import run as run_module
from mindone_vq.training.checkpoint import latest_checkpoint
from mindone_vq.training.run_settings import RunSettings
from mindone_vq.training.update.updates import NotFiniteError
from mindone_vq.weights.safetensors_file import read_metadata, read_safetensors
from tests.training import tiny_runs as tiny
from tests.training.regression import SETTINGS, RegressionTraining

NOT_OF_THE_MODEL = {"checkpoints", "cache", "log.jsonl", "previews", "tensorboard", "training.yaml"}
# all that a checkpoint has to hold: sums, averages, a loss scale, a plateau in the middle of its window
LONG = dict(
    steps=11,
    accumulation=2,
    ema_decay=0.9,
    ema_every=2,
    precision="float16",
    schedule="plateau",
    plateau_window=3,
    plateau_patience=1,
    plateau_factor=0.3,
    log_every=1,
    save_every=4,
    preview_every=5,
)


def settings(output, **changes):
    return RunSettings(**{**SETTINGS, **LONG, "output": Path(output), **changes})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that was not interrupted."""
    training = RegressionTraining(settings(tmp_path_factory.mktemp("whole")))
    training.run()
    return training


def assert_same_end(folder, expected):
    """The same last checkpoint, to the bit, and the same model; each logged step once."""
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


def model_files(folder):
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {str(path): (folder / path).read_bytes() for path in files if path.parts[0] not in NOT_OF_THE_MODEL}


def test_a_run_leaves_log_previews_checkpoints_and_the_model(whole):
    folder = whole.settings.output
    assert tiny.column(folder, "step") == list(range(1, 12))
    assert sorted(path.name for path in (folder / "previews").iterdir()) == ["preview-10.png", "preview-5.png"]
    names = [f"step-{step:08d}.safetensors" for step in (4, 8, 11)]
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == names
    assert whole.events == [
        *[(event, step) for step in (5, 10) for event in ("previews", "save")],
        ("save", 11),
        ("close", 11),
    ]
    assert "accumulation: 2" in (folder / "training.yaml").read_text()


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(whole, tmp_path):
    first = RegressionTraining(settings(tmp_path / "cut"), fails_at=7)
    with pytest.raises(OSError, match="no data"):
        first.run()
    assert first.events[-1] == ("close", 7)
    again = RegressionTraining(settings(tmp_path / "cut", resume=True))
    again.run()
    assert_same_end(tmp_path / "cut", whole.settings.output)
    assert again.events[0] == ("previews", 5)  # from step 4 on
    assert len(set(tiny.column(tmp_path / "cut", "learning_rate"))) > 1


def test_a_damaged_checkpoint_is_passed_over(whole, tmp_path, caplog):
    shutil.copytree(whole.settings.output, tmp_path / "damaged")
    last = latest_checkpoint(tmp_path / "damaged" / "checkpoints")
    content = bytearray(last.read_bytes())
    content[-40] ^= 1
    last.write_bytes(content)
    RegressionTraining(settings(tmp_path / "damaged", resume=True)).run()
    assert f"{last} is damaged" in caplog.text
    assert_same_end(tmp_path / "damaged", whole.settings.output)


def test_a_folder_with_a_run_is_not_overwritten(whole):
    with pytest.raises(ValueError, match="holds a run already: continue it with --resume, or choose another folder"):
        RegressionTraining(settings(whole.settings.output)).run()


def test_a_run_is_not_continued_with_other_settings(whole):
    changed = dict(learning_rate=0.5, batch_size=24, log_every=3, keep=1, steps=20, resume=True)
    with pytest.raises(ValueError, match=r"batch_size was 12 and is 24; learning_rate was 0.01 and is 0.5\."):
        RegressionTraining(settings(whole.settings.output, **changed)).run()


def test_a_gradient_that_is_not_finite_ends_the_run(tmp_path):
    given = settings(tmp_path, precision="float32", learning_rate=1e30, schedule="constant", save_every=1)
    training = RegressionTraining(given)
    with pytest.raises(NotFiniteError, match="step .*Nothing was changed by this step.*lower learning rate"):
        training.run()
    last = latest_checkpoint(tmp_path / "checkpoints")
    assert all(np.isfinite(tensor.read_stored()).all() for tensor in read_safetensors(last).values())
    assert ("save", training.step) not in training.events and training.events[-1][0] == "close"


def test_a_full_disk_leaves_what_was_saved_before(tmp_path, monkeypatch):
    save = run_module.save_checkpoint

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def until_the_disk_is_full(folder, step, *others):
        with monkeypatch.context() as patch:
            if latest_checkpoint(folder) is not None:
                patch.setattr(os, "fsync", full)
            return save(folder, step, *others)

    monkeypatch.setattr(run_module, "save_checkpoint", until_the_disk_is_full)
    with pytest.raises(OSError, match="No space left on device.*earlier ones are intact; make room") as caught:
        RegressionTraining(settings(tmp_path)).run()
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000004.safetensors"]


def long_text_settings(data, vqvae, output):
    """As ``LONG``, for text to image; losses soon decide which timesteps come."""
    return tiny.text_settings(
        data,
        output,
        vqvae=vqvae,
        steps=24,
        num_timesteps=3,
        learning_rate=1e-2,
        accumulation=2,
        ema_decay=0.9,
        ema_every=2,
        schedule="plateau",
        plateau_window=1,
        plateau_patience=1,
        log_every=2,
        save_every=5,
    )


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


@pytest.mark.slow
def test_text_to_image_that_was_killed_ends_as_if_it_had_not_been(tmp_path):
    data, vqvae = tiny.make_pictures(tmp_path / "pictures"), str(tiny.make_vqvae(tmp_path / "vqvae"))
    whole, killed = (long_text_settings(data, vqvae, tmp_path / name) for name in ("whole", "killed"))
    code, output = tiny.finish(tiny.TEXT_EXAMPLE, whole, "--resume")  # nothing is there yet: it just starts
    assert code == 0, output
    assert "holds no checkpoint: the run starts from the beginning" in output
    folder = killed["output"]
    first = tiny.start(tiny.TEXT_EXAMPLE, killed)
    kill_when(first, lambda: lines_logged(folder) == 0, after=0.3)  # while it compiles
    second = tiny.start(tiny.TEXT_EXAMPLE, killed, "--resume")
    kill_when(second, lambda: is_writing_checkpoint(folder, 15))
    code, output = tiny.finish(tiny.TEXT_EXAMPLE, killed, "--resume")
    assert code == 0, output
    assert "Continuing from" in output
    assert_same_end(folder, whole["output"])
    assert tiny.column(folder, "step") == list(range(2, 25, 2))
    # The run has been where a forgotten state would show.
    last = latest_checkpoint(whole["output"] / "checkpoints")
    assert (read_safetensors(last)["array:timestep_counts"].read_stored() > 10).all()
    assert '"waited"' in read_metadata(last)["state"]
    assert len(set(tiny.column(folder, "learning_rate"))) > 1


@pytest.mark.slow
def test_a_vqvae_that_was_killed_ends_as_if_it_had_not_been(tmp_path):
    """A codebook that starts on the way, dead codes, random crops and flips."""
    data = tiny.make_pictures(tmp_path / "pictures")
    changes = dict(steps=40, quantize_from=7, dead_below=6.0, codebook_decay=0.7, crop="random", flip=True)
    whole, killed = (
        tiny.vqvae_settings(data, tmp_path / name, ema_decay=0.9, save_every=8, **changes)
        for name in ("whole", "killed")
    )
    code, output = tiny.finish(tiny.VQVAE_EXAMPLE, whole)
    assert code == 0, output
    order = ["training step of VQVAELoss", "average of the weights", "encoder", "average of the codebook"]
    assert re.findall(r"Compiling the (.+) \.\.\.", output) == order
    assert sum(line["dead_codes"] for line in tiny.log(whole["output"])[7:]) > 0
    process = tiny.start(tiny.VQVAE_EXAMPLE, killed)
    kill_when(process, lambda: lines_logged(killed["output"]) >= 20)  # between two checkpoints
    code, output = tiny.finish(tiny.VQVAE_EXAMPLE, killed, "--resume")
    assert code == 0, output
    assert "Continuing from" in output
    assert_same_end(killed["output"], whole["output"])
