"""The VQ-VAEs of microsoft/VQ-Diffusion: PatchVQGAN, and the VQModel and GumbelVQ of taming-transformers."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional

import numpy as np

from mindone_vq.conversion.networks import CODEBOOK, ENCODER, ConversionError, Tensors
from mindone_vq.conversion.original_config import VQVAES, Settings
from mindone_vq.conversion.original_names import VQVAE, Entries
from mindone_vq.conversion.plan import Component, Plan
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.torch_pickle import open_checkpoint

FIXED = {"norm_num_groups": 32, "act_fn": "silu"}  # in the original code
ONE_BY_ONE = re.compile(r"attentions\.\d+\.to_(q|k|v|out\.0)\.weight")  # convolutions, linear layers in diffusers
UP = re.compile(r"decoder\.up_blocks\.(\d+)\.")


def plan_vqvae(tensors: Tensors, config: Optional[Mapping[str, Any]]) -> Plan:
    """The conversion of a VQ-VAE's own file, such as ``ithq_vqvae.pth``; its YAML file is only checked."""
    if config is not None and "model" not in config:
        raise ConversionError(
            "--config is not the YAML file of a VQ-VAE of microsoft/VQ-Diffusion: leave --config out; the arguments "
            "are inferred from the weights."
        )
    entries = Entries(tensors)
    component = Component.inferred(take_vqvae(entries), FIXED, "Is the file complete, and that of this VQ-VAE?")
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
