"""``from_pretrained`` and ``save_pretrained`` of networks."""

import inspect
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

import mindspore as ms
from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from mindone_vq.weights import hub, store
from mindone_vq.weights.config import ConfigMixin, named_class
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.rules import state_dict_parameters

logger = logging.getLogger("mindone_vq")

FLOAT_TYPES = {"float32": ms.float32, "float16": ms.float16, "bfloat16": ms.bfloat16}


def check_dtype(dtype: Any, where: str = "mindspore_dtype") -> ms.Type:
    """``dtype``, or float32 for None. Raises TypeError, naming ``where`` it was given, for other types."""
    if dtype is None:
        return ms.float32
    if isinstance(dtype, str) or "torch" in type(dtype).__module__:
        raise TypeError(
            f"{where} was given {dtype!r}: types are mindspore.float32, float16 and bfloat16; a device is chosen with "
            'mindspore.set_device("Ascend") before anything is loaded, for all networks at once.'
        )
    if dtype not in FLOAT_TYPES.values():
        raise TypeError(f"{where} was given {dtype!r}; it must be mindspore.float32, float16 or bfloat16.")
    return dtype


def check_saving(
    save_directory: Union[str, os.PathLike],
    safe_serialization: bool,
    push_to_hub: bool,
    hub_options: Mapping[str, Any],
) -> None:
    """Raises for invalid arguments of ``save_pretrained``, before anything is written."""
    if Path(save_directory).is_file():
        raise FileExistsError(f"{save_directory} is a file; give a folder to save into.")
    if not safe_serialization:
        raise ValueError("safe_serialization is False; only safetensors are written, which diffusers reads too.")
    if hub_options and not push_to_hub:
        raise TypeError(f"save_pretrained has no argument {', '.join(hub_options)} unless push_to_hub=True.")
    hub.check_options(hub_options, hub.PUSH_OPTIONS, "save_pretrained(push_to_hub=True)")


class SaveMixin:
    """``save_pretrained`` of a network or a pipeline, which writes its files in ``_save``."""

    def save_pretrained(
        self,
        save_directory: Union[str, os.PathLike],
        variant: Optional[str] = None,
        max_shard_size: Union[int, str, None] = None,
        safe_serialization: bool = True,
        push_to_hub: bool = False,
        **hub_options: Any,
    ) -> None:
        """Writes the configs, and the weights as safetensors, under the names that diffusers uses.

        Args:
            save_directory: the folder, created if needed.
            variant: an infix for the names of the weight files, such as "fp16".
            max_shard_size: of a weight file: bytes, or "500MB", "2GB"; None: one file.
            safe_serialization: must be True: pickles are read, not written.
            push_to_hub: upload the folder afterwards; ``hub_options`` are those of ``mindone_vq.weights.hub.push``.

        Raises:
            FileExistsError, TypeError, ValueError: an argument is invalid. Nothing was written.
        """
        check_saving(save_directory, safe_serialization, push_to_hub, hub_options)
        self._save(Path(save_directory), variant, store.size_in_bytes(max_shard_size))
        if push_to_hub:
            hub.push(Path(save_directory), **hub_options)

    def _save(self, folder: Path, variant: Optional[str], max_shard_size: Optional[int]) -> None:
        raise NotImplementedError


