"""Checkpoints as the code of microsoft/VQ-Diffusion writes them, small and random, with the networks they hold.

The networks are PyTorch's: those of diffusers and transformers where these have them, the others written here from
their equations. Every weight is brought under its original name here, by hand: what the package knows of these names
is what the tests are about.
"""

import gzip
import math
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Optional
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextConfig

from tests.parity.peers import TorchCLIP, TorchTransformer, TorchVQModel, randomized

# The list of merges: a title, then pairs. With them 256 bytes, these at the end of a word, start and end.
TITLE = '"bpe_simple_vocab_16e6.txt#version: 0.2'
MERGES = ("a t</w>", "c at</w>", "d o", "do g</w>", "r e", "re d</w>")
BYTES = 256
VOCABULARY = 2 * BYTES + len(MERGES) + 2
START, END, PAD = VOCABULARY - 2, VOCABULARY - 1, 0
LENGTH = 77
# At the end of a word "a" is the 65th printable byte and "," the 12th; "cat" is made by the second merge, and so on.
PROMPTS = {
    "a cat": [START, BYTES + 64, 2 * BYTES + 1, END],
    "Red, dog": [START, 2 * BYTES + 5, BYTES + 11, 2 * BYTES + 3, END],
}


def padded(ids: list) -> list:
    return ids + [PAD] * (LENGTH - len(ids))


def merges_file(path: Path, merges=MERGES) -> Path:
    data = "\n".join([TITLE, *merges, ""]).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@dataclass(frozen=True)
class Sizes:
    codes: int = 12  # that the denoiser predicts
    grid: int = 4
    timesteps: int = 10
    width: int = 16
    heads: int = 2
    layers: int = 2
    text: int = 64
    table: int = 4  # rows of the position tables
    mlp: int = 4  # the feed-forward layer's width, in widths
    classes: Optional[int] = None  # rows of the class tables


# The denoisers that diffusers does not have.


class AdaptiveNorm(nn.Module):
    def __init__(self, dim, rows):
        super().__init__()
        self.emb, self.linear = nn.Embedding(rows, dim), nn.Linear(dim, 2 * dim)

    def forward(self, x, index):
        """An index beyond the table is the mean of its rows."""
        rows = torch.cat([self.emb.weight, self.emb.weight.mean(0, keepdim=True)])
        chosen = rows[index.clamp(max=len(rows) - 1)]
        scale, shift = self.linear(F.silu(chosen))[:, None].chunk(2, dim=-1)
        return F.layer_norm(x, x.shape[-1:], eps=1e-5) * (1 + scale) + shift


