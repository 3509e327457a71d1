"""The errors of tools/convert_weights.py for bad arguments, raised before any work and any loss."""

import errno
import json
import shutil
import tempfile
from pathlib import Path

import convert_weights as tool
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from tests.conversion.test_convert import NULL_TEXT, TRANSFORMER, convert
from tests.shapes32_model import MODEL

NEEDED = {"num_attention_heads": 4, "activation_fn": "geglu-approximate"}


@pytest.fixture
def files(tmp_path):
    """An empty file and a folder for every kind of argument; the text is a file of something else."""
    folder = tmp_path / "files"
    for name in ("folder", "folder.pt", "folder.yaml", "folder.txt"):
        (folder / name).mkdir(parents=True)
    for name in ("empty.pt", "empty.yaml", "empty.txt.gz", "empty.safetensors"):
        (folder / name).write_bytes(b"")
    (folder / "words").write_text("words")
    (folder / "needed.json").write_text(json.dumps(NEEDED))
    return folder


def error_of(*arguments) -> str:
    """The last line of the command."""
    with pytest.raises((ValueError, OSError)) as caught:
        convert(*arguments)
    message = tool.message(caught.value)
    assert "[Errno" not in message
    assert "Traceback" not in message
    return message


SOURCES = [
    ("missing.pth", "SOURCE .*missing.pth does not exist"),
    ("missing", "missing is not a folder here, and not a hub id"),
    ("folder", "SOURCE .*folder holds neither model_index.json nor config.json: give"),
    ("folder.pt", "SOURCE .*folder.pt holds neither"),
    ("empty.pt", "SOURCE .*empty.pt is empty"),
    ("empty.safetensors", "SOURCE .*empty.safetensors is empty"),
    ("words", "words ends in none of .safetensors"),
    ("none.safetensors", "the file holds no weights"),
]


