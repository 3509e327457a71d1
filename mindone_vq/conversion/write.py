"""Writing a plan: a folder in diffusers' layout, or with MindSpore's own checkpoints; whole or not at all."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional

import mindspore as ms

from mindone_vq.conversion.plan import Component, Plan
from mindone_vq.conversion.sources import MINDSPORE_STEM
from mindone_vq.weights.files import replacing_folder, write_json
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.rules import state_dict_parameters
from mindone_vq.weights.safetensors_file import write_safetensors
from mindone_vq.weights.store import write_weights

DTYPES = ("float32", "float16", "bfloat16")
FORMATS = ("diffusers", "ckpt", "mindspore-safetensors")


@dataclass
class Target:
    """How to write.

    Attributes:
        format: one of ``FORMATS``: diffusers' names in safetensors, or MindSpore's names in a .ckpt or safetensors.
        dtype: the type of the weights; None: that of the source (float32 for types that no network has).
        max_shard_size: bytes in one file, with diffusers' names; None: any.
        overwrite: whether an existing destination may be replaced.
    """

    format: str = "diffusers"
    dtype: Optional[str] = None
    max_shard_size: Optional[int] = None
    overwrite: bool = False


def write_plan(plan: Plan, destination: Path, target: Target, progress: Callable[[str], Any] = lambda _: None) -> None:
    """Writes everything into a folder beside ``destination``, then gives it that name.

    Args:
        plan: checked.
        destination: a folder; a component alone lies directly in it.
        target: how.
        progress: called with the name of each tensor when it is read.

    Raises:
        FileExistsError: the destination exists.
        OSError: the disk is full, and so on; nothing is left.
    """
    with replacing_folder(destination, target.overwrite) as folder:
        for component in plan.components:
            inner = folder / component.folder if plan.pipeline else folder
            _write_component(component, inner, target, progress)
        if plan.scheduler is not None:
            plan.scheduler.save_pretrained(folder / "scheduler")
        if plan.tokenizer is not None:
            plan.tokenizer.save_pretrained(folder / "tokenizer")
        if plan.pipeline is not None:
            class_names = {component.folder: component.class_name for component in plan.components}
            write_json(folder / "model_index.json", plan.pipeline.index(class_names, plan.default_settings))


def target_dtype(tensor: LazyTensor, dtype: Optional[str]) -> str:
    """The type a weight is written in."""
    return dtype or (tensor.dtype if tensor.dtype in DTYPES else "float32")


def _write_component(component: Component, folder: Path, target: Target, progress: Callable[[str], Any]) -> None:
    def watched(name: str, tensor: LazyTensor) -> LazyTensor:
        cast = tensor.cast(target_dtype(tensor, target.dtype))

        def read() -> Any:
            progress(name)
            return cast.read_stored()

        def copy_to(file: BinaryIO) -> None:
            progress(name)
            cast.write_to(file)

        return LazyTensor(cast.shape, cast.dtype, read, copy_to)

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: watched(name, tensor) for name, tensor in component.fitted.items()}
    if target.format == "diffusers":
        extra = component.network.extra_tensors()
        stem = component.network.weights_stems[0]
        write_weights(folder, stem, {**tensors, **extra}, max_shard_size=target.max_shard_size)
    elif tensors:
        names = {key: parameter.name for key, parameter in state_dict_parameters(component.network).items()}
        renamed = {names[key]: tensor for key, tensor in tensors.items()}
        if target.format == "ckpt":
            _write_ckpt(folder / f"{MINDSPORE_STEM}.ckpt", renamed)
        else:
            write_safetensors(folder / f"{MINDSPORE_STEM}.safetensors", renamed)
    component.network.save_config(folder)


def _write_ckpt(path: Path, tensors: dict[str, LazyTensor]) -> None:
    """MindSpore's own checkpoint; all weights are in memory meanwhile, as its writer asks."""
    entries = [{"name": name, "data": ms.Tensor(t.read(), getattr(ms, t.dtype))} for name, t in tensors.items()]
    ms.save_checkpoint(entries, str(path))
    os.chmod(path, 0o644)  # it writes a file that nobody else may read, and that its owner may not write
