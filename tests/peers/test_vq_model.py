"""VQModel in the cases of diffusers' tests/models/test_models_vq.py.

With them those of ModelTesterMixin and UNetTesterMixin, tests/models/test_modeling_common.py, that it inherits. What
was stored from PyTorch's random numbers there is compared with the peer itself here.
"""

import inspect
import json

import mindspore as ms
import numpy as np
import pytest
import torch
from diffusers import VQModel as TorchVQModel
from mindspore import Tensor

from mindone_vq import VQModel
from mindone_vq.training.update.optimizer import WeightAverage
from tests.numerics import relative_error
from tests.parity.peers import randomized
from tests.tiny_pipeline import random_weights

CONFIG = dict(
    block_out_channels=[8, 16],
    norm_num_groups=8,
    in_channels=3,
    out_channels=3,
    down_block_types=["DownEncoderBlock2D"] * 2,
    up_block_types=["UpDecoderBlock2D"] * 2,
    latent_channels=3,
)


def pictures():
    return np.random.default_rng(1).uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)


def made(**changes):
    return random_weights(VQModel(**{**CONFIG, **changes}), np.random.default_rng(0), 0.2).set_train(False)


@pytest.fixture(scope="module")
def model():
    return made()


@pytest.fixture(scope="module")
def expected(model):
    return model(Tensor(pictures()))[0].asnumpy()


