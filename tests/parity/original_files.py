"""The files of microsoft/VQ-Diffusion's models, as the original code writes them."""

import gzip
import math
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Optional
from unittest import mock

import torch

from tests.parity.original_networks import BYTES, LENGTH, MERGES, VOCABULARY, Codec, Sizes, under

TITLE = '"bpe_simple_vocab_16e6.txt#version: 0.2'


def merges_file(path: Path, merges=MERGES) -> Path:
    data = "\n".join([TITLE, *merges, ""]).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def diffusion_buffers(timesteps: int) -> dict:
    """The tables of the chain; those of whole products have one entry more, and may end in log(0)."""
    names = ("log_at", "log_bt", "log_ct", "log_1_min_ct")
    whole = ("log_cumprod_at", "log_cumprod_bt", "log_cumprod_ct", "log_1_min_cumprod_ct")
    tables = {name: -torch.rand(timesteps) for name in names}
    tables.update({name: torch.cat([-torch.rand(timesteps), torch.tensor([-math.inf])]) for name in whole})
    return {**tables, "Lt_history": torch.zeros(timesteps), "Lt_count": torch.zeros(timesteps)}


def text_buffers(sizes: Sizes) -> dict:
    pixels = sizes.grid**2
    masks = {f"transformer.blocks.{i}.attn2.mask": torch.ones(1, 1, pixels, pixels) for i in range(sizes.layers)}
    return {**masks, "condition_emb.text_projection": torch.randn(sizes.text, sizes.text).half()}


# The class of the model and of its denoiser, the attention and the feed-forward layer; of the VQ-VAE.
FAMILIES = {
    "text": ("dalle.DALLE", "Text2ImageTransformer", "selfcross", "fc"),
    "classes": ("conditional_dalle.C_DALLE", "Condition2ImageTransformer", "selfcondition", "conv_mlp"),
    "nothing": ("unconditional_dalle.UC_DALLE", "UnCondition2ImageTransformer", "self", "conv_mlp"),
}
CODECS = {
    "ema": "ema_vqvae.PatchVQVAE",
    "taming": "taming_vqvae.TamingVQVAE",
    "gumbel": "taming_vqvae.TamingGumbelVQVAE",
}
# How a text becomes tokens, and how a condition becomes an embedding.
TOKENIZER = f"""\
    condition_info: {{key: text}}
    condition_codec_config:
      target: image_synthesis.modeling.codecs.text_codec.tokenize.Tokenize
      params: {{context_length: {LENGTH}, add_start_and_end: True, with_mask: True, pad_value: 0, clip_embedding: False,
        tokenizer_config: {{target: clip.simple_tokenizer.SimpleTokenizer, params: {{end_idx: {VOCABULARY - BYTES}}}}}}}
"""
EMBEDDINGS = {
    "text": """\
        condition_emb_config:
          target: image_synthesis.modeling.embeddings.clip_text_embedding.CLIPTextEmbedding
          params: {{clip_name: ViT-B/32, num_embed: 520, normalize: True, pick_last_embedding: False,
            keep_seq_len_dim: False, additional_last_embedding: False, embed_dim: {width}}}
""",
    "classes": """\
        condition_emb_config:
          target: image_synthesis.modeling.embeddings.class_embedding.ClassEmbedding
          params: {{num_embed: 1000, embed_dim: 24, identity: True}}
""",
    "nothing": "",
}


def config_text(sizes: Sizes, condition: str, codec: Codec, class_number: Optional[int] = None) -> str:
    """A YAML file as there is one for each model, without most of what is about training."""
    model, transformer, attention, mlp = FAMILIES[condition]
    reduced = 0 if codec.map is None else int(codec.map.max()) + 1
    of_codec = "" if codec.kind == "ema" else f", quantize_number: {reduced}, num_tokens: {len(codec.codebook())}"
    extra = f"condition_dim: {sizes.text}" if condition == "text" else "class_type: adalayernorm"
    extra += "" if class_number is None else f", class_number: {class_number}"
    return f"""\
model:
  target: image_synthesis.modeling.models.{model}
  params:
    content_info: {{key: image}}
{TOKENIZER if condition == "text" else ""}\
    content_codec_config:
      target: image_synthesis.modeling.codecs.image_codec.{CODECS[codec.kind]}
      params: {{trainable: False, token_shape: [{sizes.grid}, {sizes.grid}]{of_codec}}}
    diffusion_config:      # of the denoiser
      target: image_synthesis.modeling.transformers.diffusion_transformer.DiffusionTransformer
      params:
        diffusion_step: {sizes.timesteps}
        alpha_init_type: 'alpha1'
        mask_weight: [1, 1]
        transformer_config:
          target: image_synthesis.modeling.transformers.transformer_utils.{transformer}
          params: {{attn_type: {attention}, n_layer: {sizes.layers}, content_seq_len: {sizes.grid**2},
            content_spatial_size: [{sizes.grid}, {sizes.grid}], n_embd: {sizes.width}, n_head: {sizes.heads},
            resid_pdrop: 0.0, block_activate: GELU2, timestep_type: adalayernorm, mlp_type: {mlp},
            mlp_hidden_times: {sizes.mlp}, {extra}}}
{EMBEDDINGS[condition].format(width=sizes.text)}\
        content_emb_config:
          target: image_synthesis.modeling.embeddings.dalle_mask_image_embedding.DalleMaskImageEmbedding
          params: {{num_embed: {sizes.codes}, spatial_size: !!python/tuple [{sizes.table}, {sizes.table}],
            embed_dim: {sizes.width}, pos_emb_type: embedding}}
solver:
  ema: {{decay: 0.99, device: cpu}}
"""


