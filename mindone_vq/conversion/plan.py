"""What a conversion will write, checked before anything is written."""

from dataclasses import dataclass, field
from typing import Any, Optional

from mindspore import nn
from mindspore.nn.utils import no_init_parameters

from mindone_vq import (
    ClassToImagePipeline,
    ClassTransformer2DModel,
    CLIPTextModel,
    CLIPTokenizer,
    GumbelVQModel,
    LearnedClassifierFreeSamplingEmbeddings,
    Transformer2DModel,
    UnconditionalPipeline,
    UnconditionalTransformer2DModel,
    VQDiffusionPipeline,
    VQDiffusionScheduler,
    VQModel,
)
from mindone_vq.pipelines.base import DiffusionPipeline
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.store import WeightMismatchError, fit

NETWORKS = {
    kind.__name__: kind
    for kind in (
        *(VQModel, GumbelVQModel, Transformer2DModel, ClassTransformer2DModel, UnconditionalTransformer2DModel),
        *(CLIPTextModel, LearnedClassifierFreeSamplingEmbeddings),
    )
}
PIPELINES = {kind.__name__: kind for kind in (VQDiffusionPipeline, ClassToImagePipeline, UnconditionalPipeline)}
# Which network has which folder in a pipeline.
FOLDERS = {
    "VQModel": "vqvae",
    "GumbelVQModel": "vqvae",
    "Transformer2DModel": "transformer",
    "ClassTransformer2DModel": "transformer",
    "UnconditionalTransformer2DModel": "transformer",
    "CLIPTextModel": "text_encoder",
    "LearnedClassifierFreeSamplingEmbeddings": "learned_classifier_free_sampling_embeddings",
}


class ConversionError(ValueError):
    """A checkpoint cannot be converted as asked; the message says why and what to do."""


@dataclass
class Component:
    """One network: its class by name, its arguments, and where each weight comes from.

    Attributes:
        tensors: by the key of a PyTorch state dict; not yet checked.
        ignored: keys of the source that no network needs, with the reason.
        fitted: the weights, checked; set by ``check``.
        advice: what to do where names or shapes do not fit.
    """

    class_name: str
    config: dict[str, Any]
    tensors: dict[str, LazyTensor]
    ignored: dict[str, str] = field(default_factory=dict)
    fitted: dict[str, LazyTensor] = field(default_factory=dict)
    network: Optional[nn.Cell] = None
    advice: str = WeightMismatchError.advice

    @property
    def folder(self) -> str:
        return FOLDERS[self.class_name]

    def check(self) -> None:
        """Makes the network without memory for its weights, and fits the tensors to it.

        Raises:
            ConversionError: the config is impossible, or names or shapes do not fit; names them all.
        """
        try:
            with no_init_parameters():
                self.network = NETWORKS[self.class_name].from_config(self.config)
            self.fitted, ignored = fit(self.network, self.tensors)
        except (ValueError, TypeError) as error:
            raise ConversionError(f"{self.folder}: {error}".replace(WeightMismatchError.advice, self.advice)) from error
        self.ignored = {**self.ignored, **ignored}


@dataclass
class Plan:
    """A whole conversion.

    Attributes:
        pipeline: the class whose folder is made, or None for components alone.
        components: the networks.
        scheduler, tokenizer: of the pipeline, where it has them.
        default_settings: of the pipeline's calls, where the model has its own.
        ignored: keys of the source that belong to no component, with the reason.
        passed_over: classes of objects in a PyTorch file that were passed over.
        source_is_diffusers: whether diffusers could load the source itself.
    """

    components: list[Component]
    pipeline: Optional[type[DiffusionPipeline]] = None
    scheduler: Optional[VQDiffusionScheduler] = None
    tokenizer: Optional[CLIPTokenizer] = None
    default_settings: dict[str, float] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    passed_over: set[str] = field(default_factory=set)
    source_is_diffusers: bool = False

    def check(self) -> None:
        """Checks every component, and that they belong together."""
        for component in self.components:
            component.check()
        folders = {component.folder: component.config for component in self.components}
        if {"transformer", "vqvae"} <= set(folders) and self.scheduler is not None:
            classes = folders["transformer"]["num_vector_embeds"]
            if self.scheduler.num_embed != classes:
                raise ConversionError(
                    f"the scheduler counts {self.scheduler.num_embed} classes, the transformer {classes}."
                )

    def only(self, folder: str) -> "Plan":
        """The plan for one component alone."""
        chosen = [component for component in self.components if component.folder == folder]
        if not chosen:
            has = ", ".join(component.folder for component in self.components)
            raise ConversionError(f"the source has no {folder}; it has {has}.")
        return Plan(chosen, passed_over=self.passed_over, source_is_diffusers=self.source_is_diffusers)