class PretrainedConfig(ConfigMixin):
    """An object without weights that is loaded from and saved to its config file: a scheduler."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Union[str, os.PathLike], subfolder: Optional[str] = None, **options: Any
    ):
        """Reads the config file from a folder or a hub id.

        Args:
            pretrained_model_name_or_path: a folder, or a hub id.
            subfolder: of the file.
            options: as in ``PretrainedCell.from_pretrained``.
        """
        changed, hub_options = cls.split_options(options, ["subfolder"])
        return cls.from_config(cls.load_config(pretrained_model_name_or_path, subfolder, **hub_options), **changed)

    def save_pretrained(
        self, save_directory: Union[str, os.PathLike], push_to_hub: bool = False, **hub_options: Any
    ) -> None:
        """Writes the config file; with ``push_to_hub`` uploads it (``mindone_vq.weights.hub.push``)."""
        check_saving(save_directory, True, push_to_hub, hub_options)
        self.save_config(save_directory)
        if push_to_hub:
            hub.push(Path(save_directory), **hub_options)


class PretrainedCell(nn.Cell, ConfigMixin, SaveMixin):
    """A network that is loaded from and saved to a folder in the layout of diffusers."""

    weights_stems = ("diffusion_pytorch_model",)
    output_class: Optional[type] = None  # of a call's result; inside of a graph it is a plain tuple
    is_gradient_checkpointing = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        outputs = super().__call__(*args, **kwargs)
        return outputs if self.output_class is None else self.output_class(*outputs)

    @property
    def dtype(self) -> ms.Type:
        """The type of the weights (float32 without weights)."""
        return next((parameter.dtype for parameter in self.get_parameters()), ms.float32)

    @property
    def device(self) -> str:
        """MindSpore's device, "CPU" or "Ascend". It is the same for all networks."""
        return ms.get_context("device_target")

    def to(self, dtype: ms.Type) -> "PretrainedCell":
        """Casts every weight in place and returns the network. With ``force_upcast`` in its config it stays float32.

        Raises:
            TypeError: not a type of weights. A device is chosen with ``mindspore.set_device``.
        """
        dtype = self._dtype_to_use(check_dtype(dtype, "to()"))
        for parameter in self.get_parameters():
            if parameter.dtype != dtype:
                store.assign(parameter, store.to_float32(parameter), dtype)
        return self

    def half(self) -> "PretrainedCell":
        """``to(mindspore.float16)``."""
        return self.to(ms.float16)

    def float(self) -> "PretrainedCell":
        """``to(mindspore.float32)``."""
        return self.to(ms.float32)

    def num_parameters(self, only_trainable: bool = False) -> int:
        """Number of elements of all weights, or of the trainable ones."""
        return sum(entry.size for entry in self.get_parameters() if entry.requires_grad or not only_trainable)

    def enable_gradient_checkpointing(self) -> None:
        """Stores only the inputs of each block in training and recomputes the rest: less memory, more time.

        Raises:
            ValueError: not supported by this network.
        """
        blocks = self.checkpointed_blocks()
        if not blocks:
            raise ValueError(f"{type(self).__name__} does not support gradient checkpointing.")
        if not self.is_gradient_checkpointing:
            for block in blocks:
                block.recompute()
        self.is_gradient_checkpointing = True

    def disable_gradient_checkpointing(self) -> None:
        """Raises RuntimeError if it is enabled: MindSpore cannot disable it again."""
        if self.is_gradient_checkpointing:
            raise RuntimeError("MindSpore cannot disable gradient checkpointing again: load the network anew.")

    def checkpointed_blocks(self) -> list[nn.Cell]:
        """The blocks that gradient checkpointing recomputes; none: it is not supported."""
        return []

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Union[str, os.PathLike],
        subfolder: Optional[str] = None,
        mindspore_dtype: Optional[ms.Type] = None,
        variant: Optional[str] = None,
        use_safetensors: Optional[bool] = None,
        output_loading_info: bool = False,
        **options: Any,
    ):
        """Makes the network from its config and loads every weight.

        Args:
            pretrained_model_name_or_path: a folder, or a hub id.
            subfolder: of config.json and the weights.
            mindspore_dtype: type of the weights; None: float32.
            variant: infix of the weight file, such as "fp16".
            use_safetensors: True: safetensors only; False: PyTorch's .bin only; None: either, safetensors first.
            output_loading_info: return also a dict of the ignored keys. All other differences between the config
                and the weights are errors.
            options: arguments of the constructor that replace those in the config; and options of
                ``mindone_vq.weights.hub.resolve``.

        Raises:
            TypeError: an unknown keyword.
            FileNotFoundError: the folder, its config or its weights do not exist.
            ValueError: a file cannot be read, or belongs to another class.
            WeightMismatchError: config and weights do not fit.
        """
        dtype = check_dtype(mindspore_dtype)
        named = inspect.signature(PretrainedCell.from_pretrained).parameters
        changed, hub_options = cls.split_options(options, named)
        subfolder = subfolder or ""
        root = hub.resolve(pretrained_model_name_or_path, [subfolder], variant, use_safetensors, **hub_options)
        folder = root / subfolder
        config = cls.load_config(folder)
        with no_init_parameters():
            network = cls.family()[named_class(config) or cls.__name__].from_config(config, **changed)
        has_weights = bool(state_dict_parameters(network))
        files = store.find_weights(folder, cls.weights_stems, variant, use_safetensors) if has_weights else []
        ignored = store.load_into(network, store.open_weights(files), network._dtype_to_use(dtype))
        network.set_train(False)
        if not output_loading_info:
            return network
        return network, {"missing_keys": [], "unexpected_keys": ignored, "mismatched_keys": [], "error_msgs": []}

    def _save(self, folder: Path, variant: Optional[str], max_shard_size: Optional[int]) -> None:
        tensors = {key: LazyTensor.of(parameter.asnumpy()) for key, parameter in state_dict_parameters(self).items()}
        store.write_weights(folder, self.weights_stems[0], {**tensors, **self.extra_tensors()}, variant, max_shard_size)
        self.save_config(folder)

    def extra_tensors(self) -> dict[str, LazyTensor]:
        """Tensors beside the weights that diffusers expects in the file."""
        return {}

    def _dtype_to_use(self, dtype: ms.Type) -> ms.Type:
        return ms.float32 if self.config.get("force_upcast") else dtype
