"""Methods of diffusers' pipelines that configure PyTorch. Here they do nothing, and log that once."""

from typing import Any, Callable

from mindone_vq.weights.pretrained import logger

MEMORY = "attention already takes the form that its device needs"
OFFLOAD = "MindSpore moves weights to the device itself"
SLICING = "the decoder takes the whole batch; make smaller batches if memory is short"
# method -> why nothing is needed
NOT_NEEDED = {
    "enable_attention_slicing": MEMORY,
    "disable_attention_slicing": MEMORY,
    "enable_xformers_memory_efficient_attention": MEMORY,
    "disable_xformers_memory_efficient_attention": MEMORY,
    "enable_model_cpu_offload": OFFLOAD,
    "enable_sequential_cpu_offload": OFFLOAD,
    "maybe_free_model_hooks": OFFLOAD,
    "enable_vae_slicing": SLICING,
    "disable_vae_slicing": SLICING,
}
_logged: set[str] = set()


def _does_nothing(name: str) -> Callable[..., None]:
    def method(self: Any, *_: Any, **__: Any) -> None:
        if name not in _logged:
            logger.info("%s() does nothing: %s.", name, NOT_NEEDED[name])
            _logged.add(name)

    method.__name__ = name
    method.__doc__ = f"Does nothing: {NOT_NEEDED[name]}."
    return method


class PyTorchOnly:
    """Base of the pipelines that has these methods."""


for _name in NOT_NEEDED:
    setattr(PyTorchOnly, _name, _does_nothing(_name))
