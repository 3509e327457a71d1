"""diffusers and transformers load what we save; we load what they save. Other files compare the outputs."""

import json

import mindspore as ms
import numpy as np
import pytest
import torch
from diffusers import VQDiffusionScheduler as TorchScheduler
from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import (
    LearnedClassifierFreeSamplingEmbeddings as TorchEmbeddings,
)
from mindspore import Tensor
from transformers import CLIPTokenizer as TorchTokenizer

from mindone_vq import (
    CLIPTextModel,
    CLIPTokenizer,
    LearnedClassifierFreeSamplingEmbeddings,
    Transformer2DModel,
    VQDiffusionScheduler,
    VQModel,
)
from mindone_vq.demo import SHAPES_MODEL
from mindone_vq.weights.rules import state_dict_parameters
from tests.numerics import relative_error
from tests.parity.peers import (
    TorchCLIP,
    TorchTransformer,
    TorchVQModel,
    pair_clip,
    pair_transformer,
    pair_vq,
    torch_component,
    without_ftfy,
)
from tests.parity.test_clip import SMALL
from tests.parity.test_transformer import BASE, inputs
from tests.parity.test_vq_model import ATTENTION, SPATIAL


def assert_same_weights(ours, theirs):
    """Bit for bit, and of all entries; ``theirs`` may be of a smaller type."""
    expected = {key: value.float().numpy() for key, value in theirs.state_dict().items()}
    own = {key: parameter.asnumpy() for key, parameter in state_dict_parameters(ours).items()}
    assert own.keys() == expected.keys()
    assert all(np.array_equal(own[key], expected[key]) for key in own)


@pytest.mark.parametrize("config", [ATTENTION, SPATIAL], ids=["group", "spatial"])
def test_vq_model(config, tmp_path):
    ours, theirs = pair_vq(**config)
    ours.save_pretrained(tmp_path / "ours")
    reloaded = TorchVQModel.from_pretrained(tmp_path / "ours")
    assert_same_weights(ours, reloaded)
    assert reloaded.config.norm_type == theirs.config.norm_type
    theirs.save_pretrained(tmp_path / "theirs")
    loaded = VQModel.from_pretrained(tmp_path / "theirs")
    assert_same_weights(loaded, theirs)
    assert json.dumps(loaded.config) == json.dumps(ours.config)  # a file has lists for tuples


def test_diffusers_pipeline_can_decode_with_the_bundled_codec(rng):
    """It takes the size of a code from the config."""
    folder = SHAPES_MODEL / "vqvae"
    ours, theirs = VQModel.from_pretrained(folder), torch_component(TorchVQModel, folder)
    codes = rng.integers(0, 256, (1, 2, 3))
    quantized = theirs.quantize.get_codebook_entry(torch.tensor(codes), (1, 2, 3, theirs.config.vq_embed_dim))
    expected = (theirs.decode(quantized, force_not_quantize=True).sample / 2 + 0.5).clamp(0, 1)
    assert relative_error(ours.decode_codes(Tensor(codes, ms.int32)), expected) <= 1e-5


def test_transformer(rng, tmp_path):
    config = dict(BASE, num_attention_heads=3, attention_head_dim=8)
    ours, _ = pair_transformer(**config)
    ours.save_pretrained(tmp_path / "ours")
    reloaded = torch_component(TorchTransformer, tmp_path / "ours")
    x_t, text = inputs(config, rng)
    expected = reloaded(torch.tensor(x_t), torch.tensor(text), torch.tensor(3)).sample
    assert relative_error(ours(Tensor(x_t, ms.int32), Tensor(text), 3)[0], expected) <= 1e-5
    reloaded.save_pretrained(tmp_path / "theirs", max_shard_size="10KB")
    assert len(list((tmp_path / "theirs").glob("*-of-*.safetensors"))) > 1
    assert_same_weights(Transformer2DModel.from_pretrained(tmp_path / "theirs"), reloaded)


def test_text_encoder(tmp_path):
    ours, theirs = pair_clip(**SMALL)
    ours.save_pretrained(tmp_path / "ours")
    assert_same_weights(ours, TorchCLIP.from_pretrained(tmp_path / "ours"))
    theirs.half().save_pretrained(tmp_path / "theirs", variant="fp16")
    loaded = CLIPTextModel.from_pretrained(tmp_path / "theirs", variant="fp16")
    assert loaded.dtype == ms.float32
    assert_same_weights(loaded, theirs)


def test_bfloat16_weights_are_read(tmp_path):
    _, theirs = pair_clip(**SMALL)
    theirs.bfloat16().save_pretrained(tmp_path)
    assert_same_weights(CLIPTextModel.from_pretrained(tmp_path), theirs)


@pytest.mark.parametrize("learnable", [True, False])
def test_null_text(learnable, rng, tmp_path):
    ours = LearnedClassifierFreeSamplingEmbeddings(learnable, 5, 3)
    if learnable:
        ours.embeddings.set_data(Tensor(rng.standard_normal((3, 5)).astype(np.float32)))
    ours.save_pretrained(tmp_path / "ours")
    reloaded = TorchEmbeddings.from_pretrained(tmp_path / "ours")
    assert reloaded.learnable is learnable
    if learnable:
        assert np.array_equal(reloaded.embeddings.numpy(), ours.embeddings.asnumpy())
    reloaded.save_pretrained(tmp_path / "theirs")
    loaded = LearnedClassifierFreeSamplingEmbeddings.from_pretrained(tmp_path / "theirs")
    if learnable:
        assert np.array_equal(loaded.embeddings.asnumpy(), ours.embeddings.asnumpy())
    else:
        assert loaded.embeddings is None


def test_scheduler(tmp_path):
    ours = VQDiffusionScheduler(33, 20, alpha_cum_start=0.98, gamma_cum_start=0.01)
    ours.save_pretrained(tmp_path / "ours")
    reloaded = TorchScheduler.from_pretrained(tmp_path / "ours")
    assert np.allclose(np.exp(reloaded.log_cumprod_at.numpy()[:-1]), ours.schedule.keep, atol=1e-7)
    reloaded.save_pretrained(tmp_path / "theirs")
    assert VQDiffusionScheduler.from_pretrained(tmp_path / "theirs").config == ours.config


def test_tokenizer(demo_pipe, tmp_path):
    prompts = ["A LARGE red circle!", "日本 <|endoftext|> ring", ""]
    demo_pipe.tokenizer.save_pretrained(tmp_path / "ours")
    reloaded = without_ftfy(TorchTokenizer.from_pretrained(tmp_path / "ours"))
    options = dict(padding="max_length", max_length=20)
    assert reloaded(prompts, **options).input_ids == demo_pipe.tokenizer(prompts, **options).input_ids
    assert reloaded.model_max_length == demo_pipe.tokenizer.model_max_length == 12
    reloaded.save_pretrained(tmp_path / "theirs")
    loaded = CLIPTokenizer.from_pretrained(tmp_path / "theirs")
    assert loaded(prompts, **options).input_ids == demo_pipe.tokenizer(prompts, **options).input_ids
