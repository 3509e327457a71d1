import json
import shutil

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn
from safetensors.numpy import load_file, save_file

from mindone_vq import CLIPTextModel, LearnedClassifierFreeSamplingEmbeddings, Transformer2DModel, VQModel
from mindone_vq.weights.files import write_atomically
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.rules import current_name, state_dict_parameters
from mindone_vq.weights.store import WeightMismatchError, fit, load_into, open_weights, weight_files
from tests.shapes32_model import MODEL

STEMS = ("diffusion_pytorch_model",)
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(MODEL / "vqvae", tmp_path / "vqvae")
    return tmp_path / "vqvae"


def rewrite(folder, change):
    arrays = load_file(folder / WEIGHTS)
    change(arrays)
    save_file(arrays, folder / WEIGHTS)


@pytest.mark.parametrize(
    "part", ["vqvae", "transformer", "text_encoder", "learned_classifier_free_sampling_embeddings"]
)
def test_what_is_saved_is_bit_equal_to_what_was_loaded(part, tmp_path):
    kinds = dict(
        vqvae=VQModel,
        transformer=Transformer2DModel,
        text_encoder=CLIPTextModel,
        learned_classifier_free_sampling_embeddings=LearnedClassifierFreeSamplingEmbeddings,
    )
    network = kinds[part].from_pretrained(MODEL, subfolder=part)
    network.save_pretrained(tmp_path)
    name = next(path.name for path in tmp_path.glob("*.safetensors"))
    saved, original = load_file(tmp_path / name), load_file(MODEL / part / name)
    assert saved.keys() == original.keys()
    assert all(np.array_equal(saved[key], original[key]) for key in original)
    assert kinds[part].from_pretrained(tmp_path).config == network.config


@pytest.mark.parametrize("dtype", [ms.float16, ms.bfloat16])
def test_a_smaller_type_is_loaded_and_saved(dtype, tmp_path):
    network = VQModel.from_pretrained(MODEL, subfolder="vqvae", mindspore_dtype=dtype)
    assert {parameter.dtype for parameter in network.get_parameters()} == {dtype}
    network.save_pretrained(tmp_path, variant="small")
    again = VQModel.from_pretrained(tmp_path, variant="small")
    assert again.dtype == ms.float32
    for ours, theirs in zip(network.get_parameters(), again.get_parameters()):
        assert np.array_equal(ours.astype(ms.float32).asnumpy(), theirs.asnumpy())


def test_force_upcast_stays_float32(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "force_upcast": True}))
    network = VQModel.from_pretrained(folder, mindspore_dtype=ms.float16)
    assert network.dtype == ms.float32
    assert network.to(ms.float16).dtype == ms.float32


def test_a_missing_key_is_named(folder):
    rewrite(folder, lambda arrays: arrays.pop("quant_conv.bias"))
    with pytest.raises(WeightMismatchError, match=r"missing: quant_conv\.bias"):
        VQModel.from_pretrained(folder)


def test_an_extra_key_is_named(folder):
    rewrite(folder, lambda arrays: arrays.update(extra=np.ones((2, 3), np.float32)))
    with pytest.raises(WeightMismatchError, match=r"not in the network: extra \(2, 3\)"):
        VQModel.from_pretrained(folder)


def test_a_wrong_shape_is_named(folder):
    rewrite(folder, lambda arrays: arrays.update({"quant_conv.bias": np.ones(5, np.float32)}))
    with pytest.raises(WeightMismatchError, match=r"quant_conv\.bias is \(5,\), the network has \(16,\)"):
        VQModel.from_pretrained(folder)


@pytest.mark.parametrize("size", [0, 5, 400, 100_000])
def test_a_truncated_file_is_refused(folder, size):
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[:size])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        VQModel.from_pretrained(folder)


def test_missing_weights_and_configs_are_named(folder):
    (folder / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="expected diffusion_pytorch_model"):
        VQModel.from_pretrained(folder)
    with pytest.raises(FileNotFoundError, match="variant 'fp16'"):
        VQModel.from_pretrained(folder, variant="fp16")
    (folder / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json does not exist"):
        VQModel.from_pretrained(folder)


def test_the_config_of_another_class_is_refused(folder):
    with pytest.raises(ValueError, match="config of a VQModel, not of a Transformer2DModel"):
        Transformer2DModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="config of a VQModel, not of a CLIPTextModel"):
        CLIPTextModel.from_pretrained(folder)
    with pytest.raises(ValueError, match="config of a CLIPTextModel"):
        shutil.copy(MODEL / "text_encoder" / "config.json", folder / "config.json")
        VQModel.from_pretrained(folder)


@pytest.mark.parametrize("content", ["{", "[1]", "\x00"])
def test_a_broken_config_is_refused(folder, content):
    (folder / "config.json").write_text(content)
    with pytest.raises(ValueError, match=r"config\.json"):
        VQModel.from_pretrained(folder)


def test_unknown_config_entries_are_named_and_ignored(folder, caplog):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "novelty": 3}))
    VQModel.from_pretrained(folder)
    assert "novelty" in caplog.text


def test_what_is_no_float_type_is_refused():
    with pytest.raises(TypeError, match="mindspore_dtype"):
        VQModel.from_pretrained(MODEL, subfolder="vqvae", mindspore_dtype=ms.int32)