@pytest.fixture(scope="module")
def loaded(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    model.save_pretrained(folder)
    return VQModel.from_pretrained(folder)


def weights(model):
    return {name: parameter.asnumpy() for name, parameter in model.parameters_dict().items()}


def assert_same_weights(first, second):
    first, second = weights(first), weights(second)
    assert len(first) > 100
    assert first.keys() == second.keys()
    assert all(np.array_equal(array, second[name]) for name, array in first.items())


def test_a_model_comes_back_from_a_folder(model, expected, loaded):
    assert np.abs(loaded(Tensor(pictures()))[0].asnumpy() - expected).max() <= 5e-5
    assert loaded.config == model.config
    assert expected.std() > 0.1


def test_a_loaded_model_has_weights_of_the_same_shapes(model, loaded):
    shapes = {name: array.shape for name, array in weights(model).items()}
    assert len(shapes) > 100
    assert {name: array.shape for name, array in weights(loaded).items()} == shapes


def test_a_variant_is_loaded_by_its_name_alone(model, tmp_path):
    model.save_pretrained(tmp_path, variant="fp16")
    assert_same_weights(VQModel.from_pretrained(tmp_path, variant="fp16"), model)
    with pytest.raises(OSError, match=r"expected diffusion_pytorch_model\.safetensors"):
        VQModel.from_pretrained(tmp_path)


def test_a_model_that_ran_as_a_graph_is_saved_and_loaded(model, tmp_path):
    ms.jit(model.quantize)(Tensor(np.zeros((1, 3, 2, 2), np.float32)))
    model.save_pretrained(tmp_path)
    loaded = VQModel.from_pretrained(tmp_path)
    assert type(loaded) is VQModel
    assert_same_weights(loaded, model)


@pytest.fixture(scope="module")
def to_cast():
    return made()


@pytest.mark.parametrize("dtype", [ms.float32, ms.float16, ms.bfloat16], ids=str)
def test_weights_have_the_type_that_was_asked_for(dtype, to_cast, tmp_path):
    assert to_cast.to(dtype).dtype == dtype
    to_cast.save_pretrained(tmp_path)
    loaded = VQModel.from_pretrained(tmp_path, mindspore_dtype=dtype)
    assert {parameter.dtype for parameter in loaded.get_parameters()} == {dtype}


def test_half_and_float_cast_the_weights(to_cast):
    for cast, dtype in ((to_cast.half, ms.float16), (to_cast.float, ms.float32)):
        cast()
        assert {parameter.dtype for parameter in to_cast.get_parameters()} == {dtype}


def test_the_same_pictures_give_the_same_output(model, expected):
    assert np.isfinite(expected).all()
    assert np.abs(model(Tensor(pictures()))[0].asnumpy() - expected).max() <= 1e-5


def test_a_picture_keeps_its_shape(expected):
    assert expected.shape == pictures().shape


def test_groups_and_widths_of_another_size():
    model = made(norm_num_groups=16, block_out_channels=(16, 32))
    assert model(Tensor(pictures()))[0].shape == (2, 3, 16, 16)


def test_the_input_is_called_sample(model):
    assert next(iter(inspect.signature(model.construct).parameters)) == "sample"


def test_outputs_are_tuples_with_names(model, expected):
    encoded = model.encode(Tensor(pictures()), return_dict=False)
    assert isinstance(encoded, tuple)
    assert encoded[0] is encoded.latents
    decoded, whole = model.decode(encoded.latents, return_dict=False), model(Tensor(pictures()), return_dict=True)
    for output in (decoded, whole):
        assert isinstance(output, tuple)
        assert output[0] is output.sample
        assert output[1] is output.commit_loss
        assert np.abs(output.sample.asnumpy() - expected).max() <= 1e-5


def test_the_average_of_the_weights_follows_their_training():
    one_level = {name: CONFIG[name][:1] for name in ("block_out_channels", "down_block_types", "up_block_types")}
    model = made(mid_block_add_attention=False, **one_level).set_train(True)
    x, target = Tensor(pictures()), Tensor(pictures()[::-1].copy())
    parameters = model.trainable_params()
    average = WeightAverage(parameters, 0.9)
    before = [parameter.asnumpy().copy() for parameter in parameters]

    def loss():
        return ((model(x)[0] - target) ** 2).mean()

    value, gradients = ms.value_and_grad(loss, None, parameters)()
    for parameter, gradient in zip(parameters, gradients):
        parameter.set_data(Tensor(parameter.asnumpy() - 1e-2 * gradient.asnumpy()))
    average()
    assert float(loss()) < float(value)
    moved = {
        parameter.name for parameter, old in zip(parameters, before) if not np.array_equal(parameter.asnumpy(), old)
    }
    assert {"encoder.conv_in.weight", "decoder.conv_out.weight"} <= moved
    for kept, parameter, old in zip(average.state(), parameters, before):
        assert np.abs(kept.asnumpy() - (0.9 * old + 0.1 * parameter.asnumpy())).max() <= 1e-6


def test_the_constructor_takes_no_other_argument():
    kinds = {each.kind for each in inspect.signature(VQModel.__init__).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds
    with pytest.raises(TypeError, match="in_channel"):
        VQModel(**CONFIG, in_channel=3)


def test_attributes_of_a_model(model, caplog, recwarn):
    model.dummy_attribute = 5
    assert model.dummy_attribute == 5
    assert model.save_pretrained == model.save_pretrained
    assert model.config.latent_channels == 3
    assert not caplog.records
    assert not recwarn.list
    with pytest.raises(AttributeError, match="'VQModel' object has no attribute 'does_not_exist'"):
        model.does_not_exist  # noqa: B018


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_shards(variant, model, tmp_path):
    size = 4 * sum(parameter.size for parameter in model.get_parameters())
    model.save_pretrained(tmp_path, variant=variant, max_shard_size=f"{int(0.75 * size / 1024)}KB")
    infix = f".{variant}" if variant else ""
    index = json.loads((tmp_path / f"diffusion_pytorch_model.safetensors.index{infix}.json").read_text())
    shards = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert shards == [f"diffusion_pytorch_model{infix}-0000{i}-of-00002.safetensors" for i in (1, 2)]
    assert sorted(set(index["weight_map"].values())) == shards
    assert_same_weights(VQModel.from_pretrained(tmp_path, variant=variant), model)


def test_weights_are_written_as_safetensors_alone(model, tmp_path):
    model.save_pretrained(tmp_path / "safe", safe_serialization=True)
    assert (tmp_path / "safe" / "diffusion_pytorch_model.safetensors").is_file()
    with pytest.raises(ValueError, match="safe_serialization"):
        model.save_pretrained(tmp_path / "pickle", safe_serialization=False)
    assert not list(tmp_path.rglob("*.bin"))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """The folder of a model of diffusers, and what it gives; its few codes lie too far apart for a tie."""
    torch.manual_seed(0)
    theirs, folder = randomized(TorchVQModel(num_vq_embeddings=16, **CONFIG), 3), tmp_path_factory.mktemp("published")
    theirs.quantize.embedding.weight.data.normal_()
    theirs.save_pretrained(folder)
    with torch.no_grad():
        return folder, theirs(torch.tensor(pictures()))


@pytest.fixture(scope="module")
def output(published):
    return VQModel.from_pretrained(published[0])(Tensor(pictures()))


@pytest.mark.parity
def test_a_published_folder_loads_and_says_what_was_missing(published):
    model, info = VQModel.from_pretrained(published[0], output_loading_info=True)
    assert type(model) is VQModel
    assert len(info["missing_keys"]) == 0


@pytest.mark.parity
def test_a_published_model_gives_the_peers_pictures(output, published):
    assert relative_error(output.sample, published[1].sample) <= 1e-5


@pytest.mark.parity
def test_a_published_model_gives_the_peers_commitment_loss(output, published):
    loss = float(published[1].commit_loss)
    assert loss > 0.1
    assert abs(float(output.commit_loss) - loss) <= 1e-5 * loss
