"""The converted networks against PyTorch's on the same random input; needs torch, diffusers and transformers."""

from pathlib import Path
from typing import Any, Optional

import mindspore as ms
import numpy as np

from mindone_vq.conversion.networks import ConversionError
from mindone_vq.conversion.plan import Component, Plan
from mindone_vq.weights.rules import state_dict_parameters
from mindone_vq.weights.store import assign, find_weights

TOLERANCE = 1e-4
PICTURE_SIDE = 32


def verify(plan: Plan, reference: Path, variant: Optional[str] = None) -> dict[str, float]:
    """The relative error of each network of a checked plan that diffusers or transformers has too.

    Args:
        plan: gives the weights of our networks.
        reference: a folder in diffusers' layout, which PyTorch reads: the source, or if there is none the result.
        variant: of its weights.

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
    peers = {kind.__name__: kind for kind in (VQModel, Transformer2DModel, CLIPTextModel)}
    errors = {}
    for component in plan.components:
        if component.class_name in peers:
            folder = reference / component.folder if (reference / component.folder).is_dir() else reference
            theirs = _load(peers[component.class_name], folder, variant).float().eval()
            with torch.no_grad():
                errors[component.folder] = _error(component, theirs, torch.tensor)
    wrong = {name: error for name, error in errors.items() if not error <= TOLERANCE}
    if wrong:
        raise ConversionError(f"the converted networks differ from PyTorch's by {wrong}, more than {TOLERANCE}.")
    return errors


def _load(kind: Any, folder: Path, variant: Optional[str]) -> Any:
    """PyTorch's network, its files read by PyTorch."""
    if kind.__name__ != "Transformer2DModel":
        return kind.from_pretrained(folder, variant=variant)
    # Its from_pretrained fails on configs without norm_type, and in some releases recurses without end.
    from diffusers.models.model_loading_utils import load_state_dict

    network = kind(**{key: value for key, value in kind.load_config(folder).items() if not key.startswith("_")})
    weights: dict[str, Any] = {}
    for path in find_weights(folder, ("diffusion_pytorch_model",), variant):
        weights.update(load_state_dict(path))
    network.load_state_dict(weights)
    return network


def _error(component: Component, theirs: Any, tensor: Any) -> float:
    ours = type(component.network).from_config(component.config).set_train(False)
    for key, parameter in state_dict_parameters(ours).items():
        assign(parameter, component.fitted[key].read(), ms.float32)
    rng, config = np.random.default_rng(0), ours.config
    if component.class_name == "VQModel":
        x = rng.uniform(-1, 1, (1, config.in_channels, PICTURE_SIDE, PICTURE_SIDE)).astype(np.float32)
        latents = theirs.encode(tensor(x)).latents
        decoded = ours.decode(ms.Tensor(latents.numpy()), force_not_quantize=True)[0]
        return max(
            _relative(ours.encode(ms.Tensor(x))[0], latents),
            _relative(decoded, theirs.decode(latents, force_not_quantize=True).sample),
        )
    if component.class_name == "CLIPTextModel":
        ids = rng.integers(0, config.vocab_size, (2, config.max_position_embeddings))
        return _relative(ours(ms.Tensor(ids, ms.int32))[0], theirs(tensor(ids)).last_hidden_state)
    x_t = rng.integers(0, config.num_vector_embeds, (1, ours.num_latent_pixels))
    text = rng.standard_normal((1, 8, config.cross_attention_dim)).astype(np.float32)
    output = ours(ms.Tensor(x_t, ms.int32), ms.Tensor(text), 1)[0]
    return _relative(output, theirs(tensor(x_t), tensor(text), tensor(1)).sample)


def _relative(ours: ms.Tensor, theirs: Any) -> float:
    expected = theirs.numpy().astype(np.float64)
    return float(np.linalg.norm(ours.asnumpy() - expected) / np.linalg.norm(expected))