def test_old_attention_names_are_understood(folder):
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    original = load_file(folder / WEIGHTS)

    def rename(arrays):
        for key in list(arrays):
            for new_part, old_part in old.items():
                if f".{new_part}." in key:
                    arrays[key.replace(new_part, old_part)] = arrays.pop(key)

    rewrite(folder, rename)
    assert any("proj_attn" in key for key in load_file(folder / WEIGHTS))
    network = VQModel.from_pretrained(folder)
    for key, parameter in state_dict_parameters(network).items():
        assert np.array_equal(parameter.asnumpy(), original[key])
    assert current_name("transformer_blocks.0.attn1.to_q.weight") == "transformer_blocks.0.attn1.to_q.weight"


def test_position_ids_of_older_releases_are_left_out():
    network = CLIPTextModel.from_pretrained(MODEL, subfolder="text_encoder")
    arrays = {key: parameter.asnumpy() for key, parameter in state_dict_parameters(network).items()}
    arrays["text_model.embeddings.position_ids"] = np.arange(12)[None]
    _, ignored = fit(network, {key: LazyTensor.of(array) for key, array in arrays.items()})
    assert list(ignored) == ["text_model.embeddings.position_ids"]


def test_nothing_is_filled_when_a_name_is_wrong():
    cell = nn.Dense(2, 2)
    before = cell.weight.asnumpy().copy()
    with pytest.raises(WeightMismatchError):
        load_into(cell, {key: LazyTensor.of(np.ones(shape)) for key, shape in (("weight", (2, 2)), ("bias ", 2))})
    assert np.array_equal(cell.weight.asnumpy(), before)


@pytest.mark.parametrize(
    "names, variant, expected",
    [
        (["diffusion_pytorch_model.bin", WEIGHTS], None, [WEIGHTS]),
        (["diffusion_pytorch_model.bin"], None, ["diffusion_pytorch_model.bin"]),
        ([WEIGHTS, "diffusion_pytorch_model.fp16.safetensors"], None, [WEIGHTS]),
        (
            [WEIGHTS, "diffusion_pytorch_model.fp16.safetensors"],
            "fp16",
            ["diffusion_pytorch_model.fp16.safetensors"],
        ),
        ([WEIGHTS], "fp16", []),
        (
            [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
            + ["diffusion_pytorch_model.safetensors.index.json"],
            None,
            [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)],
        ),
        (
            [f"diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)],
            "fp16",
            [f"diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)],
        ),
        (["config.json", "other.safetensors"], None, []),
    ],
)
def test_the_right_weight_files_are_chosen(names, variant, expected):
    assert weight_files(names, STEMS, variant) == expected


def test_shards_are_read_as_one_and_a_missing_one_is_named(folder):
    arrays = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = list(arrays)
    for i, part in enumerate((names[:20], names[20:])):
        shard = folder / f"diffusion_pytorch_model-0000{i + 1}-of-00002.safetensors"
        save_file({key: arrays[key] for key in part}, shard)
    network = VQModel.from_pretrained(folder)
    for key, parameter in state_dict_parameters(network).items():
        assert np.array_equal(parameter.asnumpy(), arrays[key])
    shard.unlink()
    with pytest.raises(FileNotFoundError, match="1 of 2 shards"):
        VQModel.from_pretrained(folder)


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_saving_over_a_file_is_refused(tmp_path):
    (tmp_path / "here").write_text("mine")
    network = VQModel.from_pretrained(MODEL, subfolder="vqvae")
    with pytest.raises(FileExistsError, match="give a folder"):
        network.save_pretrained(tmp_path / "here")
    assert (tmp_path / "here").read_text() == "mine"


def test_tensors_are_read_when_asked_for(folder):
    tensors = open_weights([folder / WEIGHTS])
    assert len(tensors) == len(load_file(folder / WEIGHTS))
    assert tensors["quant_conv.bias"].shape == (16,)
    assert np.array_equal(tensors["quant_conv.bias"].read(), load_file(folder / WEIGHTS)["quant_conv.bias"])


def test_shards_that_we_write_are_read_again(tmp_path):
    network = VQModel.from_pretrained(MODEL, subfolder="vqvae")
    network.save_pretrained(tmp_path, max_shard_size=500_000)
    files = sorted(tmp_path.glob("*-of-*.safetensors"))
    assert len(files) > 5
    index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == {file.name for file in files}
    assert index["metadata"]["total_size"] == 4 * network.num_parameters()
    again = VQModel.from_pretrained(tmp_path)
    for ours, theirs in zip(network.get_parameters(), again.get_parameters()):
        assert np.array_equal(ours.asnumpy(), theirs.asnumpy())


def test_a_networks_type_changes_in_place():
    network = VQModel.from_pretrained(MODEL, subfolder="vqvae").to(ms.float16)
    assert network.dtype == ms.float16
    picture = Tensor(np.zeros((1, 3, 32, 32), np.float32))
    assert network.encode(picture)[0].dtype == ms.float16
    assert network.num_parameters() == sum(a.size for a in load_file(MODEL / "vqvae" / WEIGHTS).values())
