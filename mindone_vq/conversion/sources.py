"""From what the user names to a plan: a diffusers folder or hub id, a bare state dict, or a file of Microsoft's."""

import gzip
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Optional, Union

import mindspore as ms
import numpy as np
from mindspore.nn.utils import no_init_parameters

from mindone_vq import CLIPTokenizer, VQDiffusionScheduler
from mindone_vq.conversion import infer, original, original_codec, original_text
from mindone_vq.conversion.options import FLAGS, MERGES, ORIGINAL, Options, check_file
from mindone_vq.conversion.original_config import read_yaml
from mindone_vq.conversion.plan import NETWORKS, PIPELINES, Component, ConversionError, Plan
from mindone_vq.pipelines.pretrained import check_index
from mindone_vq.weights import hub
from mindone_vq.weights.config import named_class
from mindone_vq.weights.files import read_json
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.rules import state_dict_parameters
from mindone_vq.weights.safetensors_file import read_safetensors
from mindone_vq.weights.store import find_weights, open_weights
from mindone_vq.weights.torch_pickle import open_checkpoint

CONTAINERS, MAX_CONTAINERS = ("state_dict", "model", "module"), 4
TORCH_ENDINGS = (".bin", ".pth", ".pt", ".ckpt")
# What ``write`` calls MindSpore's own files.
MINDSPORE_STEM = "mindspore_model"


def read_source(source: Union[str, os.PathLike], options: Options) -> Plan:
    """The plan for converting ``source``, not yet checked.

    Raises:
        ConversionError, FileNotFoundError, ValueError: it cannot be read, or more is needed; says what.
    """
    options.check_files()
    path = Path(source).expanduser()
    if path.is_file():
        check_file(path, "SOURCE")
        return _read_file(path, options)
    if not path.is_dir() and path.suffix in (".safetensors", *TORCH_ENDINGS):
        raise FileNotFoundError(f"SOURCE {source} does not exist.")
    remote = () if path.is_dir() else ("revision",)
    options.check_used("a folder" if path.is_dir() else "a hub id", ("variant", *remote))
    hub_options = {"revision": options.revision} if options.revision else {}
    folder = hub.resolve(source, variant=options.variant, **hub_options)
    if (folder / "model_index.json").is_file():
        return _read_pipeline(folder, options)
    if (folder / "config.json").is_file():
        return Plan([_read_component(folder, options)], source_is_diffusers=True)
    raise ConversionError(
        f"SOURCE {folder} holds neither model_index.json nor config.json: give a folder that holds one, or a file."
    )


def _read_pipeline(folder: Path, options: Options) -> Plan:
    index = read_json(folder / "model_index.json")
    kind = PIPELINES.get(index.get("_class_name"))
    if kind is None:
        raise ConversionError(f"{folder} holds a {index.get('_class_name')}; known are {', '.join(PIPELINES)}.")
    names = [name for name in kind.component_classes if name not in ("scheduler", "tokenizer")]
    missing = [name for name in kind.component_classes if not (folder / name).is_dir()]
    if missing:
        raise ConversionError(f"{folder} lacks the folder of {', '.join(missing)}.")
    plan = Plan([_read_component(folder / name, options) for name in names], kind, source_is_diffusers=True)
    plan.default_settings = check_index(kind, folder)
    plan.scheduler = VQDiffusionScheduler.from_pretrained(folder / "scheduler")
    if "tokenizer" in kind.component_classes:
        plan.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    return plan


def _read_component(folder: Path, options: Options) -> Component:
    config = read_json(folder / "config.json")
    class_name = named_class(config)
    if class_name not in NETWORKS:
        raise ConversionError(f"{folder / 'config.json'} is the config of a {class_name}, which is not converted.")
    config = NETWORKS[class_name].load_config(folder)
    checkpoint = folder / f"{MINDSPORE_STEM}.ckpt"
    own = checkpoint if checkpoint.is_file() else folder / f"{MINDSPORE_STEM}.safetensors"
    if own.is_file():
        return Component(class_name, config, _with_torch_names(own, class_name, config))
    if class_name == "LearnedClassifierFreeSamplingEmbeddings" and not config["learnable"]:
        return Component(class_name, config, {})
    files = find_weights(folder, NETWORKS[class_name].weights_stems, options.variant)
    return Component(class_name, config, open_weights(files, options.ignore_unknown))


