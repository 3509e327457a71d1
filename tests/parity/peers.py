"""The peers: the same networks in PyTorch, with random weights, and their weights in ours."""

import diffusers
import mindspore as ms
import numpy as np
import torch
from diffusers import VQModel as TorchVQModel
from diffusers.models import Transformer2DModel as TorchTransformer
from mindspore import nn
from safetensors.torch import load_file
from transformers import CLIPTextConfig
from transformers import CLIPTextModel as TorchCLIP
from transformers.models.clip.tokenization_clip import BasicTokenizer

from mindone_vq import CLIPTextModel, Transformer2DModel, VQModel
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.store import load_into


def randomized(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Every weight moved away from its initial value: zero biases and unit norms would hide a mistake."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def with_weights_of(cell: nn.Cell, module: torch.nn.Module, dtype: ms.Type = ms.float32) -> nn.Cell:
    arrays = {key: LazyTensor.of(value.numpy()) for key, value in module.state_dict().items()}
    load_into(cell, arrays, dtype)
    return cell.set_train(False)


def _config(module) -> dict:
    return {key: value for key, value in module.config.items() if not key.startswith("_")}


def pair_vq(seed: int = 0, dtype: ms.Type = ms.float32, **config):
    theirs = randomized(TorchVQModel(**config), seed)
    return with_weights_of(VQModel.from_config(_config(theirs)), theirs, dtype), theirs


def pair_transformer(seed: int = 0, dtype: ms.Type = ms.float32, **config):
    theirs = randomized(TorchTransformer(norm_type="ada_norm", **config), seed)
    return with_weights_of(Transformer2DModel(**config), theirs, dtype), theirs


def pair_clip(seed: int = 0, dtype: ms.Type = ms.float32, **config):
    theirs = randomized(TorchCLIP(CLIPTextConfig(**config)), seed)
    return with_weights_of(CLIPTextModel(**config), theirs, dtype), theirs


def torch_component(kind, folder):
    """``kind.from_pretrained``; by hand for the transformer of diffusers 0.34, where that recurses without end."""
    if kind is TorchTransformer and diffusers.__version__.startswith("0.34."):
        network = kind(**{key: value for key, value in kind.load_config(folder).items() if key[0] != "_"})
        for file in folder.glob("*.safetensors"):
            network.load_state_dict(load_file(file), strict=False)
        return network.eval()
    return kind.from_pretrained(folder)


def without_ftfy(tokenizer):
    """transformers' tokenizer, cleaning text as it does where ftfy is not installed."""
    tokenizer.fix_text, tokenizer.nlp = None, BasicTokenizer(strip_accents=False, do_split_on_punc=False)
    return tokenizer


def torch_pipeline(folder):
    """diffusers' pipeline, assembled component by component: no current release loads such a folder whole."""
    from diffusers import VQDiffusionScheduler as TorchScheduler
    from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import (
        LearnedClassifierFreeSamplingEmbeddings as TorchEmbeddings,
    )
    from diffusers.pipelines.deprecated.vq_diffusion.pipeline_vq_diffusion import (
        VQDiffusionPipeline as TorchPipeline,
    )
    from transformers import CLIPTokenizer as TorchTokenizer

    classes = {
        "vqvae": TorchVQModel,
        "transformer": TorchTransformer,
        "text_encoder": TorchCLIP,
        "tokenizer": TorchTokenizer,
        "scheduler": TorchScheduler,
        "learned_classifier_free_sampling_embeddings": TorchEmbeddings,
    }
    parts = {name: torch_component(kind, folder / name) for name, kind in classes.items()}
    parts["tokenizer"] = without_ftfy(parts["tokenizer"])
    pipe = TorchPipeline(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def draw_like_ours(monkeypatch, seed: int) -> None:
    """Replaces the peer's Gumbel draw by the inverse CDF on the uniforms that our pipeline draws from ``seed``."""
    generator = np.random.default_rng(seed)

    def chosen(logits, _generator):
        batch, _, pixels = logits.shape
        u = torch.tensor(generator.random((batch, pixels), dtype=np.float32))
        cumulative = logits.exp().cumsum(1)
        index = (cumulative <= u.unsqueeze(1) * cumulative[:, -1:]).sum(1, keepdim=True)
        return torch.zeros_like(logits).scatter(1, index.clamp(max=logits.shape[1] - 1), 1.0)

    monkeypatch.setattr("diffusers.schedulers.scheduling_vq_diffusion.gumbel_noised", chosen)
