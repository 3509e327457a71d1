"""Loading and saving a pipeline: a folder for each component and model_index.json, as diffusers lays them out."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

import mindspore as ms
from mindspore import nn

import mindone_vq
from mindone_vq.diffusion.options import SamplingOptions
from mindone_vq.pipelines.card import UNKNOWN, write_card
from mindone_vq.weights import hub
from mindone_vq.weights.files import read_json, write_json
from mindone_vq.weights.pretrained import SaveMixin, check_dtype, logger
from mindone_vq.weights.store import weight_files

# As diffusers' pipeline has them.
PUBLISHED_SETTINGS = {
    "guidance_scale": 5.0,
    "truncation_rate": 1.0,
    "num_inference_steps": 100,
    "sampler": "ancestral",
    "spacing": "uniform",
}
PIPELINES = ("VQDiffusionPipeline", "ClassToImagePipeline", "UnconditionalPipeline")
DtypeOfEach = Union[ms.Type, Mapping[str, ms.Type], None]
# Keywords of from_pretrained beside the components and those for the hub.
OWN_OPTIONS = ("mindspore_dtype", "variant", "use_safetensors")


class PretrainedPipeline(SaveMixin):
    """Base of the pipelines: loading and saving.

    ``component_classes`` gives each component's class, and the library that model_index.json names for it.

    Attributes:
        default_settings: what a call has for those of ``PUBLISHED_SETTINGS`` that it is not given: the model's own,
            from an entry of model_index.json that diffusers ignores, or else the published ones.
        name_or_path: the source given to ``from_pretrained``; None for a pipeline made of its components.
        training_notes: what the model card of a saved pipeline says of its training, in Markdown.
    """

    component_classes: dict[str, tuple[str, type]] = {}
    index_name: Optional[str] = None  # the name in model_index.json, if not that of the class
    default_settings: dict[str, Any]
    name_or_path: Optional[str] = None
    training_notes = UNKNOWN

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: Union[str, os.PathLike],
        mindspore_dtype: DtypeOfEach = None,
        variant: Optional[str] = None,
        use_safetensors: Optional[bool] = None,
        **kwargs: Any,
    ):
        """Loads a pipeline folder in diffusers' layout, as old and as new releases of diffusers write it.

        ``DiffusionPipeline.from_pretrained`` gives the pipeline that model_index.json names.

        Args:
            pretrained_model_name_or_path: a folder that holds model_index.json, or a hub id.
            mindspore_dtype: type of the weights; or a dict with those of components by name, and "default" for the
                others. None: float32.
            variant: infix of the weight files, such as "fp16"; a component without it is loaded plain.
            use_safetensors: True: safetensors only; False: PyTorch's .bin only; None: whichever is there, safetensors
                first.
            kwargs: a component by its name takes the place of the one in the folder; the others go to the hub
                (``revision``, ``cache_dir``, ``local_files_only``, ``token``, ``force_download``).

        Raises:
            TypeError: an unknown keyword, or something that is no type of weights.
            FileNotFoundError: the folder, a component's folder, or its weights are not there.
            ValueError: a file cannot be read, or is of another class.
        """
        if not cls.component_classes:
            cls = _named_pipeline(pretrained_model_name_or_path, cls, kwargs)
        known = [*cls.component_classes, *OWN_OPTIONS, *hub.OPTIONS]
        hub.check_options(kwargs, known, f"{cls.__name__}.from_pretrained")
        dtypes = cls._dtypes(mindspore_dtype)
        given = {name: kwargs.pop(name) for name in list(kwargs) if name in cls.component_classes}
        wanted = [name for name in cls.component_classes if name not in given]
        folder = hub.resolve(pretrained_model_name_or_path, wanted, variant, use_safetensors, **kwargs)
        settings = check_index(cls, folder)
        missing = [name for name in wanted if not (folder / name).is_dir()]
        if missing:
            raise FileNotFoundError(
                f"{folder} lacks the folder of {', '.join(missing)}. Download it, or pass the component itself: "
                f"from_pretrained(..., {missing[0]}=...)."
            )
        loaded = {name: cls._load(folder, name, dtypes[name], variant, use_safetensors) for name in wanted}
        pipeline = cls(**loaded, **given)
        pipeline.default_settings.update(settings)
        pipeline.name_or_path = str(pretrained_model_name_or_path)
        return pipeline

    @classmethod
    def _load(
        cls, folder: Path, name: str, dtype: ms.Type, variant: Optional[str], use_safetensors: Optional[bool]
    ) -> Any:
        """One component."""
        _, component_class = cls.component_classes[name]
        if not (issubclass(component_class, nn.Cell) and hasattr(component_class, "weights_stems")):
            return component_class.from_pretrained(folder, subfolder=name)
        names, stems = os.listdir(folder / name), component_class.weights_stems
        if variant and not weight_files(names, stems, variant, use_safetensors):
            logger.warning("%s has no variant %r; its plain weights are loaded.", folder / name, variant)
            variant = None
        return component_class.from_pretrained(
            folder, subfolder=name, mindspore_dtype=dtype, variant=variant, use_safetensors=use_safetensors
        )

    @classmethod
    def _dtypes(cls, given: DtypeOfEach) -> dict[str, ms.Type]:
        """The type of each component."""
        if not isinstance(given, Mapping):
            return dict.fromkeys(cls.component_classes, check_dtype(given))
        unknown = [name for name in given if name not in (*cls.component_classes, "default")]
        if unknown:
            raise TypeError(
                f"mindspore_dtype has {', '.join(map(str, unknown))}; the components are "
                f'{", ".join(cls.component_classes)}, and "default" stands for the others.'
            )
        default = given.get("default")
        return {name: check_dtype(given.get(name, default)) for name in cls.component_classes}

    def _save(self, folder: Path, variant: Optional[str], max_shard_size: Optional[int]) -> None:
        for name, component in self.components.items():
            if not hasattr(component, "save_pretrained"):
                raise TypeError(f"{name} is a {type(component).__name__}, which this pipeline can run but not save.")
        for name, component in self.components.items():
            has_weights = hasattr(component, "weights_stems")
            options = {"variant": variant, "max_shard_size": max_shard_size} if has_weights else {}
            component.save_pretrained(folder / name, **options)
        index = self.index(self._class_names(), self.default_settings)
        write_json(folder / "model_index.json", index)
        title = Path(self.name_or_path).name if self.name_or_path else "VQ-Diffusion"
        write_card(folder, index["_class_name"], self.components, self.default_settings, title, self.training_notes)

    def _class_names(self) -> dict[str, str]:
        return {name: type(component).__name__ for name, component in self.components.items()}

    @classmethod
    def index(cls, class_names: Mapping[str, str], settings: Mapping[str, Any]) -> dict[str, Any]:
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
            is_usual = class_name.removesuffix("Fast") == usual.__name__  # transformers' tokenizer in Rust
            index[name] = [library if is_usual else "mindone_vq", class_name]
        return index


def _named_pipeline(source: Union[str, os.PathLike], base: type, options: Mapping[str, Any]) -> type:
    """The pipeline class that model_index.json of a folder or a hub id names."""
    hub_options = {name: value for name, value in options.items() if name in hub.OPTIONS}
    path = hub.resolve(source, [], **hub_options) / "model_index.json"
    named = read_json(path).get("_class_name")
    if named not in PIPELINES:
        raise ValueError(f"{path} is the index of a {named}; {base.__name__} knows {', '.join(PIPELINES)}.")
    return getattr(mindone_vq, named)


def check_index(cls: type, folder: Path) -> dict[str, Any]:
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
    settings, known = index.get("_default_settings", {}), ", ".join(PUBLISHED_SETTINGS)
    try:
        if not isinstance(settings, dict) or not settings.keys() <= PUBLISHED_SETTINGS.keys():
            raise ValueError(f"they can be {known}")
        SamplingOptions(**settings)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'model_index.json'} has _default_settings {settings}: {error}.") from error
    return settings
