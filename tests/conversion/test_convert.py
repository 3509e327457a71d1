"""tools/convert_weights.py as its user runs it, on the bundled model."""

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor
from safetensors.numpy import load_file, save_file

import mindone_vq
from mindone_vq import CLIPTextModel, Transformer2DModel, VQDiffusionPipeline, VQModel
from tests.shapes32_model import MODEL, SETTINGS

TOOL = Path(mindone_vq.__file__).parents[1] / "tools" / "convert_weights.py"
TRANSFORMER = MODEL / "transformer" / "diffusion_pytorch_model.safetensors"


def _tool():
    specification = importlib.util.spec_from_file_location("convert_weights", TOOL)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


tool = _tool()


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


def codes(pipe):
    pipe.set_progress_bar_config(disable=True)
    return pipe("a large red ring on a white background", 10, generator=0, output_type="latent", **SETTINGS)[
        0
    ].asnumpy()


def test_a_folder_comes_back_bit_equal_and_says_what_it_did(tmp_path, capsys, demo_pipe):
    convert(MODEL, tmp_path / "out", "--report", tmp_path / "report.json")
    assert_same_weights(tmp_path / "out")
    assert np.array_equal(codes(VQDiffusionPipeline.from_pretrained(tmp_path / "out")), codes(demo_pipe))
    said = capsys.readouterr()
    assert "Transformer2DModel" in said.out
    assert "2,054,848" in said.out
    assert "399/399" in said.err
    report = json.loads((tmp_path / "report.json").read_text())
    assert [entry["tensors"] for entry in report["components"]] == [187, 36, 175, 1]
    assert report["components"][0]["dtypes"] == {"float32": 187}


def test_a_mindspore_checkpoint_and_back_is_bit_equal(tmp_path):
    convert(MODEL, tmp_path / "ckpt", "--format", "ckpt")
    assert not list((tmp_path / "ckpt").rglob("*.safetensors"))
    convert(tmp_path / "ckpt", tmp_path / "back", "--to", "diffusers")
    assert_same_weights(tmp_path / "back")


@pytest.mark.parametrize(
    "form, name", [("ckpt", "mindspore_model.ckpt"), ("mindspore-safetensors", "mindspore_model.safetensors")]
)
def test_mindspore_loads_its_own_files_as_they_are(form, name, tmp_path, rng):
    convert(MODEL, tmp_path / "out", "--format", form)
    kinds = {"vqvae": VQModel, "transformer": Transformer2DModel, "text_encoder": CLIPTextModel}
    for part, kind in kinds.items():
        expected = kind.from_pretrained(MODEL, subfolder=part)
        network = kind.from_config(expected.config)
        file = str(tmp_path / "out" / part / name)
        options = {"format": "safetensors"} if form != "ckpt" else {}
        missing, left_over = ms.load_param_into_net(network, ms.load_checkpoint(file, **options), strict_load=True)
        assert not missing
        assert not left_over
        for ours, theirs in zip(network.get_parameters(), expected.get_parameters()):
            assert np.array_equal(ours.asnumpy(), theirs.asnumpy())
    ids = Tensor(rng.integers(0, 592, (1, 12)), ms.int32)
    assert np.array_equal(network.set_train(False)(ids)[0].asnumpy(), expected(ids)[0].asnumpy())


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_weights_are_rounded_to_the_type_asked_for(dtype, tmp_path):
    convert(MODEL, tmp_path / "out", "--dtype", dtype, "--component", "vqvae")
    ours = VQModel.from_pretrained(tmp_path / "out", mindspore_dtype=getattr(ms, dtype))
    expected = VQModel.from_pretrained(MODEL, subfolder="vqvae").to(getattr(ms, dtype))
    for a, b in zip(ours.get_parameters(), expected.get_parameters()):
        assert np.array_equal(a.astype(ms.float32).asnumpy(), b.astype(ms.float32).asnumpy())
    assert (tmp_path / "out" / "config.json").is_file()


def test_shards_are_of_the_size_asked_for(tmp_path):
    convert(MODEL, tmp_path / "out", "--max-shard-size", "1.5MB")
    files = list((tmp_path / "out" / "transformer").glob("*-of-*.safetensors"))
    assert len(files) == 6
    assert all(file.stat().st_size < 1_600_000 for file in files)
    loaded = Transformer2DModel.from_pretrained(tmp_path / "out", subfolder="transformer")
    assert loaded.num_parameters() == 2_054_848


