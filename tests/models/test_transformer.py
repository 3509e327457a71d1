import mindspore as ms
import numpy as np
import pytest
from mindspore import Tensor

from mindone_vq import Transformer2DModel

SMALL = dict(
    num_attention_heads=2,
    attention_head_dim=8,
    num_layers=1,
    cross_attention_dim=12,
    sample_size=4,
    num_vector_embeds=9,
    num_embeds_ada_norm=10,
)


def run(model, timestep, batch=2):
    x_t = Tensor(np.arange(batch * 16).reshape(batch, 16) % 9, ms.int32)
    text = Tensor(np.ones((batch, 3, 12), np.float32))
    return model(x_t, text, timestep)[0].asnumpy()


def test_the_output_is_log_probabilities_of_the_codes_without_the_mask():
    output = run(Transformer2DModel(**SMALL), 3)
    assert output.shape == (2, 8, 16)
    assert output.dtype == np.float32
    assert np.allclose(np.exp(output).sum(1), 1, atol=1e-5)


def test_a_timestep_may_be_a_number_a_scalar_or_one_for_each_image():
    model = Transformer2DModel(**SMALL)
    expected = run(model, 3)
    assert np.array_equal(run(model, Tensor(3, ms.int32)), expected)
    assert np.array_equal(run(model, Tensor([3, 3], ms.int32)), expected)
    mixed = run(model, Tensor([3, 8], ms.int32))
    assert np.allclose(mixed[0], expected[0], atol=1e-6)
    assert not np.allclose(mixed[1], expected[1], atol=1e-3)


def test_an_output_object_is_returned_when_asked_for():
    model = Transformer2DModel(**SMALL)
    x_t, text = Tensor(np.zeros((1, 16)), ms.int32), Tensor(np.ones((1, 3, 12), np.float32))
    output = model(x_t, text, 3, return_dict=True)
    assert output.sample.shape == output[0].shape == output["sample"].shape == (1, 8, 16)


@pytest.mark.parametrize("norm_type", ["layer_norm", "ada_norm"])
def test_timesteps_mean_ada_norm_whatever_the_config_calls_it(norm_type):
    model = Transformer2DModel(**SMALL, norm_type=norm_type)
    assert type(model.transformer_blocks[0].norm1).__name__ == "AdaLayerNorm"


@pytest.mark.parametrize(
    "wrong, named",
    [
        (dict(in_channels=4), "in_channels"),
        (dict(patch_size=2), "patch_size"),
        (dict(only_cross_attention=True), "only_cross_attention"),
        (dict(double_self_attention=True), "double_self_attention"),
        (dict(attention_type="gated"), "attention_type"),
        (dict(caption_channels=8), "caption_channels"),
        (dict(num_vector_embeds=None), "num_vector_embeds"),
        (dict(sample_size=None), "sample_size"),
        (dict(sample_size=[4, 6]), "square"),
        (dict(num_embeds_ada_norm=None, norm_type="ada_norm"), "num_embeds_ada_norm"),
        (dict(norm_type="ada_norm_zero"), "norm_type"),
        (dict(activation_fn="swiglu"), "activation_fn"),
    ],
)
def test_other_kinds_of_transformer_are_refused(wrong, named):
    with pytest.raises(ValueError, match=named):
        Transformer2DModel(**{**SMALL, **wrong})
