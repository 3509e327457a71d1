"""Keywords of from_pretrained, from_config and save_pretrained."""

import copy
import json
import pickle

import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor, nn, ops

from mindone_vq import (
    CLIPTextModel,
    CLIPTokenizer,
    DiffusionPipeline,
    Transformer2DModel,
    VQDiffusionPipeline,
    VQDiffusionScheduler,
    VQModel,
)
from mindone_vq.weights.hub import push
from mindone_vq.weights.store import size_in_bytes
from tests.tiny_pipeline import random_pipeline


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    random_pipeline(np.random.default_rng(0)).save_pretrained(path)
    return path


@pytest.mark.parametrize("source", ["folder", "nobody/nothing"])
@pytest.mark.parametrize(
    "kind, subfolder",
    [
        (VQDiffusionPipeline, None),
        (DiffusionPipeline, None),
        (VQModel, "vqvae"),
        (CLIPTextModel, "text_encoder"),
        (VQDiffusionScheduler, "scheduler"),
        (CLIPTokenizer, "tokenizer"),
    ],
)
def test_an_unknown_keyword_is_refused_for_a_folder_and_for_a_hub_id(kind, subfolder, source, folder, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    options = {} if subfolder is None else {"subfolder": subfolder}
    source = folder if source == "folder" or kind is DiffusionPipeline else source
    for wrong, message in (
        ({"torch_dtype": "float16"}, r"no argument torch_dtype: the type of the weights is mindspore_dtype="),
        ({"revison": "main"}, "no argument revison: did you mean revision\\?"),
        ({"device_map": "auto"}, "device_map: the device is chosen with mindspore.set_device"),
        ({"xyzzy": 1}, "no argument xyzzy: leave it out"),
    ):
        with pytest.raises(TypeError, match=message):
            kind.from_pretrained(source, **options, **wrong)
    if kind in (VQDiffusionPipeline, VQModel, CLIPTextModel):
        with pytest.raises(TypeError, match="did you mean mindspore_dtype"):
            kind.from_pretrained(source, **options, mindspore_dtpye=ms.float16)


def test_config_entries_can_be_changed(folder):
    scheduler = VQDiffusionScheduler.from_pretrained(folder, subfolder="scheduler", num_train_timesteps=50)
    assert scheduler.num_train_timesteps == scheduler.config.num_train_timesteps == len(scheduler.timesteps) == 50
    config = VQDiffusionScheduler.load_config(folder, subfolder="scheduler")
    assert VQDiffusionScheduler.from_config(config, num_train_timesteps=7).num_train_timesteps == 7
    assert VQDiffusionScheduler.from_config(config).num_train_timesteps == 10
    assert Transformer2DModel.from_pretrained(folder, subfolder="transformer", dropout=0.5).config.dropout == 0.5
    with pytest.raises(TypeError, match="no argument num_train_timestep: did you mean num_train_timesteps?"):
        VQDiffusionScheduler.from_config(config, num_train_timestep=7)
    for wrong in (folder / "scheduler", str(folder)):
        with pytest.raises(TypeError, match=r"from_config takes a config .*VQDiffusionScheduler.from_pretrained"):
            VQDiffusionScheduler.from_config(wrong)


def test_a_config_is_frozen_and_names_its_class(folder):
    config = VQDiffusionScheduler(5).config
    assert config["_class_name"] == config._class_name == "VQDiffusionScheduler"
    for change in (
        lambda: config.update(num_train_timesteps=3),
        lambda: config.__setitem__("num_train_timesteps", 3),
        lambda: setattr(config, "num_train_timesteps", 3),
        lambda: config.pop("num_train_timesteps"),
        lambda: config.clear(),
    ):
        with pytest.raises(TypeError, match="cannot be changed"):
            change()
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
    assert VQDiffusionScheduler(**config).config == config


def test_a_type_for_each_component(folder):
    pipe = VQDiffusionPipeline.from_pretrained(folder, mindspore_dtype={"transformer": ms.float16})
    assert (pipe.dtype, pipe.vqvae.dtype) == (ms.float16, ms.float32)
    pipe = DiffusionPipeline.from_pretrained(folder, mindspore_dtype={"vqvae": ms.float32, "default": ms.float16})
    assert (type(pipe), pipe.dtype, pipe.vqvae.dtype) == (VQDiffusionPipeline, ms.float16, ms.float32)
    with pytest.raises(TypeError, match="mindspore_dtype has unet; the components are vqvae"):
        VQDiffusionPipeline.from_pretrained(folder, mindspore_dtype={"unet": ms.float16})
    with pytest.raises(TypeError, match="must be mindspore.float32"):
        VQDiffusionPipeline.from_pretrained(folder, mindspore_dtype=ms.int32)


def test_safetensors_alone_or_pickles_alone(folder):
    assert VQModel.from_pretrained(folder, subfolder="vqvae", use_safetensors=True).dtype == ms.float32
    for kind, options in ((VQModel, {"subfolder": "vqvae"}), (VQDiffusionPipeline, {})):
        with pytest.raises(FileNotFoundError, match=r"expected diffusion_pytorch_model\.bin"):
            kind.from_pretrained(folder, **options, use_safetensors=False)


def test_the_index_of_an_unknown_pipeline(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    with pytest.raises(ValueError, match="index of a FluxPipeline; DiffusionPipeline knows VQDiffusionPipeline"):
        DiffusionPipeline.from_pretrained(tmp_path)


def test_what_a_pipeline_says_of_itself(folder):
    pipe = DiffusionPipeline.from_pretrained(str(folder))
    assert pipe.name_or_path == pipe.config["_name_or_path"] == str(folder)
    assert pipe.config.vqvae == ["diffusers", "VQModel"]


@pytest.mark.parametrize("size, expected", [(None, None), (7, 7), ("500MB", 5 * 10**8), ("1.5 gb", 15 * 10**8)])
def test_sizes(size, expected):
    assert size_in_bytes(size) == expected
    with pytest.raises(ValueError, match="'2 GiB' is no size"):
        size_in_bytes("2 GiB")


def test_what_cannot_be_saved_writes_nothing(folder, tmp_path):
    pipe = DiffusionPipeline.from_pretrained(folder)
    for thing in (pipe, pipe.vqvae):
        for wrong, error, named in (
            ({"safe_serialization": False}, ValueError, "only safetensors are written"),
            ({"max_shard_size": "2 GiB"}, ValueError, "is no size"),
            ({"repo_id": "me/mine"}, TypeError, "no argument repo_id unless push_to_hub=True"),
            ({"push_to_hub": True, "repo": "me/mine"}, TypeError, "no argument repo: did you mean repo_id"),
        ):
            with pytest.raises(error, match=named):
                thing.save_pretrained(tmp_path / "out", **wrong)
            assert not (tmp_path / "out").exists()


def test_a_saved_folder_is_uploaded(folder, tmp_path, monkeypatch):
    """huggingface_hub's two calls, with what they are documented to take."""
    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, *, private=None, exist_ok=False):
            calls.append(("create", repo_id, private, exist_ok))
            return type("Url", (), {"repo_id": f"me/{repo_id}" if "/" not in repo_id else repo_id})

        def upload_folder(self, *, repo_id, folder_path, commit_message, create_pr):
            names = sorted(path.name for path in folder_path.iterdir())
            calls.append(("upload", repo_id, names, commit_message, create_pr))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    scheduler = VQDiffusionScheduler(5)
    scheduler.save_pretrained(tmp_path / "mine", push_to_hub=True, token="secret", private=True, commit_message="first")
    assert calls == [
        ("token", "secret"),
        ("create", "mine", True, True),
        ("upload", "me/mine", ["scheduler_config.json"], "first", False),
    ]
    push(tmp_path / "mine", "you/yours")
    assert calls[-1][1] == "you/yours"


def test_numbers_of_parameters(folder):
    model = VQModel.from_pretrained(folder, subfolder="vqvae")
    own = model.quantize.embedding.embedding_table
    assert model.num_parameters() == sum(parameter.size for parameter in model.get_parameters())
    own.requires_grad = False
    assert model.num_parameters(only_trainable=True) == model.num_parameters() - own.size
    assert (model.half().dtype, model.float().dtype) == (ms.float16, ms.float32)


def test_a_network_without_blocks_has_no_gradient_checkpointing(folder):
    with pytest.raises(ValueError, match="CLIPTextModel does not support gradient checkpointing"):
        CLIPTextModel.from_pretrained(folder, subfolder="text_encoder").enable_gradient_checkpointing()


@pytest.mark.slow
def test_gradients_of_a_vqvae_with_checkpointing(rng):
    x, gradients = Tensor(rng.normal(size=(2, 3, 4, 4)).astype(np.float32)), []
    small = dict(block_out_channels=(4,), norm_num_groups=2, num_vq_embeddings=5, mid_block_add_attention=False)
    model = VQModel(**small)
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
        weights = [model.encoder.conv_in.weight, model.decoder.up_blocks[0].resnets[0].conv1.weight]
        gradients.append(ms.jit(ms.grad(_loss(model), None, ms.ParameterTuple(weights)), fullgraph=True)(x))
    for one, other in zip(*gradients):
        assert np.allclose(one.asnumpy(), other.asnumpy(), rtol=1e-4, atol=1e-7) and np.abs(one.asnumpy()).max() > 0


def _loss(model) -> nn.Cell:
    class Loss(nn.Cell):
        def __init__(self):
            super().__init__()
            self.model = model

        def construct(self, x):
            return ops.square(self.model(x)[0] - x).mean()

    return Loss()