def _with_torch_names(path: Path, class_name: str, config: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """A file of MindSpore's, under the names of PyTorch."""
    with no_init_parameters():  # only its names are needed
        network = NETWORKS[class_name].from_config(config)
    names = {parameter.name: key for key, parameter in state_dict_parameters(network).items()}
    if path.suffix == ".ckpt":
        loaded = ms.load_checkpoint(str(path))
        tensors = {name: LazyTensor.of(parameter.asnumpy()) for name, parameter in loaded.items()}
    else:
        tensors = read_safetensors(path)
    return {names.get(name, name): tensor for name, tensor in tensors.items()}


def _read_file(path: Path, options: Options) -> Plan:
    given = _given_config(options)
    if path.suffix == ".safetensors":
        return _plan_state_dict(read_safetensors(path), given, options)
    if path.suffix not in TORCH_ENDINGS:
        raise ConversionError(f"{path} ends in none of .safetensors, {', '.join(TORCH_ENDINGS)}.")
    if path.suffix == ".ckpt" and not _is_torch(path):
        options.check_used("a file of MindSpore", ("config",))
        return _plan_mindspore(path, given)
    content, passed_over = open_checkpoint(path, options.ignore_unknown)
    if not isinstance(content, dict):
        raise ConversionError(f"{path} holds a {type(content).__name__}, not a state dict.")
    if given is not None and "model" in given:
        plan = _plan_original(path, content, given, options, passed_over)
    else:
        plan = _plan_state_dict(_state_dict(content), given, options)
    plan.passed_over = passed_over
    return plan


def _plan_mindspore(path: Path, given: Optional[dict[str, Any]]) -> Plan:
    if not given:
        raise ConversionError(
            f"{path} is not a file of PyTorch; for a MindSpore .ckpt pass its config.json with --config."
        )
    class_name = named_class(given)
    if class_name not in NETWORKS:
        raise ConversionError(f"--config is of a {class_name}; a .ckpt needs the config.json of its network.")
    return Plan([Component(class_name, given, _with_torch_names(path, class_name, given))])


def _is_torch(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(1) in (b"P", b"\x80")  # a zip archive, a pickle


def _given_config(options: Options) -> Optional[dict[str, Any]]:
    if options.config is None:
        return None
    if options.config.suffix in (".yaml", ".yml"):
        return read_yaml(options.config)
    return read_json(options.config)


def _plan_state_dict(tensors: dict[str, LazyTensor], given: Optional[dict[str, Any]], options: Options) -> Plan:
    if any(key.startswith("transformer.transformer.content_emb.") for key in tensors):
        raise ConversionError(
            "this is a whole model of microsoft/VQ-Diffusion: pass its config, from their repository, with --config."
        )
    if original_codec.is_original_codec(tensors):
        return _plan_codec(tensors, given, options)
    options.check_used("the weights of one network", ("config",))
    component = infer.component_of(tensors, given or {})
    component.advice = (
        "Check that --config belongs to the weights."
        if given
        else "The sizes are those of the weights themselves: is the file whole? --config takes a config.json."
    )
    return Plan([component])


def _plan_codec(tensors: dict[str, LazyTensor], given: Optional[dict[str, Any]], options: Options) -> Plan:
    options.check_used("a codec alone", ("config",))
    if given is not None and "model" not in given:
        raise ConversionError(
            f"--config {options.config} is not the YAML file of a codec of microsoft/VQ-Diffusion: leave --config out; "
            "the weights tell what the codec needs."
        )
    return original_codec.plan_codec(tensors, given)


def _state_dict(content: Mapping[str, Any]) -> dict[str, LazyTensor]:
    """The tensors of a file, or of the container in it, or in that, that has them."""
    for _ in range(MAX_CONTAINERS):
        inner = next((content[name] for name in CONTAINERS if isinstance(content.get(name), dict)), None)
        if inner is None:
            break
        content = inner
    return {str(key): value for key, value in content.items() if isinstance(value, LazyTensor)}


def _plan_original(
    path: Path, content: Mapping[str, Any], config: dict[str, Any], options: Options, passed_over: set[str]
) -> Plan:
    whole = isinstance(content.get("model"), dict)
    model = _state_dict(content["model"] if whole else content)
    has_denoiser = whole and any(key.startswith("transformer.") for key in model)
    if original_codec.is_original_codec(model) and not has_denoiser:
        return _plan_codec(model, config, options)
    if not whole:
        raise ConversionError(f"{path} has no entry 'model', as checkpoints of microsoft/VQ-Diffusion do.")
    options.check_used(ORIGINAL, [name for name in FLAGS if name not in ("variant", "revision")])
    ema = content.get("ema") if options.ema else None
    return original.plan_original(
        model,
        _state_dict(ema) if ema else None,
        config,
        codec=_state_dict(_open(options.codec, options, passed_over)) if options.codec else None,
        codes=_codes(options) if options.codes else None,
        codec_config=read_yaml(options.codec_config) if options.codec_config else None,
        tokenizer=_tokenizer(options.tokenizer, model) if options.tokenizer else None,
    )


def _open(path: Path, options: Options, passed_over: set[str]) -> Mapping[str, Any]:
    content, passed_over_here = open_checkpoint(path, options.ignore_unknown)
    passed_over |= passed_over_here
    if not isinstance(content, dict):
        raise ConversionError(f"--codec {path} holds a {type(content).__name__}, not a state dict.")
    return content


def _codes(options: Options) -> np.ndarray:
    content, _ = open_checkpoint(options.codes)
    if not isinstance(content, LazyTensor):
        raise ConversionError(f"--codes {options.codes} holds a {type(content).__name__}, not one tensor.")
    return content.read()


def _tokenizer(source: str, model: Mapping[str, LazyTensor]) -> CLIPTokenizer:
    """CLIP's tokenizer, from a folder, a hub id, or the list of merges in their repository."""
    table = model.get("transformer.condition_emb.token_embedding.weight")
    if table is None:
        raise ConversionError(
            "--tokenizer is for a model of text; the checkpoint has no text encoder (transformer.condition_emb.*)."
        )
    if not source.endswith(MERGES):
        try:
            tokenizer = CLIPTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise ConversionError(f"--tokenizer: {error}") from error
        return CLIPTokenizer(
            tokenizer._vocab, tokenizer._merges, tokenizer.model_max_length, pad_token=original_text.CLIP_PADDING
        )
    try:
        data = Path(source).read_bytes()
        lines = (gzip.decompress(data) if source.endswith(".gz") else data).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ConversionError(f"--tokenizer {source} is not a whole list of merges: {error}.") from error
    return original_text.clip_tokenizer(lines, table.shape[0])