def codec_config_text(codec: "Codec") -> str:
    """The YAML file of a codec."""
    shape = codec.network.config
    ends = (
        f"{{double_z: false, z_channels: {shape.latent_channels}, resolution: 16, in_channels: 3, out_ch: 3, ch: 32, "
        f"ch_mult: [1, 2], num_res_blocks: {shape.layers_per_block}, attn_resolutions: [8], dropout: 0.0}}"
    )
    targets = {"ema": "patch_vqgan.PatchVQGAN", "gumbel": "vqgan.GumbelVQ", "taming": "vqgan.VQModel"}
    halves = f"""\
    trainable: true
    quantizer_type: EMAVQ
    quantizer_dis_type: euclidean
    encoder_config: {{target: patch_vqgan.Encoder, params: {ends}}}
    decoder_config: {{target: patch_vqgan.Decoder, params: {ends}}}
"""
    whole = f"""\
    monitor: val/rec_loss
    ddconfig: {ends}
    lossconfig: {{target: image_synthesis.taming.modules.losses.vqperceptual.DummyLoss}}
"""
    return f"""\
model:
  target: image_synthesis.{targets[codec.kind]}
  params:
    n_embed: {shape.num_vq_embeddings}
    embed_dim: {shape.vq_embed_dim}
{halves if codec.kind == "ema" else whole}"""


def optimizer_state() -> dict:
    weight = torch.nn.Parameter(torch.randn(3, 2))
    weight.grad = torch.randn(3, 2)
    optimizer = torch.optim.AdamW([weight], betas=(0.9, 0.96))
    optimizer.step()
    return {"none": {"optimizer": {"module": optimizer.state_dict()}, "scheduler": {"last_epoch": 0, "cooldown": 0}}}


@dataclass
class Original:
    """What a model's files hold.

    Attributes:
        model: the entry ``model`` of the checkpoint.
        config: the YAML file.
        codec: what the file of codes is of.
        ema: the entry ``ema``, without the prefix ``transformer.``.
        not_needed: the keys of ``model`` that nothing is made of.
    """

    model: dict
    config: str
    codec: Codec
    ema: Optional[dict] = None
    not_needed: set = field(default_factory=set)

    @classmethod
    def of(cls, trained: dict, averaged: Optional[dict], buffers: dict, codec: Codec, config: str) -> "Original":
        """``trained`` and ``averaged`` are what lies under ``transformer.``, before and after averaging."""
        in_codec = codec.tensors_in_model()
        running = {key for key in in_codec if key.endswith(("cluster_size", "embedding_avg"))}
        model = {**in_codec, **under("transformer.", {**trained, **buffers})}
        ema = None if averaged is None else {**averaged, **buffers}
        return cls(model, config, codec, ema, running | set(under("transformer.", buffers)))

    def changed(self, drop=(), **changes) -> "Original":
        """Without some keys of ``model``, with others in place of it."""
        model = {key: value for key, value in self.model.items() if key not in drop}
        return replace(self, **{"model": model, **changes})

    def write_inputs(self, folder: Path, tokenizer: Optional[str] = None) -> None:
        """What is read beside the checkpoint: config.yaml, and codes.pt and the tokenizer where the model has them."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(self.config, encoding="utf-8")
        if self.codec.map is not None:
            torch.save(self.codec.map, folder / "codes.pt")
        if tokenizer is not None:
            merges_file(folder / tokenizer)

    def write(self, folder: Path, tokenizer: Optional[str] = None) -> Path:
        """The checkpoint model.pth, and its inputs."""
        self.write_inputs(folder, tokenizer)
        content = {"last_epoch": 7, "last_iter": 1234, "model": OrderedDict(self.model)}
        if self.ema is not None:
            content["ema"] = OrderedDict(self.ema)
        content["clip_grad_norm"] = {"start_iteration": 0, "end_iteration": 5000, "max_norm": 0.5, "last_epoch": 7}
        content["optimizer_and_scheduler"] = optimizer_state()
        return save_from_gpu(content, folder / "model.pth")


def save_from_gpu(content: dict, path: Path) -> Path:
    """The storages are marked as they are when they lay on a GPU."""
    with mock.patch("torch.serialization.location_tag", return_value="cuda:0"):
        torch.save(content, path)
    return path


class TrainingCallback:
    """What Lightning pickles beside the weights; the readers have no such class."""

    def __init__(self, best: float) -> None:
        self.best = best


def lightning_content(codec: Codec) -> dict:
    """FFHQ's codec lies in the file of a whole model of two stages, with the objects of its training."""
    gpt = {"tok_emb.weight": torch.randn(12, 8), "pos_emb": torch.randn(1, 16, 8), "blocks.0.ln1.weight": torch.ones(8)}
    gpt.update({"blocks.0.attn.mask": torch.ones(1, 1, 16, 16), "head.weight": torch.randn(12, 8)})
    loss = {
        "loss.discriminator.main.0.weight": torch.randn(4, 3, 4, 4),
        "loss.discriminator.main.0.bias": torch.ones(4),
    }
    weights = {**under("first_stage_model.", {**codec.tensors(), **loss}), **under("transformer.", gpt)}
    training = {"epoch": 3, "global_step": 20, "pytorch-lightning_version": "1.0.8"}
    return {**training, "callbacks": {TrainingCallback: TrainingCallback(0.5)}, "state_dict": OrderedDict(weights)}
