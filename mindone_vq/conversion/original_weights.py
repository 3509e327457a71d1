"""The weights of microsoft/VQ-Diffusion's checkpoints: tables of their names -> diffusers' names; and the VQ-VAEs.

A table has rows (pattern, replacement), applied in order to every key of a network; the first selects the keys.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np

from mindone_vq.conversion.networks import CODEBOOK, ENCODER, ConversionError, Tensors
from mindone_vq.conversion.original_config import VQVAES, Settings
from mindone_vq.conversion.plan import Component, Plan
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.torch_pickle import open_checkpoint

DENOISER = (
    (r"^transformer\.transformer\.", ""),
    (r"^content_emb\.", "latent_image_embedding."),
    (r"^blocks\.", "transformer_blocks."),
    (r"\.ln1\.", ".norm1."),
    (r"\.ln1_1\.", ".norm2."),
    (r"\.ln2\.", ".norm3."),
    (r"\.attn\.", ".attn1."),
    (r"\.query\.", ".to_q."),
    (r"\.key\.", ".to_k."),
    (r"\.value\.", ".to_v."),
    (r"\.proj\.", ".to_out.0."),
    (r"\.mlp\.0\.", ".ff.net.0.proj."),
    (r"\.mlp\.2\.", ".ff.net.2."),
    (r"\.mlp\.conv", ".ff.conv"),
    (r"^to_logits\.0\.", "norm_out."),
    (r"^to_logits\.1\.", "out."),
)
TEXT_ENCODER = (
    (r"^transformer\.condition_emb\.", "text_model."),
    (r"\.token_embedding\.", ".embeddings.token_embedding."),
    (r"\.positional_embedding$", ".embeddings.position_embedding.weight"),
    (r"\.transformer\.resblocks\.", ".encoder.layers."),
    (r"\.attn\.in_proj_", ".self_attn.in_proj."),  # query, key and value in one
    (r"\.attn\.", ".self_attn."),
    (r"\.ln_([12])\.", r".layer_norm\1."),
    (r"\.c_fc\.", ".fc1."),
    (r"\.c_proj\.", ".fc2."),
    (r"\.ln_final\.", ".final_layer_norm."),
)
EMPTY_TEXT = "transformer.empty_text_embed"
NULL_TEXT = ((rf"^{EMPTY_TEXT}$", "embeddings"),)
# Of PatchVQGAN, and of the VQModel and the GumbelVQ of taming-transformers; alone, or inside another model's file.
VQVAE = (
    (r"^(content_codec\.(enc\.|dec\.)?|first_stage_model\.)?(?=(encoder|decoder|quantize|(post_)?quant_conv)\.)", ""),
    (r"^encoder\.down\.", "encoder.down_blocks."),
    (r"^decoder\.up\.", "decoder.up_blocks."),  # numbered from the other end
    (r"\.mid\.block_1\.", ".mid_block.resnets.0."),
    (r"\.mid\.block_2\.", ".mid_block.resnets.1."),
    (r"\.mid\.attn_1\.", ".mid_block.attentions.0."),
    (r"\.block\.", ".resnets."),
    (r"\.attn\.", ".attentions."),
    (r"\.(down|up)sample\.", r".\1samplers.0."),
    (r"\.nin_shortcut\.", ".conv_shortcut."),
    (r"\.norm_out\.", ".conv_norm_out."),
    (r"(attentions\.\d+)\.norm\.", r"\1.group_norm."),
    (r"(attentions\.\d+)\.([qkv])\.", r"\1.to_\2."),
    (r"(attentions\.\d+)\.proj_out\.", r"\1.to_out.0."),
    (r"^quantize\.(embedding|embed\.weight)$", "quantize.embedding.weight"),
)
VQVAE_FIXED = {"norm_num_groups": 32, "act_fn": "silu"}  # in the original code
ONE_BY_ONE = re.compile(r"attentions\.\d+\.to_(q|k|v|out\.0)\.weight")  # convolutions, linear layers in diffusers
UP = re.compile(r"decoder\.up_blocks\.(\d+)\.")
# (pattern of the whole key, why it is left out)
NOT_NEEDED = (
    (r"transformer\.(log_\w+|Lt_history|Lt_count)", "a table of the diffusion process, computed anew"),
    (r"transformer\.transformer\.blocks\.\d+\.attn\d?\.mask", "a buffer that is never used"),
    (r"transformer\.condition_emb\.(text_projection|logit_scale)", "not used for the embeddings of single tokens"),
    (r"(.*\.)?quantize\.(cluster_size|embedding_avg)", "a running mean of training"),
    (r"(first_stage_model\.)?loss\..*", "the loss networks of training"),
)
# In a file where the VQ-VAE is the first stage of a larger model.
FIRST_STAGE = "first_stage_model."
SECOND_STAGE = (r"transformer\..*", "the second stage of that model, a GPT over codes")


def is_model(tensors: Tensors) -> bool:
    """Whether these are the weights of a whole model, and not of a VQ-VAE with a second stage."""
    has_stages = any(key.startswith(FIRST_STAGE) for key in tensors)
    return not has_stages and any(key.startswith("transformer.") for key in tensors)


def is_vqvae(tensors: Tensors) -> bool:
    """Whether these are the weights of a VQ-VAE."""
    return any(re.search(r"(^|\.)encoder\.down\.0\.block\.0\.conv1\.weight$", key) for key in tensors)


class Entries:
    """The entries of a checkpoint that no network has taken.

    Attributes:
        ignored: entries that are not needed, with the reason.
    """

    def __init__(self, tensors: Tensors) -> None:
        has_stages = any(key.startswith(FIRST_STAGE) for key in tensors)
        rows = (*NOT_NEEDED, SECOND_STAGE) if has_stages else NOT_NEEDED
        reasons = {key: next((why for row, why in rows if re.fullmatch(row, key)), None) for key in tensors}
        self.ignored = {key: reason for key, reason in reasons.items() if reason}
        self._left = {key: tensor for key, tensor in tensors.items() if not reasons[key]}

    def take(self, table: tuple[tuple[str, str], ...]) -> dict[str, LazyTensor]:
        """The entries of one network by their new names.

        Raises:
            ConversionError: two different entries get the same name.
        """
        taken: dict[str, LazyTensor] = {}
        for key in [key for key in self._left if re.match(table[0][0], key)]:
            tensor, name = self._left.pop(key), key
            for pattern, replacement in table:
                name = re.sub(pattern, replacement, name)
            if name in taken and not np.array_equal(taken[name].read(), tensor.read()):
                raise ConversionError(f"the checkpoint has two different weights for {name}, one of them {key}.")
            taken[name] = tensor
        return taken

    def check_empty(self) -> None:
        """Raises ConversionError where an entry was not taken."""
        if self._left:
            raise ConversionError(f"the checkpoint has unknown entries: {', '.join(sorted(self._left)[:20])}.")


def plan_vqvae(tensors: Tensors, config: Optional[Mapping[str, Any]]) -> Plan:
    """The conversion of a VQ-VAE's own file, such as ``ithq_vqvae.pth``; its YAML file is only checked."""
    if config is not None and "model" not in config:
        raise ConversionError(
            "--config is not the YAML file of a VQ-VAE of microsoft/VQ-Diffusion: leave --config out; the arguments "
            "are inferred from the weights."
        )
    entries = Entries(tensors)
    component = Component.inferred(take_vqvae(entries), VQVAE_FIXED, "Is the file complete, and that of this VQ-VAE?")
    entries.check_empty()
    unused = {} if config is None else check_config(component, config, "--config")
    return Plan([component], ignored={**entries.ignored, **unused})


