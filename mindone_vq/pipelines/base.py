"""What every pipeline shares: components, loading and saving, the progress bar, pictures."""

import os
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn
from PIL import Image
from tqdm.auto import tqdm

import mindone_vq
from mindone_vq.outputs import Output
from mindone_vq.pipelines.generation import Call, Condition, Edit, generate_codes
from mindone_vq.pipelines.graphs import CodeDecoding, GraphCache
from mindone_vq.weights import hub
from mindone_vq.weights.files import read_json, write_json
from mindone_vq.weights.pretrained import check_dtype, logger
from mindone_vq.weights.store import weight_files

# As diffusers' pipeline has them.
PUBLISHED_SETTINGS = {"guidance_scale": 5.0, "truncation_rate": 1.0}


@dataclass
class ImagePipelineOutput(Output):
    """images: a list of PIL pictures; or (batch, height, width, 3) float32 in [0, 1]; or codes (batch, pixels)."""

    images: Union[list[Image.Image], np.ndarray, Tensor]


class Pipeline:
    """Base of the pipelines. A pipeline's components are its constructor's arguments.

    ``component_classes`` gives each component's class, and the library that model_index.json names for it.

    Attributes:
        default_settings: what a call uses where it is not given ``guidance_scale`` or ``truncation_rate``. They are the
            model's own, from model_index.json, which diffusers passes over; without them ``PUBLISHED_SETTINGS``.
    """

    component_classes: dict[str, tuple[str, type]] = {}
    index_name: Optional[str] = None  # what model_index.json calls it, if not by the name of its class

    def __init__(self, **components: Any) -> None:
        for name, component in components.items():
            setattr(self, name, component)
        self.default_settings = dict(PUBLISHED_SETTINGS)
        self._progress_bar_config: dict[str, Any] = {}
        self._graphs = GraphCache()
        _warn_of_slow_convolutions()

    @property
    def components(self) -> dict[str, Any]:
        """The parts by name: ``type(pipe)(**pipe.components)`` is a second pipeline over the same weights.

        It begins with ``PUBLISHED_SETTINGS``; ``from_pipe`` takes over the settings too.
        """
        return {name: getattr(self, name) for name in self.component_classes}

    @classmethod
    def from_pipe(cls, pipeline: "Pipeline", **changed: Any) -> "Pipeline":
        """A pipeline over the same weights, compiled graphs and settings: such as one that edits, of one that draws.

        Args:
            pipeline: of the same components.
            changed: components to have in place of those, by name.

        Raises:
            TypeError: ``pipeline`` has other components.
        """
        if not isinstance(pipeline, Pipeline) or pipeline.component_classes.keys() != cls.component_classes.keys():
            raise TypeError(
                f"A {cls.__name__} consists of {', '.join(cls.component_classes)}; it cannot be made of a "
                f"{type(pipeline).__name__}."
            )
        made = cls(**{**pipeline.components, **changed})
        made.default_settings = dict(pipeline.default_settings)
        made.set_progress_bar_config(**pipeline._progress_bar_config)
        if not changed:
            made._graphs = pipeline._graphs
        return made

    @property
    def dtype(self) -> ms.Type:
        """The type of the denoiser's weights."""
        return self.transformer.dtype

    def to(self, dtype: ms.Type) -> "Pipeline":
        """Casts the weights of every component; returns the pipeline."""
        check_dtype(dtype)
        for component in self.components.values():
            if isinstance(component, nn.Cell) and hasattr(component, "to"):
                component.to(dtype)
        self._graphs.clear()
        return self

    def set_progress_bar_config(self, **config: Any) -> None:
        """Arguments for tqdm, such as ``disable=True``."""
        self._progress_bar_config = config

    def progress_bar(self, iterable: Optional[Iterable] = None, total: Optional[int] = None) -> tqdm:
        """A tqdm with the pipeline's settings."""
        return tqdm(iterable, total=total, **self._progress_bar_config)

    def _settings(self, guidance_scale: Optional[float], truncation_rate: Optional[float]) -> tuple[float, float]:
        """Both as given, or the default."""
        chosen = settings_of_call(self.default_settings, guidance_scale, truncation_rate)
        return chosen["guidance_scale"], chosen["truncation_rate"]

    @staticmethod
    def numpy_to_pil(images: np.ndarray) -> list[Image.Image]:
        """(batch, height, width, 3) in [0, 1] -> pictures."""
        pixels = (images * 255).round().astype(np.uint8)
        return [Image.fromarray(picture.squeeze()) for picture in pixels]

    def _generate(
        self, condition: Condition, call: Call, output_type: str, return_dict: bool, edit: Optional[Edit] = None
    ) -> Union[ImagePipelineOutput, tuple]:
        """The codes that the chain ends with, and their pictures."""
        parts = (self._graphs, self.transformer, self.scheduler)
        codes = generate_codes(self, *parts, condition, call, self.progress_bar, edit)
        images = codes if output_type == "latent" else self.decode_latents(codes, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def decode_latents(self, codes: Tensor, output_type: str = "pil") -> Union[list[Image.Image], np.ndarray]:
        """Codes (batch, pixels) -> pictures: a list of PIL, or (batch, height, width, 3) float32 in [0, 1]."""
        height, width = self.transformer.height, self.transformer.width
        images = self._graphs.get(CodeDecoding, self.vqvae, height, width, name="decoder")(codes).asnumpy()
        return self.numpy_to_pil(images) if output_type == "pil" else images

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Union[str, os.PathLike],
        mindspore_dtype: Optional[ms.Type] = None,
        variant: Optional[str] = None,
        **kwargs: Any,
    ):
        """Loads a pipeline folder in diffusers' layout, as old and as new releases of diffusers write it.

        Args:
            pretrained_model_name_or_path: a folder that holds model_index.json, or a hub id.
            mindspore_dtype: type of the weights; None: float32.
            variant: infix of the weight files, such as "fp16"; a component without it is loaded plain.
            kwargs: a component by its name takes the place of the one in the folder; the others go to the hub
                (``revision``, ``cache_dir``, ``local_files_only``, ``token``, ``force_download``).

        Raises:
            FileNotFoundError: the folder, a component's folder, or its weights are not there.
            ValueError: a file cannot be read, or is of another class.
        """
        check_dtype(mindspore_dtype)
        given = {name: kwargs.pop(name) for name in list(kwargs) if name in cls.component_classes}
        wanted = [name for name in cls.component_classes if name not in given]
        folder = hub.resolve(pretrained_model_name_or_path, wanted, variant, **kwargs)
        settings = check_index(cls, folder)
        missing = [name for name in wanted if not (folder / name).is_dir()]
        if missing:
            raise FileNotFoundError(
                f"{folder} lacks the folder of {', '.join(missing)}. Download it, or pass the component itself: "
                f"from_pretrained(..., {missing[0]}=...)."
            )
        loaded = {}
        for name in wanted:
            _, component_class = cls.component_classes[name]
            options = {}
            if issubclass(component_class, nn.Cell) and hasattr(component_class, "weights_stems"):
                has_variant = variant and weight_files(
                    os.listdir(folder / name), component_class.weights_stems, variant
                )
                if variant and not has_variant:
                    logger.warning("%s has no variant %r; its plain weights are loaded.", folder / name, variant)
                options = {"mindspore_dtype": mindspore_dtype, "variant": variant if has_variant else None}
            loaded[name] = component_class.from_pretrained(folder, subfolder=name, **options)
        pipeline = cls(**loaded, **given)
        pipeline.default_settings.update(settings)
        return pipeline

    def save_pretrained(self, save_directory: Union[str, os.PathLike], variant: Optional[str] = None) -> None:
        """Writes every component, then model_index.json, as diffusers lays them out."""
        folder = Path(save_directory)
        if folder.is_file():
            raise FileExistsError(f"{folder} is a file; give a folder to save into.")
        for name, (_, component_class) in self.component_classes.items():
            component = getattr(self, name)
            if not isinstance(component, component_class):
                raise TypeError(
                    f"{name} is a {type(component).__name__}, which this pipeline can run but not save: "
                    f"only a {component_class.__name__} of mindone_vq can be."
                )
        for name, component in self.components.items():
            options = {"variant": variant} if hasattr(component, "weights_stems") else {}
            component.save_pretrained(folder / name, **options)
        class_names = {name: type(component).__name__ for name, component in self.components.items()}
        write_json(folder / "model_index.json", self.index(class_names, self.default_settings))

    @classmethod
    def index(cls, class_names: Mapping[str, str], settings: Mapping[str, float]) -> dict[str, Any]:
        """The content of model_index.json.

        Args:
            class_names: the class of each component; the usual one where it is not given.
            settings: of a call, by default.
        """
        index: dict[str, Any] = {
            "_class_name": cls.index_name or cls.__name__,
            "_mindone_vq_version": mindone_vq.__version__,
        }
        own = {name: value for name, value in settings.items() if value != PUBLISHED_SETTINGS[name]}
        if own:
            index["_default_settings"] = own
        for name, (library, usual) in cls.component_classes.items():
            class_name = class_names.get(name, usual.__name__)
            index[name] = [library if class_name == usual.__name__ else "mindone_vq", class_name]
        return index


