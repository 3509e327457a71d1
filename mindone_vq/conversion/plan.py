"""What a conversion will write, checked before anything is written."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from mindone_vq import CLIPTokenizer, VQDiffusionScheduler
from mindone_vq.conversion.networks import NETWORKS, ConversionError, Tensors, infer_config
from mindone_vq.conversion.options import DTYPES
from mindone_vq.pipelines.base import DiffusionPipeline
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.rules import current_name
from mindone_vq.weights.store import WeightMismatchError, fit


@dataclass
class Component:
    """One network: its class by name, the arguments of its constructor, and its weights by PyTorch's keys.

    Attributes:
        advice: what to do where names or shapes do not fit.
        network, fitted, ignored: set by ``check``: the network without memory for its weights, the weights by its keys,
            and the keys that it does not need, with the reason.
    """

    class_name: str
    config: dict[str, Any]
    tensors: Tensors
    advice: str = WeightMismatchError.advice
    network: Optional[nn.Cell] = None
    fitted: dict[str, LazyTensor] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)

    @classmethod
    def inferred(cls, tensors: Tensors, given: Mapping[str, Any], advice: str) -> "Component":
        """The network of a bare state dict; ``given`` completes or replaces the inferred config."""
        tensors = {current_name(key): tensor for key, tensor in tensors.items()}
        return cls(*infer_config(tensors, given), tensors, advice)

    @property
    def folder(self) -> str:
        return NETWORKS[self.class_name].folder

    def check(self) -> None:
        """Raises ConversionError where the config is impossible, or names or shapes do not fit; names them all."""
        try:
            with no_init_parameters():
                self.network = NETWORKS[self.class_name].kind.from_config(self.config)
            self.fitted, self.ignored = fit(self.network, self.tensors)
        except (ValueError, TypeError) as error:
            raise ConversionError(f"{self.folder}: {error}".replace(WeightMismatchError.advice, self.advice)) from error

    def written(self, dtype: Optional[str]) -> dict[str, LazyTensor]:
        """The weights in ``dtype``, or in their own type where networks have it, otherwise float32."""
        own = {key: tensor.dtype if tensor.dtype in DTYPES else "float32" for key, tensor in self.fitted.items()}
        return {key: tensor.cast(dtype or own[key]) for key, tensor in self.fitted.items()}


@dataclass
class Plan:
    """A whole conversion.

    Attributes:
        pipeline: the class of the written folder; None: a component alone.
        default_settings: of the pipeline's calls, where the model has its own.
        ignored: keys of the source that belong to no component, with the reason.
        skipped_objects: classes of objects in a PyTorch file that were not read.
    """

    components: list[Component]
    pipeline: Optional[type[DiffusionPipeline]] = None
    scheduler: Optional[VQDiffusionScheduler] = None
    tokenizer: Optional[CLIPTokenizer] = None
    default_settings: dict[str, float] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    skipped_objects: set[str] = field(default_factory=set)

    def only(self, folder: str) -> "Plan":
        """The plan for one component alone."""
        chosen = [component for component in self.components if component.folder == folder]
        if not chosen:
            available = ", ".join(component.folder for component in self.components)
            raise ConversionError(f"the source has no {folder}; it has {available}.")
        return Plan(chosen, skipped_objects=self.skipped_objects)

    def check(self) -> None:
        """Checks every component, and that scheduler and transformer have the same number of classes."""
        for component in self.components:
            component.check()
            classes = component.config.get("num_vector_embeds")
            if self.scheduler is not None and classes not in (None, self.scheduler.num_embed):
                raise ConversionError(
                    f"the scheduler has {self.scheduler.num_embed} classes, the transformer {classes}: check that they "
                    "are of the same model."
                )

    def report(self, dtype: Optional[str]) -> dict[str, Any]:
        """The sizes of the components as written, and every entry of the source that is left out, with the reason."""
        components = [
            {
                "component": component.folder,
                "class": component.class_name,
                "tensors": len(component.fitted),
                "parameters": sum(tensor.size for tensor in component.fitted.values()),
                "dtypes": dict(Counter(tensor.dtype for tensor in component.written(dtype).values())),
                "ignored": component.ignored,
            }
            for component in self.components
        ]
        return {
            "pipeline": self.pipeline and self.pipeline.__name__,
            "components": components,
            "ignored": self.ignored,
            "objects_passed_over": sorted(self.skipped_objects),
        }
