"""The networks of microsoft/VQ-Diffusion in PyTorch, small and random, and their weights under the original names.

They are those of diffusers and transformers where these have them; the others are written here from their equations.
"""

import math
import re
from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from torch import nn
from transformers import CLIPTextConfig

from tests.parity.peers import TorchCLIP, TorchTransformer, TorchVQModel, randomized

# The list of merges: a title, then pairs. With them 256 bytes, these at the end of a word, start and end.
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
# diffusers' and transformers' names -> the original ones: (pattern, replacement), applied in order.
DENOISER = (
    (r"^latent_image_embedding\.", "content_emb."),
    (r"^transformer_blocks\.", "blocks."),
    (r"\.norm1\.", ".ln1."),
    (r"\.norm2\.", ".ln1_1."),
    (r"\.norm3\.", ".ln2."),
    (r"\.to_q\.", ".query."),
    (r"\.to_k\.", ".key."),
    (r"\.to_v\.", ".value."),
    (r"\.to_out\.0\.", ".proj."),
    (r"\.ff\.net\.0\.proj\.", ".mlp.0."),
    (r"\.ff\.net\.2\.", ".mlp.2."),
    (r"^norm_out\.", "to_logits.0."),
    (r"^out\.", "to_logits.1."),
)
CLIP = (
    (r"^text_model\.", ""),
    (r"^embeddings\.token_embedding\.", "token_embedding."),
    (r"^embeddings\.position_embedding\.weight", "positional_embedding"),
    (r"^encoder\.layers\.", "transformer.resblocks."),
    (r"\.self_attn\.", ".attn."),
    (r"\.layer_norm", ".ln_"),
    (r"\.fc1\.", ".c_fc."),
    (r"\.fc2\.", ".c_proj."),
    (r"^final_layer_norm\.", "ln_final."),
)
VQVAE = (
    (r"\.mid_block\.resnets\.0\.", ".mid.block_1."),
    (r"\.mid_block\.resnets\.1\.", ".mid.block_2."),
    (r"\.mid_block\.attentions\.0\.", ".mid.attn_1."),
    (r"\.down_blocks\.", ".down."),
    (r"\.resnets\.", ".block."),
    (r"\.attentions\.", ".attn."),
    (r"\.(down|up)samplers\.0\.", r".\1sample."),
    (r"\.conv_shortcut\.", ".nin_shortcut."),
    (r"\.conv_norm_out\.", ".norm_out."),
    (r"\.group_norm\.", ".norm."),
    (r"\.to_([qkv])\.", r".\1."),
    (r"\.to_out\.0\.", ".proj_out."),
)


def renamed(tensors: dict, rows: tuple) -> dict:
    names = {}
    for key, value in tensors.items():
        name = key
        for pattern, replacement in rows:
            name = re.sub(pattern, replacement, name)
        names[name] = value
    assert len(names) == len(tensors)
    return names


def under(prefix: str, tensors: dict) -> dict:
    return {f"{prefix}{key}": value for key, value in tensors.items()}


def padded(ids: list) -> list:
    return ids + [PAD] * (LENGTH - len(ids))


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
        text = under("condition_emb.", clip_tensors(self.clip))
        return {**learned, **text, **under("transformer.", renamed(self.transformer.state_dict(), DENOISER))}


def clip_tensors(clip: TorchCLIP) -> dict:
    """Query, key and value are one tensor in the files, and the linear layers of the blocks are float16."""
    tensors = renamed({key: value for key, value in clip.state_dict().items() if "position_ids" not in key}, CLIP)
    for key in [key for key in tensors if ".q_proj." in key]:
        parts = [tensors.pop(key.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj")]
        tensors[key.replace("q_proj.", "in_proj_")] = torch.cat(parts)
    return {key: value.half() if re.search(r"\.(attn|mlp)\.", key) else value for key, value in tensors.items()}


# The VQ-VAEs.


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
        return {**vqvae_tensors(self.network), **self.quantizer()}

    def tensors_in_model(self) -> dict:
        """As in a model's file: split in two, the codebook in both."""
        halves = {"dec": {}, "enc": {}}
        for key, value in vqvae_tensors(self.network).items():
            halves["dec" if key.startswith(("decoder.", "post_quant_conv.")) else "enc"][key] = value
        parts = [under(f"content_codec.{half}.", {**halves[half], **self.quantizer()}) for half in halves]
        return {**parts[0], **parts[1]}


def vqvae_tensors(network: TorchVQModel) -> dict:
    """Without the codebook. ``up.0`` is the level of the highest resolution, the last that the picture goes through."""
    last = len(network.decoder.up_blocks) - 1
    levels = tuple((rf"^decoder\.up_blocks\.{i}\.", f"decoder.up.{last - i}.") for i in range(last + 1))
    weights = {key: value for key, value in network.state_dict().items() if not key.startswith("quantize.")}
    tensors = renamed(weights, (*levels, *VQVAE))
    attention = re.compile(r"\.(attn\.\d+|attn_1)\.(q|k|v|proj_out)\.weight")
    return {key: value[:, :, None, None] if attention.search(key) else value for key, value in tensors.items()}