def settings_of_call(
    defaults: Mapping[str, float], guidance_scale: Optional[float], truncation_rate: Optional[float]
) -> dict[str, float]:
    """Both by name: as given, or as in ``defaults`` where None is given."""
    given = {"guidance_scale": guidance_scale, "truncation_rate": truncation_rate}
    return {name: defaults[name] if value is None else value for name, value in given.items()}


def check_index(cls: type, folder: Path) -> dict[str, float]:
    """Raises ValueError where model_index.json describes another pipeline; returns the model's default settings.

    Old and new releases of diffusers differ in the library they name for a component; the classes are the same.
    """
    index = read_json(folder / "model_index.json")
    own = cls.index_name or cls.__name__
    named = index.get("_class_name", own)
    if named != own:
        raise ValueError(f"{folder / 'model_index.json'} is the index of a {named}, not of a {own}.")
    for name, (_, component_class) in cls.component_classes.items():
        entry = index.get(name)
        family = component_class.family() if hasattr(component_class, "family") else [component_class.__name__]
        accepted = [*family, component_class.__name__ + "Fast"]
        if entry is not None and (not isinstance(entry, list) or len(entry) != 2 or entry[1] not in accepted):
            raise ValueError(
                f"{folder / 'model_index.json'} gives {name} as {entry}, expected a {component_class.__name__}."
            )
    settings = index.get("_default_settings", {})
    if not isinstance(settings, dict) or not settings.keys() <= PUBLISHED_SETTINGS.keys():
        raise ValueError(
            f"{folder / 'model_index.json'} has _default_settings {settings}; they are numbers for "
            f"{' and '.join(PUBLISHED_SETTINGS)}."
        )
    return settings


def _warn_of_slow_convolutions() -> None:
    version = tuple(int(part) for part in ms.__version__.split(".")[:2])
    if version >= (2, 9) and ms.get_context("device_target") == "CPU":
        warnings.warn(
            f"MindSpore {ms.__version__} runs convolutions on a CPU far slower than 2.8.0: "
            'install mindone_vq with the extra [cpu] ("pip install mindone_vq[cpu]") on a machine without an NPU.',
            stacklevel=3,
        )