def test_a_dry_run_writes_nothing(tmp_path, capsys):
    convert(MODEL, tmp_path / "out", "--dry-run")
    assert "Nothing was written" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_a_state_dict_alone_is_recognised(tmp_path, capsys):
    config = MODEL / "transformer" / "config.json"
    convert(TRANSFORMER, tmp_path / "out", "--config", config)
    assert_same_weights(tmp_path / "out", MODEL / "transformer")
    partial = tmp_path / "partial.json"
    partial.write_text('{"num_attention_heads": 4, "activation_fn": "geglu-approximate"}')
    convert(TRANSFORMER, tmp_path / "inferred", "--config", partial)
    inferred = Transformer2DModel.from_pretrained(tmp_path / "inferred").config
    expected = Transformer2DModel.from_pretrained(MODEL, subfolder="transformer").config
    assert {key: inferred[key] for key in inferred if inferred[key] != expected[key]} == {}
    null = MODEL / "learned_classifier_free_sampling_embeddings" / "diffusion_pytorch_model.safetensors"
    convert(null, tmp_path / "null")
    assert json.loads((tmp_path / "null/config.json").read_text())["length"] == 12


def test_what_shapes_do_not_tell_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="num_attention_heads, activation_fn: pass its config"):
        convert(TRANSFORMER, tmp_path / "out")
    with pytest.raises(ValueError, match="norm_num_groups, act_fn"):
        convert(MODEL / "vqvae" / "diffusion_pytorch_model.safetensors", tmp_path / "out")
    with pytest.raises(ValueError, match="num_attention_heads, hidden_act, eos_token_id"):
        convert(MODEL / "text_encoder" / "model.safetensors", tmp_path / "out")


@pytest.fixture
def source(tmp_path):
    shutil.copytree(MODEL, tmp_path / "source")
    return tmp_path / "source"


def broken(source, change):
    file = source / "transformer" / "diffusion_pytorch_model.safetensors"
    arrays = load_file(file)
    change(arrays)
    save_file(arrays, file)


@pytest.mark.parametrize(
    "change, said",
    [
        (lambda arrays: arrays.pop("out.bias"), r"missing: out\.bias \(64,\)"),
        (lambda arrays: arrays.update(extra=np.ones(3)), r"not in the network: extra \(3,\)"),
        (lambda arrays: arrays.update({"out.bias": np.ones(5)}), r"out\.bias is \(5,\), the network has \(64,\)"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_nothing_is_left(source, tmp_path, change, said):
    broken(source, change)
    with pytest.raises(ValueError, match=said):
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
    with pytest.raises(ValueError, match="weights of no network known here"):
        convert(tmp_path / "strange.safetensors", tmp_path / "out")
    (tmp_path / "strange.txt").write_text("no weights")
    with pytest.raises(ValueError, match="ends in none of"):
        convert(tmp_path / "strange.txt", tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="not a folder here"):
        convert(tmp_path / "nowhere", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_destination_is_kept_unless_told_otherwise(tmp_path):
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


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_conversion_leaves_no_half_written_output(how, source, tmp_path):
    """Killed while it writes; the next run succeeds and clears what the killed one left under another name."""
    slow = (
        "import sys, time; from mindone_vq.weights.lazy import LazyTensor; import importlib.util as u\n"
        "cast = LazyTensor.cast\n"
        "def slowly(self, dtype): time.sleep(0.02); return cast(self, dtype)\n"
        "LazyTensor.cast = slowly\n"
        f"s = u.spec_from_file_location('tool', {str(TOOL)!r}); m = u.module_from_spec(s); s.loader.exec_module(m)\n"
        "m.main(sys.argv[1:])"
    )
    environment = {**os.environ, "PYTHONPATH": str(TOOL.parents[1])}
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


def test_the_command_says_mistakes_in_one_line(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(TOOL.parents[1])}
    command = [sys.executable, str(TOOL), "nowhere", str(tmp_path / "out")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert result.returncode == 1
    assert "FileNotFoundError: nowhere is not a folder here" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not list(tmp_path.iterdir())
