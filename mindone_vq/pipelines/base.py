"""What every pipeline shares: components, settings, the progress bar, pictures."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from typing import Any, NamedTuple, Optional, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from PIL import Image
from tqdm.auto import tqdm

from mindone_vq.diffusion.options import SamplingOptions
from mindone_vq.diffusion.sampling import Generators, as_argument, make_generators
from mindone_vq.diffusion.schedule import CLEAN
from mindone_vq.diffusion.steps import Step
from mindone_vq.outputs import output
from mindone_vq.pictures import to_uint8
from mindone_vq.pipelines.checks import check_components, check_latents, check_output_type
from mindone_vq.pipelines.compilation import GraphCache
from mindone_vq.pipelines.denoising import Conditioning, Denoiser
from mindone_vq.pipelines.generation import Call, Callbacks, KnownCodes
from mindone_vq.pipelines.graphs import CodeDecoding
from mindone_vq.pipelines.pretrained import PUBLISHED_SETTINGS, PretrainedPipeline
from mindone_vq.pipelines.pytorch_only import PyTorchOnly
from mindone_vq.pipelines.warming import WarmUp, one_step_of_each_graph
from mindone_vq.weights.config import Config
from mindone_vq.weights.pretrained import check_dtype


@output
class ImagePipelineOutput(NamedTuple):
    """images: a list of PIL pictures; or (batch, height, width, 3) float32 in [0, 1]; or codes (batch, pixels)."""

    images: Union[list[Image.Image], np.ndarray, Tensor]


class DiffusionPipeline(PretrainedPipeline, PyTorchOnly, WarmUp):
    """Base of the pipelines. A pipeline's components are its constructor's arguments, and its attributes.

    A component is exchanged by setting the attribute, several at once by ``register_modules``. One that does not fit
    the others is refused.
    """

    adapted: tuple[str, ...] = ()  # components that may be of another library's class, which a pipeline checks itself

    def __init__(self, **components: Any) -> None:
        self.default_settings = dict(PUBLISHED_SETTINGS)
        self._progress_bar_config: dict[str, Any] = {}
        self._graphs = GraphCache()
        self.register_modules(**components)
        _warn_of_slow_convolutions()

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.component_classes:
            try:
                self.register_modules(**{name: value})
            except ValueError as error:
                raise ValueError(f"{error} register_modules(...) exchanges several components at once.") from error
        else:
            super().__setattr__(name, value)

    def register_modules(self, **components: Any) -> None:
        """Sets one or several components.

        Raises:
            TypeError: this pipeline has no such component, or the component is of another kind.
            ValueError: they do not fit each other; then nothing was changed.
        """
        unknown = [name for name in components if name not in self.component_classes]
        if unknown:
            raise TypeError(
                f"{type(self).__name__} has no component {', '.join(unknown)}; it has "
                f"{', '.join(self.component_classes)}."
            )
        self.__dict__.update(self.checked_components({**self.components, **components}))

    @classmethod
    def checked_components(cls, components: dict[str, Any]) -> dict[str, Any]:
        """The components as the pipeline keeps them, checked against each other; a pipeline can add to it."""
        for name, (_, kind) in cls.component_classes.items():
            part = components[name]
            if not isinstance(part, kind) and name not in cls.adapted:
                raise TypeError(f"{name} is a {type(part).__module__}.{type(part).__name__}; give a {kind.__name__}.")
        check_components(components["vqvae"], components["transformer"], components["scheduler"])
        return components

    @property
    def components(self) -> dict[str, Any]:
        """The parts by name: ``type(pipe)(**pipe.components)`` is a second pipeline over the same weights.

        It begins with ``PUBLISHED_SETTINGS``; ``from_pipe`` takes over the settings too.
        """
        return {name: self.__dict__[name] for name in self.component_classes if name in self.__dict__}

    @classmethod
    def from_pipe(cls, pipeline: "DiffusionPipeline", **changed: Any) -> "DiffusionPipeline":
        """A pipeline over the same weights, compiled graphs and settings: such as one that edits, of one that draws.

        Args:
            pipeline: of the same components.
            changed: components to have in place of those, by name.

        Raises:
            TypeError: ``pipeline`` has other components.
        """
        if (
            not isinstance(pipeline, DiffusionPipeline)
            or pipeline.component_classes.keys() != cls.component_classes.keys()
        ):
            raise TypeError(
                f"A {cls.__name__} consists of {', '.join(cls.component_classes)}; it cannot be made of a "
                f"{type(pipeline).__name__}."
            )
        made = cls(**{**pipeline.components, **changed})
        made.default_settings, made.name_or_path = dict(pipeline.default_settings), pipeline.name_or_path
        made.set_progress_bar_config(**pipeline._progress_bar_config)
        if not changed:
            made._graphs = pipeline._graphs
        return made

    @property
    def config(self) -> Config:
        """What model_index.json says: the class of the pipeline, and library and class of each component."""
        path = {} if self.name_or_path is None else {"_name_or_path": self.name_or_path}
        return Config({**self.index(self._class_names(), self.default_settings), **path})

    @property
    def dtype(self) -> ms.Type:
        """The type of the denoiser's weights."""
        return self.transformer.dtype

    @property
    def device(self) -> str:
        """What MindSpore computes on: "CPU" or "Ascend"."""
        return self.transformer.device

    def to(self, dtype: ms.Type) -> "DiffusionPipeline":
        """Casts the weights of every component; returns the pipeline.

        Raises:
            TypeError: not a type of weights; a device is chosen with ``mindspore.set_device``.
        """
        check_dtype(dtype, "to()")
        for component in self.components.values():
            if isinstance(component, nn.Cell) and hasattr(component, "to"):
                component.to(dtype)
        return self

    def set_progress_bar_config(self, **config: Any) -> None:
        """Arguments for tqdm, such as ``disable=True``."""
        self._progress_bar_config = config

    def progress_bar(self, iterable: Optional[Iterable] = None, total: Optional[int] = None) -> tqdm:
        """A tqdm with the pipeline's settings."""
        return tqdm(iterable, total=total, **self._progress_bar_config)

    @property
    def denoiser(self) -> Denoiser:
        """The transformer as a call runs it."""
        return Denoiser(self.transformer, self._graphs, self.scheduler.start_timestep)

    def sampling_options(self, **given: Any) -> SamplingOptions:
        """The given fields of ``SamplingOptions``; others, and those that are None, are as the model has them."""
        chosen = {name: value for name, value in given.items() if value is not None}
        return SamplingOptions(**{**PUBLISHED_SETTINGS, **self.default_settings, **chosen})

    def prepare(
        self,
        batch: int,
        generator: Generators = None,
        latents: Union[Tensor, np.ndarray, None] = None,
        output_type: str = "pil",
        callback: Optional[Callable[[int, int, Tensor], None]] = None,
        callback_steps: int = 1,
        callback_on_step_end: Optional[Callable[..., Optional[dict]]] = None,
        **options: Any,
    ) -> Call:
        """Checks the arguments of a call; they are documented in ``VQDiffusionPipeline.__call__``.

        Args:
            batch: pictures in all.
            options: as ``sampling_options`` takes them.

        Raises:
            TypeError, ValueError: an argument is not what it must be; the message names it.
        """
        options = self.sampling_options(**options)
        callbacks = Callbacks(callback, callback_steps, callback_on_step_end)
        check_output_type(output_type)
        steps = self.scheduler.steps(options.num_inference_steps, options.sampler, options.spacing)
        generators, pixels = make_generators(generator, batch), self.transformer.num_latent_pixels
        if latents is None:
            x_T = self.scheduler.initial_codes(batch, pixels, as_argument(generators))
        else:
            x_T = self._checked_latents(latents, batch)
        return Call(options, steps, x_T, generators, callbacks, output_type)

    def _checked_latents(self, latents: Any, batch: int) -> Tensor:
        return check_latents(latents, (batch, self.transformer.num_latent_pixels), self.transformer.num_vector_embeds)

    def sample(
        self, call: Call, conditioning: Conditioning, known: Optional[KnownCodes] = None
    ) -> Iterator[tuple[float, Tensor]]:
        """The reverse process: yields timesteps with their x_t, from x_T to the clean codes at timestep -1.

        Every timestep with callbacks or resampling; else after as many steps as are fastest together.

        Args:
            call: from ``prepare``.
            conditioning: from ``denoiser.condition``.
            known: codes to hold in their places.
        """
        if self._warms_up:
            call = one_step_of_each_graph(call)
        denoiser = self.denoiser
        denoising_step = denoiser.step(conditioning, call.options)
        known = known or KnownCodes.nothing(call.x_T.shape)

        def denoise(x_t: Tensor, steps: Sequence[Step]) -> Tensor:
            uniforms, codes = [], []
            for step in steps:  # all that is random is made before the steps run: nothing waits for x_s
                uniforms.append(call.options.sampler.draw_uniforms(call.generators, *x_t.shape))
                codes.append(known.at(step.s, self.scheduler, call.generator))
            return denoising_step(x_t, steps, np.stack(uniforms), np.stack(codes))

        every = 1 if known.resample > 1 or call.callbacks.are_given else denoiser.steps_at_once
        if known.resample > 1:
            denoise = known.resampling(denoise, self.scheduler, call.generator)
        x_t = call.x_T
        yield call.steps[0].t if call.steps else CLEAN, x_t
        with self.progress_bar(total=len(call.steps)) as bar:
            for first in range(0, len(call.steps), every):
                steps = call.steps[first : first + every]
                x_t = denoise(x_t, steps)
                last = first + len(steps) - 1
                replaced = call.callbacks.replaced(self, last, steps[-1].timestep, x_t)
                x_t = x_t if replaced is None else self._checked_latents(replaced, call.batch)
                call.callbacks.notify(last, steps[-1].timestep, x_t)
                bar.update(len(steps))
                yield steps[-1].s, x_t

    @staticmethod
    def numpy_to_pil(images: np.ndarray) -> list[Image.Image]:
        """(batch, height, width, channels), or one picture (height, width, channels), in [0, 1] -> pictures."""
        images = images[None] if images.ndim == 3 else images
        squeezed = images[..., 0] if images.shape[-1] == 1 else images
        return [Image.fromarray(picture) for picture in to_uint8(squeezed)]

    def decode(self, codes: Tensor, output_type: str) -> ImagePipelineOutput:
        """The result of a call."""
        return ImagePipelineOutput(codes if output_type == "latent" else self.decode_latents(codes, output_type))

    def decode_latents(self, codes: Tensor, output_type: str = "pil") -> Union[list[Image.Image], np.ndarray]:
        """Codes (batch, pixels) -> pictures: a list of PIL, or (batch, height, width, 3) float32 in [0, 1]."""
        height, width = self.transformer.height, self.transformer.width
        images = self._graphs.get(CodeDecoding, self.vqvae, height, width, name="decoder")(codes).asnumpy()
        return self.numpy_to_pil(images) if output_type == "pil" else images


# Arguments of a call that every pipeline hands on to ``prepare``.
SHARED_ARGUMENTS = {
    *(field.name for field in (*fields(SamplingOptions), *fields(Callbacks))),
    "generator",
    "latents",
    "output_type",
}


def shared_arguments(arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of ``arguments`` that ``DiffusionPipeline.prepare`` takes."""
    return {name: value for name, value in arguments.items() if name in SHARED_ARGUMENTS}


def _warn_of_slow_convolutions() -> None:
    version = tuple(int(part) for part in ms.__version__.split(".")[:2])
    if version >= (2, 9) and ms.get_context("device_target") == "CPU":
        warnings.warn(
            f"MindSpore {ms.__version__} runs convolutions on a CPU far slower than 2.8.0: "
            'install mindone_vq with the extra [cpu] ("pip install mindone_vq[cpu]") on a machine without an NPU.',
            stacklevel=3,
        )
