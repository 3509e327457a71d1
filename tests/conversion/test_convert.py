"""tools/convert_weights.py as its user runs it, on the model of shapes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import convert_weights as tool
import mindspore as ms
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import mindone_vq
from mindone_vq import CLIPTextModel, Transformer2DModel, VQDiffusionPipeline
from tests.shapes32_model import MODEL

TOOL = Path(mindone_vq.__file__).parents[1] / "tools" / "convert_weights.py"
TRANSFORMER = MODEL / "transformer" / "diffusion_pytorch_model.safetensors"
TEXT_ENCODER = MODEL / "text_encoder" / "model.safetensors"
NULL_TEXT = MODEL / "learned_classifier_free_sampling_embeddings" / "diffusion_pytorch_model.safetensors"


def convert(*arguments) -> None:
    tool.main([str(argument) for argument in arguments])


def weights(folder):
    return {file.relative_to(folder): load_file(file) for file in sorted(folder.rglob("*.safetensors"))}


def assert_same_weights(folder, reference=MODEL):
    ours, theirs = weights(folder), weights(reference)
    assert ours.keys() == theirs.keys()
    for name, arrays in theirs.items():
        assert ours[name].keys() == arrays.keys()
        assert all(np.array_equal(ours[name][key], array) for key, array in arrays.items())


def test_a_folder_comes_back_bit_equal_with_a_report(tmp_path, capsys, demo_pipe):
    convert(MODEL, tmp_path / "out", "--report", tmp_path / "report.json")
    assert_same_weights(tmp_path / "out")
    pipe = VQDiffusionPipeline.from_pretrained(tmp_path / "out")
    for name, component in demo_pipe.components.items():
        if hasattr(component, "config"):
            assert pipe.components[name].config == component.config
    assert pipe.tokenizer.encode("a red ring") == demo_pipe.tokenizer.encode("a red ring")
    output = capsys.readouterr()
    assert "Transformer2DModel" in output.out
    assert "2,054,848" in output.out
    assert "399/399" in output.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert [entry["tensors"] for entry in report["components"]] == [187, 36, 175, 1]
    assert report["components"][0]["dtypes"] == {"float32": 187}


@pytest.fixture(scope="module", params=["ckpt", "mindspore-safetensors"])
def mindspore_folder(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mindspore") / request.param
    convert(MODEL, folder, "--format", request.param)
    return folder


def mindspore_file(folder, component):
    (file,) = (folder / component).glob("mindspore_model.*")
    return file


def test_mindspore_files_come_back_bit_equal(mindspore_folder, tmp_path):
    convert(mindspore_folder, tmp_path / "back", "--to", "diffusers")
    assert_same_weights(tmp_path / "back")


def test_mindspore_loads_its_own_files_as_they_are(mindspore_folder):
    for part, kind in {"transformer": Transformer2DModel, "text_encoder": CLIPTextModel}.items():
        expected = kind.from_pretrained(MODEL, subfolder=part)
        network = kind.from_config(expected.config)
        file = mindspore_file(mindspore_folder, part)
        options = {"format": "safetensors"} if file.suffix == ".safetensors" else {}
        parameters = ms.load_checkpoint(str(file), **options)
        missing, left_over = ms.load_param_into_net(network, parameters, strict_load=True)
        assert not missing
        assert not left_over
        for ours, theirs in zip(network.get_parameters(), expected.get_parameters()):
            assert np.array_equal(ours.asnumpy(), theirs.asnumpy())


def test_one_mindspore_checkpoint_needs_its_config(tmp_path):
    source = MODEL / "text_encoder"
    convert(source, tmp_path / "ckpt", "--format", "ckpt")
    file = tmp_path / "ckpt" / "mindspore_model.ckpt"
    convert(file, tmp_path / "back", "--config", source / "config.json")
    assert_same_weights(tmp_path / "back", source)
    with pytest.raises(ValueError, match="is not a PyTorch file; pass the config.json of its network"):
        convert(file, tmp_path / "out")
    (tmp_path / "unet.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match=r"unet.json is the config of a UNet2DModel; known are GumbelVQModel, VQModel"):
        convert(file, tmp_path / "out", "--config", tmp_path / "unet.json")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_rounded_to_the_chosen_type(dtype, tmp_path):
    convert(MODEL, tmp_path / "out", "--dtype", dtype, "--component", "text_encoder")
    ours = CLIPTextModel.from_pretrained(tmp_path / "out", mindspore_dtype=getattr(ms, dtype))
    expected = CLIPTextModel.from_pretrained(MODEL, subfolder="text_encoder").to(getattr(ms, dtype))
    for a, b in zip(ours.get_parameters(), expected.get_parameters()):
        assert np.array_equal(a.astype(ms.float32).asnumpy(), b.astype(ms.float32).asnumpy())
    assert (tmp_path / "out" / "model.safetensors").stat().st_size < 0.51 * TEXT_ENCODER.stat().st_size


def test_shards_are_of_the_chosen_size(tmp_path):
    convert(MODEL / "transformer", tmp_path / "out", "--max-shard-size", "1.5MB")
    files = list((tmp_path / "out").glob("*-of-*.safetensors"))
    assert len(files) == 6
    assert all(file.stat().st_size < 1_600_000 for file in files)
    assert Transformer2DModel.from_pretrained(tmp_path / "out").num_parameters() == 2_054_848


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    convert(MODEL, tmp_path / "out", "--dry-run")
    assert "Nothing was written" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_state_dict_alone_is_recognised(tmp_path):
    config = MODEL / "transformer" / "config.json"
    convert(TRANSFORMER, tmp_path / "out", "--config", config)
    assert_same_weights(tmp_path / "out", MODEL / "transformer")
    partial = tmp_path / "partial.json"
    partial.write_text('{"num_attention_heads": 4, "activation_fn": "geglu-approximate"}')
    convert(TRANSFORMER, tmp_path / "inferred", "--config", partial)
    inferred, expected = (
        json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "inferred", tmp_path / "out")
    )
    assert {key: inferred[key] for key in inferred if inferred[key] != expected[key]} == {}
    convert(NULL_TEXT, tmp_path / "null")
    assert json.loads((tmp_path / "null/config.json").read_text())["length"] == 12


def test_arguments_that_the_weights_do_not_determine_are_asked_for(tmp_path):
    for file, arguments in (
        (TRANSFORMER, "num_attention_heads, activation_fn"),
        (MODEL / "vqvae" / "diffusion_pytorch_model.safetensors", "norm_num_groups, act_fn"),
        (TEXT_ENCODER, "num_attention_heads, hidden_act, eos_token_id"),
    ):
        with pytest.raises(ValueError, match=f"do not determine {arguments}: pass its config.json"):
            convert(file, tmp_path / "out")


@pytest.fixture
def source(tmp_path):
    shutil.copytree(MODEL, tmp_path / "source")
    return tmp_path / "source"


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda arrays: arrays.pop("out.bias"), r"missing: out\.bias \(64,\)"),
        (lambda arrays: arrays.update(extra=np.ones(3)), r"not in the network: extra \(3,\)"),
        (lambda arrays: arrays.update({"out.bias": np.ones(5)}), r"out\.bias is \(5,\), the network has \(64,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_left(source, tmp_path, change, expected):
    file = source / "transformer" / "diffusion_pytorch_model.safetensors"
    arrays = load_file(file)
    change(arrays)
    save_file(arrays, file)
    with pytest.raises(ValueError, match=expected):
        convert(source, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source"]


def test_a_wrong_component_and_a_wrong_config_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"has no unet; it has vqvae, text_encoder, transformer"):
        convert(MODEL, tmp_path / "out", "--component", "unet")
    with pytest.raises(ValueError, match="config is of a VQModel, the weights are of a Transformer2DModel"):
        convert(TRANSFORMER, tmp_path / "out", "--config", MODEL / "vqvae" / "config.json")
    (tmp_path / "strange.safetensors").write_bytes(b"words")
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        convert(tmp_path / "strange.safetensors", tmp_path / "out")
    save_file({"conv.weight": np.ones(3)}, tmp_path / "strange.safetensors")
    with pytest.raises(ValueError, match="weights of no known network"):
        convert(tmp_path / "strange.safetensors", tmp_path / "out")
    (tmp_path / "strange.txt").write_text("no weights")
    with pytest.raises(ValueError, match="ends in none of"):
        convert(tmp_path / "strange.txt", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="not a folder here"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_destination_is_kept_unless_overwrite_is_given(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        convert(MODEL, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "precious"
    convert(MODEL, tmp_path / "out", "--overwrite")
    assert not (tmp_path / "out" / "mine").exists()
    assert_same_weights(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    written = []

    def fail_late(path, tensors):
        written.append(path)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        path.write_bytes(b"part")

    monkeypatch.setattr("mindone_vq.weights.store.write_safetensors", fail_late)
    with pytest.raises(OSError, match="No space left"):
        convert(MODEL, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_an_interrupted_conversion_leaves_no_half_written_output(how, source, tmp_path):
    """Killed while it writes; the next run succeeds and clears what the killed one left under another name."""
    slow = (
        "import sys, time; import mindone_vq.conversion.convert as c; import convert_weights\n"
        "plain = c._with_progress\n"
        "c._with_progress = lambda tensor, progress: (time.sleep(0.02), plain(tensor, progress))[1]\n"
        "convert_weights.main(sys.argv[1:])"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TOOL.parents[1]), str(TOOL.parent)])}
    command = [sys.executable, "-c", slow, str(source), str(tmp_path / "out")]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    partial = tmp_path / ".out.partial"
    deadline = time.monotonic() + 60
    while not (partial / "vqvae").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(how)
    process.wait(timeout=60)
    assert process.returncode != 0
    assert not (tmp_path / "out").exists()
    convert(source, tmp_path / "out")
    assert_same_weights(tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "source"]


def test_the_command_prints_an_error_in_one_line(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(TOOL.parents[1])}
    command = [sys.executable, str(TOOL), "nowhere", str(tmp_path / "out")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert result.returncode == 1
    assert "FileNotFoundError: nowhere is not a folder here" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