@pytest.mark.parametrize("name, message", SOURCES)
def test_a_source_that_cannot_be_read_is_named(name, message, files, tmp_path):
    save_file({}, files / "none.safetensors")
    with pytest.raises((ValueError, OSError), match=message):
        convert(files / name, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


OPTIONS = {"--config": ".yaml", "--codec-config": ".yaml", "--codec": ".pt", "--codes": ".pt", "--tokenizer": ".txt"}


@pytest.mark.parametrize("option", OPTIONS)
def test_a_file_of_an_option_that_cannot_be_read_is_named_with_the_option(option, files, tmp_path):
    ending = OPTIONS[option]
    for name, what in ((f"missing{ending}", "does not exist."), (f"folder{ending}", "is a folder; give a file.")):
        assert error_of(TRANSFORMER, tmp_path / "out", option, files / name) == f"{option} {files / name} {what}"
    empty = files / ("empty.txt.gz" if ending == ".txt" else f"empty{ending}")
    assert error_of(TRANSFORMER, tmp_path / "out", option, empty).startswith(f"{option} {empty} is empty")
    message = error_of(MODEL, tmp_path / "out", option, files / "needed.json" if option != "--tokenizer" else "me/clip")
    assert message.startswith(f"{option} is for a")
    assert message.endswith(f"SOURCE is a folder: leave {option} out.")
    assert [path.name for path in tmp_path.iterdir()] == ["files"]


def test_a_tokenizer_of_another_kind_of_file_is_refused(files, tmp_path):
    message = error_of(TRANSFORMER, tmp_path / "out", "--tokenizer", files / "words")
    assert message.startswith(f"--tokenizer {files / 'words'} is no list of merges")


def test_a_hub_that_cannot_be_reached_gives_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    message = error_of("me/shapes", tmp_path / "out")
    assert message.startswith(
        "me/shapes is not a folder here, and the hub cannot be reached at http://127.0.0.1:9, or the connection broke."
    )
    assert not any(word in message for word in ("urllib3", "HTTPConnectionPool", "Max retries", "Error"))


def test_options_of_other_sources_are_refused(files, tmp_path):
    config = ("--config", files / "needed.json")
    assert error_of(MODEL, tmp_path / "out", "--revision", "main").startswith("--revision is for a hub id; SOURCE is a")
    assert error_of(MODEL, tmp_path / "out", "--no-ema").startswith("--no-ema is for a whole model")
    for option in (("--codes", files / "words"), ("--variant", "fp16"), ("--no-ema",)):
        message = error_of(TRANSFORMER, tmp_path / "out", *config, *option)
        assert message.startswith(f"{option[0]} is for")
        assert "SOURCE is the weights of one network" in message


def test_the_advice_for_weights_that_do_not_fit_is_about_the_given_files(files, tmp_path):
    arrays = load_file(TRANSFORMER)
    del arrays["out.bias"]
    save_file(arrays, tmp_path / "cut.safetensors")
    message = error_of(tmp_path / "cut.safetensors", tmp_path / "out", "--config", files / "needed.json")
    assert message.endswith("Check that --config belongs to the weights.")
    save_file({**load_file(NULL_TEXT), "extra": np.ones(3)}, tmp_path / "null.safetensors")
    message = error_of(tmp_path / "null.safetensors", tmp_path / "out")
    assert "not in the network: extra (3,)" in message
    assert "--config takes a config.json" in message
    shutil.copytree(MODEL, tmp_path / "model")
    file = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    save_file({**load_file(file), "extra": np.ones(3)}, file)
    assert error_of(tmp_path / "model", tmp_path / "out").endswith("Check that config.json belongs to the weights.")


@pytest.fixture
def work(monkeypatch):
    """Whether any conversion was begun."""
    begun = []

    def read_source(*arguments):
        begun.append(arguments)
        raise AssertionError("the conversion was begun")

    monkeypatch.setattr("mindone_vq.conversion.convert.read_source", read_source)
    return begun


def test_a_report_that_cannot_be_written_is_refused_before_the_work(work, files, tmp_path):
    out = tmp_path / "out"
    for report, message in (
        (files / "folder", "is a folder; give the name of a file"),
        (files / "words" / "report.json", "cannot be written: .*words: Not a directory"),
        (out, "is also an input or DESTINATION"),
        (tmp_path / "deep", "is also an input or DESTINATION"),
        (TRANSFORMER, "is also an input or DESTINATION"),
    ):
        destination = tmp_path / "deep" / "out" if report.name == "deep" else out
        with pytest.raises(OSError, match=message):
            convert(TRANSFORMER, destination, "--report", report)
    assert not work
    assert (files / "words").read_text() == "words"


def test_a_folder_that_may_not_be_written_into_is_refused_before_the_work(work, tmp_path, monkeypatch):
    def denied(*_, dir, **__):
        raise PermissionError(errno.EACCES, "Permission denied", dir)

    monkeypatch.setattr(tempfile, "TemporaryFile", denied)
    for arguments in (("--report", tmp_path / "report.json"), ()):
        message = error_of(TRANSFORMER, tmp_path / "out", *arguments)
        assert message.endswith(f"cannot be written: {tmp_path}: Permission denied. Give another place.")
    assert not work
    assert not list(tmp_path.iterdir())


def test_a_destination_around_an_input_is_refused(work, files, tmp_path):
    """It would be removed, and the input with it."""
    shutil.copy(TRANSFORMER, files / "weights.safetensors")
    for arguments in (
        (files / "weights.safetensors", files),
        (TRANSFORMER, files, "--config", files / "needed.json"),
        (TRANSFORMER, files.parent, "--codes", files / "words"),
    ):
        with pytest.raises(FileExistsError, match="lies in DESTINATION, which is replaced"):
            convert(*arguments, "--overwrite")
    assert not work
    assert (files / "weights.safetensors").is_file()


def test_an_error_of_the_system_names_its_file():
    assert tool.message(FileNotFoundError(2, "No such file or directory", "here")) == "here: No such file or directory"
    assert tool.message(OSError(28, "No space left on device")) == "No space left on device"
    assert tool.message(FileNotFoundError("nowhere does not exist.")) == "nowhere does not exist."
    assert Path(tool.__file__).name == "convert_weights.py"