class SelfAttention(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.key, self.query, self.value, self.proj = (nn.Linear(dim, dim) for _ in range(4))

    def forward(self, x):
        batch, tokens, dim = x.shape
        q, k, v = (layer(x).view(batch, tokens, self.heads, -1) for layer in (self.query, self.key, self.value))
        scores = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(dim // self.heads)
        return self.proj(torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v).reshape(x.shape))


class ConvolutionalMLP(nn.Module):
    def __init__(self, dim, inner):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(dim, inner, 3, padding=1), nn.Conv2d(inner, dim, 3, padding=1)

    def forward(self, x):
        side = math.isqrt(x.shape[1])
        grid = self.conv1(x.unflatten(1, (side, side)).permute(0, 3, 1, 2))
        return self.conv2(grid * torch.sigmoid(1.702 * grid)).permute(0, 2, 3, 1).flatten(1, 2)


class Block(nn.Module):
    def __init__(self, sizes: Sizes):
        super().__init__()
        self.ln1 = AdaptiveNorm(sizes.width, sizes.timesteps)
        self.attn = SelfAttention(sizes.width, sizes.heads)
        self.ln2 = AdaptiveNorm(sizes.width, sizes.classes) if sizes.classes else nn.LayerNorm(sizes.width)
        self.mlp = ConvolutionalMLP(sizes.width, sizes.mlp * sizes.width)

    def forward(self, x, t, label):
        x = x + self.attn(self.ln1(x, t))
        return x + self.mlp(self.ln2(x) if label is None else self.ln2(x, label))


class ConvolutionalDenoiser(nn.Module):
    """Of classes (``sizes.classes``) or of nothing; its parameters have the original names."""

    def __init__(self, sizes: Sizes):
        super().__init__()
        tables = {"emb": sizes.codes + 1, "height_emb": sizes.table, "width_emb": sizes.table}
        self.content_emb = nn.ModuleDict({name: nn.Embedding(n, sizes.width) for name, n in tables.items()})
        self.blocks = nn.ModuleList([Block(sizes) for _ in range(sizes.layers)])
        self.to_logits = nn.Sequential(nn.LayerNorm(sizes.width), nn.Linear(sizes.width, sizes.codes))

    def forward(self, x_t, t, label=None):
        """(batch, pixels), (batch,), (batch,) -> log p(x_0), (batch, codes, pixels)."""
        row, column = divmod(torch.arange(x_t.shape[1]).numpy(), self.content_emb["width_emb"].num_embeddings)
        x = self.content_emb["emb"](x_t)
        x = x + self.content_emb["height_emb"](torch.tensor(row)) + self.content_emb["width_emb"](torch.tensor(column))
        for block in self.blocks:
            x = block(x, t, label)
        return F.log_softmax(self.to_logits(x), -1).transpose(1, 2)


# The text models.


@dataclass
class TextNetworks:
    """What the weights under ``transformer.`` are: the denoiser, the text encoder, the learned null text if any."""

    transformer: TorchTransformer
    clip: TorchCLIP
    null: Optional[torch.Tensor]

    @classmethod
    def random(cls, sizes: Sizes, seed: int, learned_null: bool) -> "TextNetworks":
        torch.manual_seed(seed)
        transformer = TorchTransformer(
            num_attention_heads=sizes.heads,
            attention_head_dim=sizes.width // sizes.heads,
            num_layers=sizes.layers,
            cross_attention_dim=sizes.text,
            attention_bias=True,
            sample_size=sizes.grid,
            num_vector_embeds=sizes.codes + 1,
            activation_fn="geglu-approximate",
            num_embeds_ada_norm=sizes.timesteps,
            norm_type="ada_norm",
        )
        config = CLIPTextConfig(
            vocab_size=VOCABULARY,
            hidden_size=sizes.text,
            intermediate_size=4 * sizes.text,
            num_hidden_layers=2,
            num_attention_heads=sizes.text // 64,
            max_position_embeddings=LENGTH,
            hidden_act="quick_gelu",
            eos_token_id=END,
        )
        clip = randomized(TorchCLIP(config), seed)
        for layer in clip.text_model.encoder.layers:
            for linear in layer.modules():
                if isinstance(linear, nn.Linear):  # the files have these as float16
                    linear.weight.data, linear.bias.data = linear.weight.half().float(), linear.bias.half().float()
        null = torch.randn(LENGTH, sizes.text, dtype=torch.float64) / 8 if learned_null else None
        return cls(randomized(transformer, seed), clip, null)

    def embedded(self, ids: list) -> torch.Tensor:
        hidden = self.clip(torch.tensor(ids)).last_hidden_state
        return hidden / hidden.norm(dim=-1, keepdim=True)

    def null_text(self) -> torch.Tensor:
        return self.embedded([padded([START, END])]) if self.null is None else self.null.float()[None]

    def tensors(self) -> dict:
        learned = {} if self.null is None else {"empty_text_embed": self.null}
        text = {f"condition_emb.{key}": value for key, value in clip_tensors(self.clip).items()}
        return {**learned, **text, **under("transformer.", denoiser_tensors(self.transformer))}


def under(prefix: str, tensors: dict) -> dict:
    return {f"{prefix}{key}": value for key, value in tensors.items()}


def put(tensors: dict, name: str, layer: nn.Module) -> None:
    for part, value in layer.named_parameters():
        tensors[f"{name}.{part}"] = value.data


def denoiser_tensors(transformer: TorchTransformer) -> dict:
    tensors = {}
    for name in ("emb", "height_emb", "width_emb"):
        put(tensors, f"content_emb.{name}", getattr(transformer.latent_image_embedding, name))
    for i, block in enumerate(transformer.transformer_blocks):
        for name, norm in (("ln1", block.norm1), ("ln1_1", block.norm2)):
            put(tensors, f"blocks.{i}.{name}.emb", norm.emb)
            put(tensors, f"blocks.{i}.{name}.linear", norm.linear)
        put(tensors, f"blocks.{i}.ln2", block.norm3)
        for name, attention in (("attn1", block.attn1), ("attn2", block.attn2)):
            put(tensors, f"blocks.{i}.{name}.key", attention.to_k)
            put(tensors, f"blocks.{i}.{name}.query", attention.to_q)
            put(tensors, f"blocks.{i}.{name}.value", attention.to_v)
            put(tensors, f"blocks.{i}.{name}.proj", attention.to_out[0])
        put(tensors, f"blocks.{i}.mlp.0", block.ff.net[0].proj)
        put(tensors, f"blocks.{i}.mlp.2", block.ff.net[2])
    put(tensors, "to_logits.0", transformer.norm_out)
    put(tensors, "to_logits.1", transformer.out)
    return tensors


def clip_tensors(clip: TorchCLIP) -> dict:
    model, tensors = clip.text_model, {}
    tensors["positional_embedding"] = model.embeddings.position_embedding.weight.data
    put(tensors, "token_embedding", model.embeddings.token_embedding)
    for i, layer in enumerate(model.encoder.layers):
        name = f"transformer.resblocks.{i}"
        joined = [layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj]
        tensors[f"{name}.attn.in_proj_weight"] = torch.cat([linear.weight.data for linear in joined]).half()
        tensors[f"{name}.attn.in_proj_bias"] = torch.cat([linear.bias.data for linear in joined]).half()
        put(tensors, f"{name}.ln_1", layer.layer_norm1)
        put(tensors, f"{name}.ln_2", layer.layer_norm2)
        halves = {"attn.out_proj": layer.self_attn.out_proj, "mlp.c_fc": layer.mlp.fc1, "mlp.c_proj": layer.mlp.fc2}
        for part, linear in halves.items():
            tensors[f"{name}.{part}.weight"] = linear.weight.data.half()
            tensors[f"{name}.{part}.bias"] = linear.bias.data.half()
    put(tensors, "ln_final", model.final_layer_norm)
    return tensors


# The codecs.


@dataclass
class Codec:
    """An autoencoder, and how it chooses and names its codes.

    Attributes:
        network: diffusers' VQModel.
        kind: "ema" (a codebook that is a buffer), "taming" (nearest code), or "gumbel" (largest logit).
        map: full code -> reduced code, or None.
        proj: the logits of "gumbel".
    """

    network: TorchVQModel
    kind: str
    map: Optional[torch.Tensor] = None
    proj: Optional[nn.Conv2d] = None

    @classmethod
    def random(cls, kind, widths, attention, latents=(6, 5), full=12, reduced=None, layers=1, seed=0) -> "Codec":
        torch.manual_seed(seed)
        channels, dim = latents
        network = TorchVQModel(
            block_out_channels=widths,
            down_block_types=["AttnDownEncoderBlock2D" if has else "DownEncoderBlock2D" for has in attention],
            up_block_types=["AttnUpDecoderBlock2D" if has else "UpDecoderBlock2D" for has in reversed(attention)],
            layers_per_block=layers,
            latent_channels=channels,
            num_vq_embeddings=full,
            vq_embed_dim=dim,
            norm_num_groups=32,
        )
        codec = cls(randomized(network, seed), kind)
        with torch.no_grad():  # codes among the latents, so that pictures have different ones
            latents = network.encode(torch.rand(8, 3, 16, 16) * 2 - 1).latents.transpose(0, 1).flatten(1)
            codebook = latents.mean(1) + latents.std(1) * torch.randn(full, dim)
        network.quantize.embedding.weight.data = codebook
        if kind == "gumbel":
            codec.proj = nn.Conv2d(dim, full, 1).requires_grad_(False)
            codec.proj.weight.copy_(codebook[torch.randperm(full), :, None, None])
        if reduced is not None:
            codec.map = torch.zeros(full, dtype=torch.int64)
            codec.map[1 + torch.randperm(full - 1)[: reduced - 1]] = 1 + torch.randperm(reduced - 1)
        return codec

    def codebook(self) -> torch.Tensor:
        return self.network.quantize.embedding.weight.data

    def full_codes(self) -> torch.Tensor:
        """The full code of each code that the denoiser predicts: the first one mapped to it."""
        if self.map is None:
            return torch.arange(self.network.config.num_vq_embeddings)
        names = self.map.tolist()
        return torch.tensor([names.index(reduced) for reduced in range(max(names) + 1)])

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """(batch, h, w) predicted codes -> pictures, not clamped."""
        vectors = self.network.quantize.embedding.weight[self.full_codes()[codes]].permute(0, 3, 1, 2)
        return self.network.decode(vectors, force_not_quantize=True).sample

    def encode(self, pictures: torch.Tensor) -> tuple:
        """Predicted codes (batch, h, w), and by how much each was chosen over the next."""
        z = self.network.encode(pictures).latents
        codebook = self.network.quantize.embedding.weight
        if self.kind == "gumbel":
            scores = self.proj(z).permute(0, 2, 3, 1)
        else:
            scores = -torch.cdist(z.permute(0, 2, 3, 1).flatten(1, 2), codebook).unflatten(1, z.shape[2:])
        best, indices = scores.topk(2, dim=-1)
        full = indices[..., 0]
        return full if self.map is None else self.map[full], best[..., 0] - best[..., 1]

    def quantizer(self) -> dict:
        codebook = self.network.quantize.embedding.weight.data
        if self.kind == "ema":
            running = {"quantize.cluster_size": torch.rand(len(codebook)), "quantize.embedding_avg": 3 * codebook}
            return {"quantize.embedding": codebook, **running}
        if self.kind == "taming":
            return {"quantize.embedding.weight": codebook}
        proj = {"quantize.proj.weight": self.proj.weight.data, "quantize.proj.bias": self.proj.bias.data}
        return {**proj, "quantize.embed.weight": codebook}

    def tensors(self) -> dict:
        """As in the codec's own file."""
        return {**codec_encoder_tensors(self.network), **codec_decoder_tensors(self.network), **self.quantizer()}

    def tensors_in_model(self) -> dict:
        """As in a model's file: split in two, the codebook in both."""
        encoder = under("content_codec.enc.", {**codec_encoder_tensors(self.network), **self.quantizer()})
        decoder = under("content_codec.dec.", {**codec_decoder_tensors(self.network), **self.quantizer()})
        return {**encoder, **decoder}


def put_resnet(tensors: dict, name: str, resnet: nn.Module) -> None:
    for part in ("norm1", "conv1", "norm2", "conv2"):
        put(tensors, f"{name}.{part}", getattr(resnet, part))
    if resnet.conv_shortcut is not None:
        put(tensors, f"{name}.nin_shortcut", resnet.conv_shortcut)


def put_attention(tensors: dict, name: str, attention: nn.Module) -> None:
    put(tensors, f"{name}.norm", attention.group_norm)
    layers = {"q": attention.to_q, "k": attention.to_k, "v": attention.to_v, "proj_out": attention.to_out[0]}
    for part, linear in layers.items():
        tensors[f"{name}.{part}.weight"] = linear.weight.data[:, :, None, None]
        tensors[f"{name}.{part}.bias"] = linear.bias.data


def put_ends(tensors: dict, name: str, half: nn.Module) -> None:
    put(tensors, f"{name}.conv_in", half.conv_in)
    put_resnet(tensors, f"{name}.mid.block_1", half.mid_block.resnets[0])
    put_attention(tensors, f"{name}.mid.attn_1", half.mid_block.attentions[0])
    put_resnet(tensors, f"{name}.mid.block_2", half.mid_block.resnets[1])
    put(tensors, f"{name}.norm_out", half.conv_norm_out)
    put(tensors, f"{name}.conv_out", half.conv_out)


def put_level(tensors: dict, name: str, level: nn.Module) -> None:
    for j, resnet in enumerate(level.resnets):
        put_resnet(tensors, f"{name}.block.{j}", resnet)
    for j, attention in enumerate(getattr(level, "attentions", None) or ()):
        put_attention(tensors, f"{name}.attn.{j}", attention)


def codec_encoder_tensors(network: TorchVQModel) -> dict:
    tensors = {}
    put_ends(tensors, "encoder", network.encoder)
    for i, level in enumerate(network.encoder.down_blocks):
        put_level(tensors, f"encoder.down.{i}", level)
        if level.downsamplers is not None:
            put(tensors, f"encoder.down.{i}.downsample.conv", level.downsamplers[0].conv)
    put(tensors, "quant_conv", network.quant_conv)
    return tensors


def codec_decoder_tensors(network: TorchVQModel) -> dict:
    """``up.0`` is the level of the highest resolution, the last that the picture goes through."""
    tensors = {}
    put_ends(tensors, "decoder", network.decoder)
    for i, level in enumerate(reversed(network.decoder.up_blocks)):
        put_level(tensors, f"decoder.up.{i}", level)
        if level.upsamplers is not None:
            put(tensors, f"decoder.up.{i}.upsample.conv", level.upsamplers[0].conv)
    put(tensors, "post_quant_conv", network.post_quant_conv)
    return tensors


# The files.


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


# What a family's YAML file says beside what they all say; the names of its classes, of the condition and its settings.
FAMILIES = {
    "text": ("dalle.DALLE", "Text2ImageTransformer", "selfcross", "fc"),
    "classes": ("conditional_dalle.C_DALLE", "Condition2ImageTransformer", "selfcondition", "conv_mlp"),
    "nothing": ("unconditional_dalle.UC_DALLE", "UnCondition2ImageTransformer", "self", "conv_mlp"),
}
CODECS = {
    "ema": "ema_vqvae.PatchVQVAE",
    "taming": "taming_gumbel_vqvae.TamingVQVAE",
    "gumbel": "taming_gumbel_vqvae.TamingGumbelVQVAE",
}
TOKENIZER = f"""\
    condition_info: {{key: text}}
    condition_codec_config:
      target: image_synthesis.modeling.codecs.text_codec.tokenize.Tokenize
      params:
        context_length: {LENGTH}
        add_start_and_end: True
        with_mask: True
        pad_value: 0
        clip_embedding: False
        tokenizer_config:
          target: image_synthesis.modeling.modules.clip.simple_tokenizer.SimpleTokenizer
          params:
            end_idx: {VOCABULARY - BYTES}
"""


def condition_text(sizes: Sizes, told: str) -> str:
    """How the condition is embedded."""
    if told == "text":
        return f"""\
        condition_emb_config:
          target: image_synthesis.modeling.embeddings.clip_text_embedding.CLIPTextEmbedding
          params:
            clip_name: 'ViT-B/32'
            num_embed: {VOCABULARY}
            normalize: True
            pick_last_embedding: False
            keep_seq_len_dim: False
            additional_last_embedding: False
            embed_dim: {sizes.text}
"""
    if told == "classes":
        return """\
        condition_emb_config:
          target: image_synthesis.modeling.embeddings.class_embedding.ClassEmbedding
          params: {num_embed: 1000, embed_dim: 24, identity: True}
"""
    return ""


def config_text(sizes: Sizes, told: str, codec: "Codec", class_number: Optional[int] = None) -> str:
    """A YAML file as there is one for each model, without most of what is about training."""
    model, transformer, attention, mlp = FAMILIES[told]
    tokenizer = TOKENIZER if told == "text" else ""
    reduced = 0 if codec.map is None else int(codec.map.max()) + 1
    of_codec = "" if codec.kind == "ema" else f", quantize_number: {reduced}, num_tokens: {len(codec.codebook())}"
    extra = f"condition_dim: {sizes.text}" if told == "text" else "class_type: 'adalayernorm'"
    extra += "" if class_number is None else f"\n            class_number: {class_number}"
    return f"""\
model:
  target: image_synthesis.modeling.models.{model}
  params:
    content_info: {{key: image}}
{tokenizer}\
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
          params:
            attn_type: '{attention}'
            n_layer: {sizes.layers}
            content_seq_len: {sizes.grid**2}
            content_spatial_size: [{sizes.grid}, {sizes.grid}]
            n_embd: {sizes.width}
            n_head: {sizes.heads}
            resid_pdrop: 0.0
            block_activate: GELU2
            timestep_type: 'adalayernorm'
            mlp_type: {mlp}
            mlp_hidden_times: {sizes.mlp}
            {extra}
{condition_text(sizes, told)}\
        content_emb_config:
          target: image_synthesis.modeling.embeddings.dalle_mask_image_embedding.DalleMaskImageEmbedding
          params:
            num_embed: {sizes.codes}
            spatial_size: !!python/tuple [{sizes.table}, {sizes.table}]
            embed_dim: {sizes.width}
            pos_emb_type: embedding
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

    def write(self, folder: Path, tokenizer: Optional[str] = None) -> Path:
        """Writes model.pth, config.yaml and where the codec has one the map of codes; returns the first."""
        content = {"last_epoch": 7, "last_iter": 1234, "model": OrderedDict(self.model)}
        if self.ema is not None:
            content["ema"] = OrderedDict(self.ema)
        content["clip_grad_norm"] = {"start_iteration": 0, "end_iteration": 5000, "max_norm": 0.5, "last_epoch": 7}
        content["optimizer_and_scheduler"] = optimizer_state()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(self.config, encoding="utf-8")
        if self.codec.map is not None:
            torch.save(self.codec.map, folder / "codes.pt")
        if tokenizer is not None:
            merges_file(folder / tokenizer)
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
