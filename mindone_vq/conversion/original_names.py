"""Names of weights in microsoft/VQ-Diffusion's checkpoints -> diffusers' names. Tables, first match wins.

``Entries`` keeps the account: every entry of a checkpoint is renamed, taken, or left out for a reason.
"""

import re
from typing import Optional

from mindone_vq.weights.lazy import LazyTensor

ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj": "to_out.0"}
CODEC_ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}
W = r"(weight|bias)"

# After `transformer.transformer.`
DENOISER = (
    (r"content_emb\.(emb|height_emb|width_emb)\.weight", r"latent_image_embedding.{1}.weight"),
    (rf"blocks\.(\d+)\.ln1\.(emb|linear)\.{W}", "transformer_blocks.{1}.norm1.{2}.{3}"),
    (rf"blocks\.(\d+)\.ln1_1\.(emb|linear)\.{W}", "transformer_blocks.{1}.norm2.{2}.{3}"),
    (rf"blocks\.(\d+)\.ln2\.(emb|linear)\.{W}", "transformer_blocks.{1}.norm3.{2}.{3}"),
    (rf"blocks\.(\d+)\.ln2\.{W}", "transformer_blocks.{1}.norm3.{2}"),
    (rf"blocks\.(\d+)\.attn1?\.(query|key|value|proj)\.{W}", "transformer_blocks.{1}.attn1.{attention}.{3}"),
    (rf"blocks\.(\d+)\.attn2\.(query|key|value|proj)\.{W}", "transformer_blocks.{1}.attn2.{attention}.{3}"),
    (rf"blocks\.(\d+)\.mlp\.0\.{W}", "transformer_blocks.{1}.ff.net.0.proj.{2}"),
    (rf"blocks\.(\d+)\.mlp\.2\.{W}", "transformer_blocks.{1}.ff.net.2.{2}"),
    (rf"blocks\.(\d+)\.mlp\.(conv[12])\.{W}", "transformer_blocks.{1}.ff.{2}.{3}"),
    (rf"to_logits\.0\.{W}", "norm_out.{1}"),
    (rf"to_logits\.1\.{W}", "out.{1}"),
)
# After `transformer.condition_emb.`; in_proj is three weights in one.
TEXT = (
    (r"token_embedding\.weight", "text_model.embeddings.token_embedding.weight"),
    (r"positional_embedding", "text_model.embeddings.position_embedding.weight"),
    (rf"transformer\.resblocks\.(\d+)\.attn\.in_proj_{W}", "text_model.encoder.layers.{1}.self_attn.in_proj.{2}"),
    (rf"transformer\.resblocks\.(\d+)\.attn\.out_proj\.{W}", "text_model.encoder.layers.{1}.self_attn.out_proj.{2}"),
    (rf"transformer\.resblocks\.(\d+)\.ln_([12])\.{W}", "text_model.encoder.layers.{1}.layer_norm{2}.{3}"),
    (rf"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.{W}", "text_model.encoder.layers.{1}.mlp.fc1.{2}"),
    (rf"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.{W}", "text_model.encoder.layers.{1}.mlp.fc2.{2}"),
    (rf"ln_final\.{W}", "text_model.final_layer_norm.{1}"),
)
# Of a codec; {up} counts the decoder's levels from its other end.
CODEC = (
    (rf"(encoder|decoder)\.(conv_in|conv_out)\.{W}", "{1}.{2}.{3}"),
    (rf"(encoder|decoder)\.norm_out\.{W}", "{1}.conv_norm_out.{2}"),
    (rf"(encoder|decoder)\.mid\.block_1\.(.+)\.{W}", "{1}.mid_block.resnets.0.{part}.{3}"),
    (rf"(encoder|decoder)\.mid\.block_2\.(.+)\.{W}", "{1}.mid_block.resnets.1.{part}.{3}"),
    (rf"(encoder|decoder)\.mid\.attn_1\.(.+)\.{W}", "{1}.mid_block.attentions.0.{codec_attention}.{3}"),
    (rf"encoder\.down\.(\d+)\.block\.(\d+)\.(.+)\.{W}", "encoder.down_blocks.{1}.resnets.{2}.{part3}.{4}"),
    (rf"encoder\.down\.(\d+)\.attn\.(\d+)\.(.+)\.{W}", "encoder.down_blocks.{1}.attentions.{2}.{codec_attention3}.{4}"),
    (rf"encoder\.down\.(\d+)\.downsample\.conv\.{W}", "encoder.down_blocks.{1}.downsamplers.0.conv.{2}"),
    (rf"decoder\.up\.(\d+)\.block\.(\d+)\.(.+)\.{W}", "decoder.up_blocks.{up}.resnets.{2}.{part3}.{4}"),
    (rf"decoder\.up\.(\d+)\.attn\.(\d+)\.(.+)\.{W}", "decoder.up_blocks.{up}.attentions.{2}.{codec_attention3}.{4}"),
    (rf"decoder\.up\.(\d+)\.upsample\.conv\.{W}", "decoder.up_blocks.{up}.upsamplers.0.conv.{2}"),
    (rf"(quant_conv|post_quant_conv)\.{W}", "{1}.{2}"),
    (r"quantize\.(?:embedding|embedding\.weight|embed\.weight)", "quantize.embedding.weight"),
    (rf"quantize\.proj\.{W}", "quantize.proj.{1}"),
)
# Anywhere in a checkpoint: (pattern of the whole key, why it is left out).
NOT_NEEDED = (
    (r"transformer\.(log_\w+|Lt_history|Lt_count)", "a table of the diffusion process, computed anew"),
    (r"transformer\.transformer\.blocks\.\d+\.attn\d?\.mask", "a buffer that is never used"),
    (r"transformer\.condition_emb\.(text_projection|logit_scale)", "not used for the text of single tokens"),
    (r"(.*\.)?quantize\.(cluster_size|embedding_avg)", "a running mean of training"),
    (r"(first_stage_model\.)?loss\..*", "the loss networks of training"),
)
FIRST_STAGE = "first_stage_model."
# In the file of FFHQ's codec the network is one stage of a larger model.
NOT_NEEDED_BESIDE_A_FIRST_STAGE = ((r"transformer\..*", "the other stage of that model, a GPT over codes"),)


