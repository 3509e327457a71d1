"""The converted networks against PyTorch's on the same random input; needs torch, diffusers and transformers."""

from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np

from mindone_vq.conversion.plan import Component, ConversionError, Plan
from mindone_vq.weights.pretrained import PretrainedCell
from mindone_vq.weights.rules import state_dict_parameters
from mindone_vq.weights.store import assign, find_weights

TOLERANCE = 1e-4
PICTURE_SIDE = 32


def verify(plan: Plan, reference: Path) -> dict[str, float]:
    """Runs every network that diffusers or transformers has too, ours with the weights of ``plan``.

    Args:
        plan: checked.
        reference: a folder in diffusers' layout, read by PyTorch: the source, or where there is none the result.

    Returns:
        The relative error of each network.

    Raises:
        ImportError: PyTorch, diffusers or transformers is missing; says how to install them.
        ConversionError: an error is above 1e-4.
    """
    try:
        import torch
        from diffusers import Transformer2DModel, VQModel
        from transformers import CLIPTextModel
    except ImportError as error:
        raise ImportError(
            f"--verify needs PyTorch, diffusers and transformers: pip install mindone_vq[test] ({error})"
        ) from error
    peers = {"VQModel": VQModel, "Transformer2DModel": Transformer2DModel, "CLIPTextModel": CLIPTextModel}
    errors = {}
    for component in plan.components:
        if component.class_name not in peers:
            continue
        folder = reference / component.folder if plan.pipeline else reference
        theirs = _load(peers[component.class_name], folder, torch).float().eval()
        with torch.no_grad():
            errors[component.folder] = _error(component, theirs, torch)
    wrong = {name: error for name, error in errors.items() if not error <= TOLERANCE}
    if wrong:
        raise ConversionError(f"the converted networks differ from PyTorch's by {wrong}, more than {TOLERANCE}.")
    return errors


def _load(kind: Any, folder: Path, torch: Any) -> Any:
    """PyTorch's network, its files read by PyTorch."""
    if kind.__name__ != "Transformer2DModel":
        return kind.from_pretrained(folder)
    # By hand: its from_pretrained fails on configs without norm_type, and in some releases recurses without end.
    config = {key: value for key, value in kind.load_config(folder).items() if not key.startswith("_")}
    network = kind(**config)
    weights: dict[str, Any] = {}
    for path in find_weights(folder, PretrainedCell.weights_stems):
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights.update(load_file(path))
        else:
            weights.update(torch.load(path, map_location="cpu", weights_only=True))
    network.load_state_dict(weights)
    return network


def _error(component: Component, theirs: Any, torch: Any) -> float:
    ours = type(component.network).from_config(component.config).set_train(False)
    for key, parameter in state_dict_parameters(ours).items():
        assign(parameter, component.fitted[key].read(), ms.float32)
    rng, config = np.random.default_rng(0), ours.config
    if component.class_name == "VQModel":
        x = rng.uniform(-1, 1, (1, config.in_channels, PICTURE_SIDE, PICTURE_SIDE)).astype(np.float32)
        latents = theirs.encode(torch.tensor(x)).latents
        encoded = _relative(ours.encode(ms.Tensor(x))[0], latents)
        decoded = _relative(
            ours.decode(ms.Tensor(latents.numpy()), force_not_quantize=True)[0],
            theirs.decode(latents, force_not_quantize=True).sample,
        )
        return max(encoded, decoded)
    if component.class_name == "CLIPTextModel":
        ids = rng.integers(0, config.vocab_size, (2, config.max_position_embeddings))
        return _relative(ours(ms.Tensor(ids, ms.int32))[0], theirs(torch.tensor(ids)).last_hidden_state)
    x_t = rng.integers(0, config.num_vector_embeds, (1, ours.num_latent_pixels))
    text = rng.standard_normal((1, 8, config.cross_attention_dim)).astype(np.float32)
    output = ours(ms.Tensor(x_t, ms.int32), ms.Tensor(text), 1)[0]
    return _relative(output, theirs(torch.tensor(x_t), torch.tensor(text), torch.tensor(1)).sample)


def _relative(ours: ms.Tensor, theirs: Any) -> float:
    expected = theirs.numpy().astype(np.float64)
    return float(np.linalg.norm(ours.asnumpy() - expected) / np.linalg.norm(expected))
