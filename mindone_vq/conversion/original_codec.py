"""The codecs of microsoft/VQ-Diffusion: PatchVQGAN, and the GumbelVQ and VQModel of taming-transformers."""

import re
from collections.abc import Mapping
from typing import Any, Optional

import numpy as np

from mindone_vq.conversion import infer
from mindone_vq.conversion.original_config import check_told, read_codec
from mindone_vq.conversion.original_names import CODEC, FIRST_STAGE, Entries
from mindone_vq.conversion.plan import Component, ConversionError, Plan
from mindone_vq.weights.lazy import LazyTensor

Tensors = dict[str, LazyTensor]

CODEC_SETTINGS = {"norm_num_groups": 32, "act_fn": "silu"}  # fixed in their code


# What their settings and the weights both tell: (setting, argument of the network). A codec has some of the objects.
TOLD = tuple(
    (f"{section}.{key}", name)
    for sections, key, name in (
        (("model", "first_stage_config"), "n_embed", "num_vq_embeddings"),
        (("model", "first_stage_config"), "embed_dim", "vq_embed_dim"),
        (("encoder_config", "decoder_config", "ddconfig"), "z_channels", "latent_channels"),
        (("encoder_config", "decoder_config", "ddconfig"), "num_res_blocks", "layers_per_block"),
        (("encoder_config", "ddconfig"), "in_channels", "in_channels"),
        (("decoder_config", "ddconfig"), "out_ch", "out_channels"),
    )
    for section in sections
)


def plan_codec(tensors: Tensors, config: Optional[Mapping[str, Any]] = None) -> Plan:
    """The conversion of a codec's own file: ``ithq_vqvae.pth``, ``taming_f8_8192_openimages_last.pth`` and so on.

    Args:
        tensors: of the file.
        config: its YAML file, which is checked; what the network needs of it the weights tell.
    """
    taken = Entries(tensors)
    component = codec_component(codec_tensors(taken), None)
    component.advice = "Is the file whole, and of this codec?"
    if config is not None:
        check_codec_config(component, config, "--config", taken)
    unexplained = taken.rest()
    if unexplained:
        raise ConversionError(f"these entries of the codec are not known: {', '.join(sorted(unexplained)[:20])}")
    return Plan([component], ignored=taken.ignored)


def is_original_codec(tensors: Mapping[str, LazyTensor]) -> bool:
    """Whether these are a codec's weights under their names."""
    return any(re.search(r"(^|\.)encoder\.down\.0\.block\.0\.conv1\.weight$", key) for key in tensors)


def codec_tensors(taken: Entries) -> Tensors:
    """The codec's weights by their new names, wherever they lie in the checkpoint."""
    prefixes = ("content_codec.enc.", "content_codec.dec.", "content_codec.", FIRST_STAGE, "")
    levels = len({m.group(1) for key in taken.tensors if (m := re.search(r"decoder\.up\.(\d+)\.", key))})
    tensors: Tensors = {}
    for prefix in prefixes:
        for name, tensor in taken.under(prefix, CODEC, levels).items():
            if name in tensors and not np.array_equal(tensors[name].read(), tensor.read()):
                raise ConversionError(f"the checkpoint has two different weights for {name} of its codec.")
            tensors.setdefault(name, tensor)
    squeezed = re.compile(r"attentions\.\d+\.to_(q|k|v|out\.0)\.weight$")
    return {
        name: tensor.then(lambda w: w[:, :, 0, 0], tensor.shape[:2])
        if squeezed.search(name) and tensor.shape[2:] == (1, 1)
        else tensor
        for name, tensor in tensors.items()
    }


def codec_component(tensors: Tensors, codes: Optional[np.ndarray]) -> Component:
    """The VQ-VAE; with ``codes`` its codebook in the order of the reduced codes."""
    check_codec(tensors)
    if codes is not None:
        order = reduced_first(codes)
        for name in ("quantize.embedding.weight", "quantize.proj.weight", "quantize.proj.bias"):
            if name in tensors:
                tensors[name] = tensors[name].then(lambda rows: rows[order])
    return infer.component_of(tensors, CODEC_SETTINGS)


def check_codec_config(component: Component, config: Mapping[str, Any], option: str, taken: Entries) -> None:
    """Raises ConversionError where the codec's own config is of another codec, or of one that is not computed here."""
    settings = read_codec(config, option)
    check_told(settings, component.config, TOLD)
    classes = [entry["class"] for entry in settings.objects.values()]
    if ("GumbelVQ" in classes) != (component.class_name == "GumbelVQModel"):
        raise ConversionError(f"{option} has a {classes[0]}, the checkpoint has a {component.class_name}.")
    taken.ignored.update(settings.unused)


def check_codec(tensors: Tensors) -> None:
    """Raises ConversionError where these are not a whole codec."""
    if "quantize.embedding.weight" not in tensors or "encoder.conv_in.weight" not in tensors:
        raise ConversionError("this is not a whole codec: it lacks its encoder or its codebook.")


def reduced_first(codes: np.ndarray) -> np.ndarray:
    """The full codes in a new order: those of reduced codes 0, 1, ... first, then those that no reduced code has.

    A reduced code is that of the first full code mapped to it, as in their code; of all others, which are mapped to 0
    because the training pictures never had them, only that is known.

    Args:
        codes: (full codes,) integers, full -> reduced.

    Raises:
        ConversionError: it is no such map.
    """
    if codes.ndim != 1 or not np.issubdtype(codes.dtype, np.integer) or codes.min(initial=0) < 0:
        raise ConversionError(f"--codes holds {codes.dtype} of shape {codes.shape}, expected a row of codes.")
    reduced, first = np.unique(codes, return_index=True)
    if not np.array_equal(reduced, np.arange(len(reduced))):
        raise ConversionError("--codes leaves out reduced codes: it is no map of codes.")
    unused = np.setdiff1d(np.arange(len(codes)), first)
    if codes[unused].any():
        raise ConversionError("--codes maps several codes to one that is not 0, which is not known.")
    return np.concatenate([first, unused])