def reason_not_needed(key: str, rows: tuple = NOT_NEEDED) -> Optional[str]:
    """Why ``key`` may be left out, or None."""
    return next((reason for pattern, reason in rows if re.fullmatch(pattern, key)), None)


def rename(key: str, rows: tuple, levels: int = 0) -> Optional[str]:
    """``key`` under its new name, or None where no row of the table is for it.

    Args:
        key: without its prefix.
        rows: DENOISER, TEXT or CODEC.
        levels: of the codec.
    """
    for pattern, template in rows:
        match = re.fullmatch(pattern, key)
        if match:
            groups = ("", *match.groups())
            names = {f"part{i or ''}": _part(groups, i or 2) for i in (0, 3)}
            names |= {f"codec_attention{i or ''}": CODEC_ATTENTION.get(_part(groups, i or 2)) for i in (0, 3)}
            names["attention"] = ATTENTION.get(_part(groups, 2))
            names["up"] = levels - 1 - int(groups[1]) if "{up}" in template else None
            return template.format(*groups, **names)
    return None


def _part(groups: tuple, index: int) -> str:
    """A part of a resnet under its new name."""
    name = groups[index] if index < len(groups) else ""
    return "conv_shortcut" if name == "nin_shortcut" else name


class Entries:
    """The entries of a checkpoint, and which of them were explained."""

    def __init__(self, tensors: dict[str, LazyTensor]) -> None:
        self.tensors = tensors
        self.ignored: dict[str, str] = {}
        self.known: set[str] = set()
        beside = NOT_NEEDED_BESIDE_A_FIRST_STAGE if any(key.startswith(FIRST_STAGE) for key in tensors) else ()
        for key in tensors:
            reason = reason_not_needed(key, NOT_NEEDED + beside)
            if reason:
                self.ignored[key] = reason

    def under(self, prefix: str, rows: tuple, levels: int = 0) -> dict[str, LazyTensor]:
        """The entries under ``prefix`` that a row of the table is for, by their new names."""
        found = {}
        for key, tensor in self.tensors.items():
            name = rename(key[len(prefix) :], rows, levels) if key.startswith(prefix) else None
            if name is not None and key not in self.ignored:
                self.known.add(key)
                found[name] = tensor
        return found

    def take(self, key: str) -> Optional[LazyTensor]:
        """One entry, if it is there."""
        self.known.add(key)
        return self.tensors.get(key)

    def rest(self) -> set[str]:
        """What nothing explained."""
        return set(self.tensors) - self.known - set(self.ignored)
