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
        ImportError: PyTorch, diffusers or transformers is missing.
        ConversionError: an error is above 1e-4.
    """
    try:
        import torch
        from diffusers import Transformer2DModel, VQModel
        from transformers import CLIPTextModel
    except ImportError as error:
        raise ImportError(f"--verify needs PyTorch and so on: pip install mindone_vq[test] ({error})") from error
    peers = {kind.__name__: kind for kind in (VQModel, Transformer2DModel, CLIPTextModel)}
    errors = {}
    for component in plan.components:
        if component.class_name in peers:
            folder = reference / component.folder if (reference / component.folder).is_dir() else reference
            network, inputs = _load(peers[component.class_name], folder, variant), _inputs(component)
            with torch.no_grad():
                theirs = _run(network.float().eval(), [torch.tensor(array) for array in inputs]).double().numpy()
            ours = _run(_ours(component), [ms.Tensor(array) for array in inputs]).asnumpy()
            errors[component.folder] = float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))
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


def _ours(component: Component) -> ms.nn.Cell:
    network = type(component.network).from_config(component.config).set_train(False)
    for key, parameter in state_dict_parameters(network).items():
        assign(parameter, component.fitted[key].read(), ms.float32)
    return network


def _inputs(component: Component) -> list[np.ndarray]:
    rng, config = np.random.default_rng(0), component.network.config
    if component.class_name == "VQModel":
        return [rng.uniform(-1, 1, (1, config.in_channels, PICTURE_SIDE, PICTURE_SIDE)).astype(np.float32)]
    if component.class_name == "CLIPTextModel":
        return [rng.integers(0, config.vocab_size, (2, config.max_position_embeddings), np.int32)]
    x_t = rng.integers(0, config.num_vector_embeds, (1, config.sample_size**2), np.int32)
    return [x_t, rng.standard_normal((1, 8, config.cross_attention_dim)).astype(np.float32), np.array(1, np.int32)]


def _run(network: Any, inputs: list[Any]) -> Any:
    """The same call for ours and for PyTorch's."""
    if hasattr(network, "decode"):
        return network.decode(network.encode(*inputs)[0], force_not_quantize=True)[0]
    return network(*inputs)[0]
