"""examples/generate_batch.py: in one process, in several, killed and continued."""

import importlib
import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import mindone_vq
from mindone_vq import VQDiffusionPipeline
from mindone_vq.batch import Picture, batches_of, default_batch_size, generate_batch
from tests.msrun import TIMEOUT, msrun
from tests.tiny_pipeline import random_pipeline

ROOT = Path(mindone_vq.__file__).parents[1]
EXAMPLE = str(ROOT / "examples/generate_batch.py")
# Nine pictures in batches of two: the last batch is filled up. One prompt has an id and a seed of its own.
LINES = [
    {"text": f"{what} on {ground}"} for ground in ("red", "blue") for what in ("stripes", "dots", "a cross", "waves")
]
LINES = [*LINES[:3], {"text": "a bear", "seed": 7, "id": "bear"}, *LINES[3:]]
COUNT, BATCH_SIZE, STEPS, SEED = len(LINES), 2, 6, 5

# Python imports this at every start: the process with the rank kills itself before it renames its n-th file in the
# folder, which is then written but still has its temporary name.
KILL = """
import os, signal, sys

rank, left = (int(number) for number in os.environ["KILL"].split(":"))

def look(event, arguments):
    global left
    mine = os.environ.get("MS_ROLE") != "MS_SCHED" and int(os.environ.get("RANK_ID", "0")) == rank
    if event == "os.rename" and mine and str(arguments[1]).startswith(os.environ["WATCHED"]):
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(look)
"""


@pytest.fixture(scope="module")
def pipe():
    return random_pipeline(np.random.default_rng(3))


@pytest.fixture(scope="module")
def given(pipe, tmp_path_factory):
    """A folder with a model and a file of prompts."""
    folder = tmp_path_factory.mktemp("given")
    pipe.save_pretrained(folder / "model")
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, LINES)))
    return folder


@pytest.fixture
def example(pipe, monkeypatch):
    """The module of the example, which generates with the compiled graphs of ``pipe``."""
    monkeypatch.syspath_prepend(ROOT / "examples")
    monkeypatch.setattr(VQDiffusionPipeline, "from_pretrained", lambda *_, **__: VQDiffusionPipeline.from_pipe(pipe))
    return importlib.import_module("generate_batch")


@pytest.fixture(scope="module")
def folders(given):
    """Holds the folder that one process makes."""
    return given / "whole"


@pytest.fixture
def whole(example, given, folders):
    if not folders.exists():
        example.main(arguments(given, folders))
    return folders


def arguments(given, output, *others):
    fixed = ("--model", given / "model", "--steps", STEPS, "--batch-size", BATCH_SIZE, "--seed", SEED)
    return [str(argument) for argument in (given / "prompts.jsonl", "--output", output, *fixed, *others)]


def environment(folder, output, kill):
    """``kill`` as "rank:file" kills this process at this file."""
    paths = [str(ROOT)]
    if kill:
        folder.mkdir(exist_ok=True)
        (folder / "sitecustomize.py").write_text(KILL)
        paths.insert(0, str(folder))
    return {"PYTHONPATH": ":".join(paths), "GLOG_v": "3", "KILL": kill, "WATCHED": str(output)}


def on_one(given, output, kill=""):
    """Exit code and output of the command."""
    process = subprocess.run(
        [sys.executable, EXAMPLE, *arguments(given, output)],
        env={**os.environ, **environment(given / "kill", output, kill)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT,
    )
    return process.returncode, process.stdout


def on_several(count, given, output, tmp_path, kill=""):
    """The same by msrun, and the output of each process by its rank."""
    logs = tmp_path / f"logs{len(list(tmp_path.glob('logs*')))}"
    before = sorted({*Path.cwd().iterdir()} - {output})
    command = [EXAMPLE, *arguments(given, output)]
    code, output_text, workers = msrun(count, command, logs, **environment(given / "kill", output, kill))
    assert sorted({*Path.cwd().iterdir()} - {output, logs}) == before
    assert sorted(path.name for path in logs.iterdir()) == ["scheduler.log", *sorted(workers)]
    assert (logs / "scheduler.log").read_text() == ""
    assert len(workers) == count
    return code, output_text, [workers[f"worker_{rank}.log"] for rank in range(count)]


def content(folder):
    """Every file below a folder, hidden files too."""
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def stamps(folder):
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.glob("pictures/[!.]*")}


def assert_continued(before, folder):
    """The pictures that existed are unchanged, and all others exist."""
    now = stamps(folder)
    assert len(now) == COUNT
    assert {name: now[name] for name in before} == before