def take_vqvae(entries: Entries) -> dict[str, LazyTensor]:
    """The weights of the VQ-VAE by their new names; none where the entries have none."""
    tensors = entries.take(VQVAE)
    if tensors and not {CODEBOOK, ENCODER} <= tensors.keys():
        raise ConversionError("the VQ-VAE is not complete: its encoder or its codebook is missing.")
    last = max((int(match[1]) for name in tensors if (match := UP.match(name))), default=0)
    renamed = {}
    for name, tensor in tensors.items():
        if ONE_BY_ONE.search(name) and tensor.shape[2:] == (1, 1):
            tensor = tensor.then(lambda weight: weight[:, :, 0, 0], tensor.shape[:2])
        renamed[UP.sub(lambda match: f"decoder.up_blocks.{last - int(match[1])}.", name)] = tensor
    return renamed


def check_config(component: Component, config: Mapping[str, Any], option: str) -> dict[str, str]:
    """Raises ConversionError where the config of a VQ-VAE is of another one; returns its settings without effect."""
    settings = Settings.read(config, VQVAES, option)
    settings.check_equal(component.config)
    settings.check_quantizer(component.class_name)
    return settings.unused


def read_codes(path: Path, full: int, predicted: int) -> np.ndarray:
    """The order of the codebook by a map of ``full`` codes to ``predicted`` codes: those first, then the others.

    As in the original code, a predicted code stands for the first full code that is mapped to it. All other full codes
    do not occur in the training pictures and are mapped to 0.
    """
    content, _ = open_checkpoint(path)
    if not isinstance(content, LazyTensor):
        raise ConversionError(f"--codes {path} holds a {type(content).__name__}, not one tensor.")
    codes = content.read()
    if codes.shape != (full,) or not np.issubdtype(codes.dtype, np.integer) or codes.min() < 0:
        raise ConversionError(f"--codes holds {codes.dtype} of shape {codes.shape}, expected {full} integers from 0.")
    reduced, first = np.unique(codes, return_index=True)
    if not np.array_equal(reduced, np.arange(predicted)):
        raise ConversionError(
            f"--codes has {len(reduced)} reduced codes up to {reduced[-1]}, the denoiser predicts {predicted}: "
            "it is the map of another model."
        )
    others = np.setdiff1d(np.arange(full), first)
    if codes[others].any():
        raise ConversionError("--codes maps several codes to one that is not 0, which is not implemented.")
    return np.concatenate([first, others])