def test_the_command_makes_what_the_pipeline_makes(example, given, pipe, folders, capfd, caplog):
    caplog.set_level(logging.INFO, "mindone_vq")
    example.main(arguments(given, folders))
    assert caplog.text.count("Compiling the denoising step") == 1
    output = capfd.readouterr()
    assert f"{COUNT}/{COUNT}" in output.err
    assert f"All {COUNT} pictures are in {folders}." in output.out
    assert sorted(path.name for path in folders.iterdir()) == ["manifest.jsonl", "pictures"]
    lines = [json.loads(line) for line in (folders / "manifest.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == [line["text"] for line in LINES]
    assert [line["seed"] for line in lines] == [5, 6, 7, 7, 9, 10, 11, 12, 13]
    names = [f"pictures/{i:06d}.png" for i in range(COUNT)]
    assert [line["file"] for line in lines] == [*names[:3], "pictures/bear.png", *names[4:]]
    for line in lines:
        assert (line["num_inference_steps"], line["guidance_scale"], line["truncation_rate"]) == (STEPS, 5.0, 1.0)
        assert (line["model"], line["dtype"]) == (str(given / "model"), "float32")
    prompts, seeds = zip(*((line["prompt"], line["seed"]) for line in lines[2:4]))
    images = pipe(list(prompts), num_inference_steps=STEPS, generator=list(seeds))[0]
    for line, image in zip(lines[2:], images):
        assert np.array_equal(Image.open(folders / line["file"]), image)
    assert len({Image.open(folders / line["file"]).tobytes() for line in lines}) == COUNT


def test_missing_pictures_are_generated(example, given, whole, tmp_path, monkeypatch):
    """Each of two processes makes one; the last writes the manifest."""
    before = content(whole)
    shutil.copytree(whole, tmp_path / "part")
    for name in ("manifest.jsonl", "pictures/bear.png", "pictures/000005.png"):
        (tmp_path / "part" / name).unlink()
    (tmp_path / "part/pictures/.bear.png.01234567").write_text("left by a killed process")
    kept = stamps(tmp_path / "part")
    for rank in ("1", "0"):
        for name, value in (("MS_ROLE", "MS_WORKER"), ("RANK_ID", rank), ("MS_WORKER_NUM", "2"), ("DEVICE_ID", rank)):
            monkeypatch.setenv(name, value)
        assert not (tmp_path / "part/manifest.jsonl").exists()
        example.main(arguments(given, tmp_path / "part"))
    assert_continued(kept, tmp_path / "part")
    assert content(tmp_path / "part") == before


@pytest.mark.slow
def test_three_devices_make_the_same_files(given, whole, tmp_path):
    code, output_text, workers = on_several(3, given, tmp_path / "three", tmp_path)
    assert code == 0, (output_text, workers)
    assert content(tmp_path / "three") == content(whole)
    # Batches 0 and 3, 1 and 4 (of one picture), 2.
    for rank, (count, worker) in enumerate(zip((4, 3, 2), workers)):
        assert f"device {rank + 1} of 3" in worker
        assert f"{count}/{count}" in worker
        assert worker.count("Compiling the denoising step") == 1


@pytest.mark.slow
def test_one_device_is_killed_and_two_continue(given, whole, tmp_path):
    output = tmp_path / "killed"
    code, output_text = on_one(given, output, kill="0:4")
    assert code == -9, output_text
    before = stamps(output)
    assert len(before) == 3
    assert len(content(output)) == 4  # and half of one
    code, output_text, workers = on_several(2, given, output, tmp_path)
    assert code == 0, (output_text, workers)
    assert_continued(before, output)
    assert content(output) == content(whole)


@pytest.mark.slow
def test_one_of_two_devices_is_killed_and_one_continues(given, whole, tmp_path):
    output = tmp_path / "killed"
    code, output_text, _ = on_several(2, given, output, tmp_path, kill="1:2")
    assert code != 0, output_text
    before = stamps(output)
    assert "000002.png" in before
    assert "bear.png" not in before
    assert not (output / "manifest.jsonl").exists()
    code, output_text = on_one(given, output)
    assert code == 0, output_text
    assert_continued(before, output)
    assert content(output) == content(whole)


@pytest.mark.parametrize(
    "others, message",
    [
        (["--steps", 5], "num_inference_steps 6 instead of 5"),
        (
            ["--guidance-scale", 4, "--dtype", "float16"],
            "dtype 'float32' instead of 'float16', guidance_scale 5.0 inst",
        ),
        (["--truncation-rate", 0.5], "truncation_rate 1.0 instead of 0.5"),
        (["--seed", 6], "seed 5 instead of 6"),
        (["--images-per-prompt", 2], "is not one of the planned pictures"),
        ("another model", "weights '"),
        ("another prompt", "prompt 'stripes on red' instead of 'a cat'"),
    ],
)
def test_other_settings_are_refused(others, message, example, given, whole, tmp_path):
    before = content(whole)
    command = arguments(given, whole, *(others if isinstance(others, list) else ()))
    if others == "another model":
        random_pipeline(np.random.default_rng(4)).save_pretrained(tmp_path / "model")
        command += ["--model", str(tmp_path / "model")]
    elif others == "another prompt":
        command[0] = str(tmp_path / "prompts.jsonl")
        Path(command[0]).write_text("\n".join(map(json.dumps, [{"text": "a cat"}, *LINES[1:]])))
    with pytest.raises(ValueError) as caught:
        example.main(command)
    assert message in str(caught.value)
    assert "Choose another folder" in str(caught.value)
    assert content(whole) == before


@pytest.mark.parametrize(
    "others, message",
    [
        (["--batch-size", 0], "--batch-size is 0; it must be at least 1"),
        (["--images-per-prompt", 0], "--images-per-prompt is 0"),
        (["--steps", 0], "--steps is 0"),
        (["--seed", -1], "--seed is -1; it must be at least 0"),
        (["--truncation-rate", 2], "truncation_rate is 2.0"),
    ],
)
def test_numbers_out_of_range(others, message, example, given, tmp_path):
    with pytest.raises(ValueError, match=message):
        example.main(arguments(given, tmp_path / "new", *others))
    assert not (tmp_path / "new").exists()


def test_a_bad_line_is_reported_before_the_model_is_loaded(example, given, tmp_path, capsys):
    lines = [json.dumps(line) for line in LINES]
    (tmp_path / "prompts.jsonl").write_text("\n".join([*lines[:4], '{"txet": "a cat"}', *lines[5:]]))
    with pytest.raises(ValueError, match=rf"line 5 of {tmp_path}/prompts.jsonl cannot be used"):
        example.main(arguments(tmp_path, tmp_path / "new", "--model", given / "model"))
    assert "Loading" not in capsys.readouterr().out
    assert not (tmp_path / "new").exists()


def test_a_batch_always_holds_the_same_pictures():
    assert batches_of(9, 4) == [range(4), range(4, 8), range(8, 9)]
    assert batches_of(3, 8) == [range(3)]
    for workers in (2, 3, 5):
        shares = [batches_of(9, 4, rank, workers) for rank in range(workers)]
        assert sorted((batch for batches in shares for batch in batches), key=min) == batches_of(9, 4)


def test_the_batch_gets_smaller_as_the_model_gets_larger():
    small = {"num_attention_heads": 5, "attention_head_dim": 32, "sample_size": 8, "num_vector_embeds": 257}
    published = {"num_attention_heads": 16, "attention_head_dim": 88, "sample_size": 32, "num_vector_embeds": 4097}
    assert default_batch_size(small) == 64
    assert default_batch_size(published) == 5
    assert default_batch_size({**published, "sample_size": 128}) == 1


@pytest.mark.parametrize(
    "error, expected",
    [
        (RuntimeError("Device(id:0) memory isn't enough and alloc failed"), "A batch of 3 does not fit into memory"),
        (MemoryError("std::bad_alloc"), "A batch of 3 does not fit into memory"),
        (RuntimeError("illegal memory access in a kernel"), "^illegal memory access"),
    ],
)
def test_a_batch_too_large_is_reported(error, expected):
    def pipe(prompts, generator, num_inference_steps):
        assert (prompts, generator, num_inference_steps) == (["a", "", ""], [5, 0, 0], STEPS)
        raise error

    with pytest.raises((MemoryError, RuntimeError), match=expected):
        generate_batch(pipe, [Picture("a", 5, "a.png")], 3, {"num_inference_steps": STEPS})


def test_a_device_of_several_is_chosen_by_its_number(example, monkeypatch):
    chosen = []
    monkeypatch.setattr(example.common.ms, "set_device", lambda *arguments: chosen.append(arguments))
    for role, device in (("MS_WORKER", "Ascend"), ("MS_WORKER", "CPU"), ("", "Ascend")):
        for name, value in (("MS_ROLE", role), ("RANK_ID", "11"), ("MS_WORKER_NUM", "16"), ("DEVICE_ID", "3")):
            monkeypatch.setenv(name, value)
        devices = example.side_by_side()
        assert (devices.rank, devices.count) == ((11, 16) if role else (0, 1))
        example.common.set_up(example.parse_arguments(["p", "--device", device]), devices.number)
    assert chosen == [("Ascend", 3), ("CPU",), ("Ascend",)]
    monkeypatch.setenv("MS_ROLE", "MS_SCHED")
    assert example.side_by_side() is None
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    monkeypatch.delenv("RANK_ID")
    with pytest.raises(ValueError, match="start it with --node_rank"):
        example.side_by_side()
