"""From a source to a folder: read it, plan, check, write, report."""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional

import mindspore as ms
import numpy as np
from mindspore.nn.utils import no_init_parameters
from tqdm import tqdm

import mindone_vq
from mindone_vq.conversion.files import TORCH_ENDINGS, open_tensors, read_config
from mindone_vq.conversion.networks import NETWORKS, ConversionError, Network
from mindone_vq.conversion.options import FOLDER, HUB, MINDSPORE, MODEL, NETWORK, VQVAE, Options, check_file
from mindone_vq.conversion.original import plan_model
from mindone_vq.conversion.original_weights import is_model, is_vqvae, plan_vqvae
from mindone_vq.conversion.plan import Component, Plan
from mindone_vq.conversion.verify import verify
from mindone_vq.pipelines.card import write_card
from mindone_vq.pipelines.pretrained import PIPELINES, PUBLISHED_SETTINGS, check_index
from mindone_vq.weights import hub
from mindone_vq.weights.config import named_class
from mindone_vq.weights.files import read_json, replacing_folder, write_json
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.rules import state_dict_parameters
from mindone_vq.weights.safetensors_file import read_safetensors, write_safetensors
from mindone_vq.weights.store import find_weights, open_weights, write_weights

MINDSPORE_STEM = "mindspore_model"  # the name of MindSpore's own files


def convert(options: Options) -> dict[str, Any]:
    """Converts ``options.source`` into the folder ``options.destination``, whole or not at all; returns the report.

    Raises:
        ConversionError: the source cannot be converted with these options; says why and what to do.
        OSError, ValueError: a file does not exist, is damaged or cannot be written.
    """
    options.check_outputs()
    plan = read_source(options)
    if options.component:
        plan = plan.only(options.component)
    plan.check()
    report = plan.report(options.dtype)
    if options.verify:
        report["relative_error_against_pytorch"] = _verified(plan, options)
    if not options.dry_run:
        total = sum(len(component.fitted) for component in plan.components)
        with tqdm(total=total, unit=" tensors", desc="converting") as bar:
            write_plan(plan, options, bar.update)
    if options.report:
        write_json(options.report, report)
    return report


def read_source(options: Options) -> Plan:
    """The plan for converting ``options.source``, not yet checked; raises as ``convert`` does."""
    options.check_files()
    path = Path(options.source).expanduser()
    if path.is_file():
        check_file(path, "SOURCE")
        return _read_file(path, options)
    if not path.is_dir() and path.suffix in (".safetensors", *TORCH_ENDINGS):
        raise FileNotFoundError(f"SOURCE {options.source} does not exist.")
    options.check_used(FOLDER if path.is_dir() else HUB)
    folder = hub.resolve(options.source, variant=options.variant, revision=options.revision)
    if (folder / "model_index.json").is_file():
        return _read_pipeline(folder, options)
    if (folder / "config.json").is_file():
        return Plan([_read_component(folder, options)])
    raise ConversionError(
        f"SOURCE {folder} holds neither model_index.json nor config.json: give a folder that holds one, or a file."
    )


def _read_pipeline(folder: Path, options: Options) -> Plan:
    class_name = read_json(folder / "model_index.json").get("_class_name")
    if class_name not in PIPELINES:
        raise ConversionError(f"{folder} holds a {class_name}; the known pipelines are {', '.join(PIPELINES)}.")
    pipeline = getattr(mindone_vq, class_name)
    missing = [name for name in pipeline.component_classes if not (folder / name).is_dir()]
    if missing:
        raise ConversionError(f"{folder} lacks the folder of {', '.join(missing)}.")
    plan = Plan([], pipeline, default_settings=check_index(pipeline, folder))
    for name, (_, kind) in pipeline.component_classes.items():
        if name in ("scheduler", "tokenizer"):
            setattr(plan, name, kind.from_pretrained(folder / name))
        else:
            plan.components.append(_read_component(folder / name, options))
    return plan


def _read_component(folder: Path, options: Options) -> Component:
    class_name = named_class(read_json(folder / "config.json"))
    kind = _known(class_name, folder / "config.json").kind
    config = kind.load_config(folder)
    for path in sorted(folder.glob(f"{MINDSPORE_STEM}.*")):  # .ckpt before .safetensors
        return _read_mindspore(path, class_name, config)
    if config.get("learnable") is False:
        return Component(class_name, config, {})
    files = find_weights(folder, kind.weights_stems, options.variant)
    return Component(class_name, config, open_weights(files, options.ignore_unknown_objects))


def _known(class_name: Optional[str], path: Path) -> Network:
    if class_name not in NETWORKS:
        raise ConversionError(f"{path} is the config of a {class_name}; known are {', '.join(NETWORKS)}.")
    return NETWORKS[class_name]


def _read_mindspore(path: Path, class_name: str, config: Mapping[str, Any]) -> Component:
    """The network of one of MindSpore's own files."""
    with no_init_parameters():  # only its names are needed
        network = NETWORKS[class_name].kind.from_config(config)
    names = {parameter.name: key for key, parameter in state_dict_parameters(network).items()}
    if path.suffix == ".ckpt":
        parameters = ms.load_checkpoint(str(path))
        tensors = {name: LazyTensor.of(parameter.asnumpy()) for name, parameter in parameters.items()}
    else:
        tensors = read_safetensors(path)
    return Component(class_name, dict(config), {names.get(name, name): tensor for name, tensor in tensors.items()})


def _read_file(path: Path, options: Options) -> Plan:
    config = read_config(options.config)
    if path.suffix == ".ckpt" and not _is_torch(path):
        options.check_used(MINDSPORE)
        if config is None:
            raise ConversionError(f"{path} is not a PyTorch file; pass the config.json of its network with --config.")
        _known(named_class(config), options.config)
        return Plan([_read_mindspore(path, named_class(config), config)])
    tensors, ema, skipped = open_tensors(path, "SOURCE", options.ignore_unknown_objects)
    if is_model(tensors):
        options.check_used(MODEL)
        plan = plan_model(tensors, {} if options.no_ema else ema, config, options)
    elif is_vqvae(tensors):
        options.check_used(VQVAE)
        plan = plan_vqvae(tensors, config)
    else:
        options.check_used(NETWORK)
        advice = "Check that --config belongs to the weights."
        if config is None:
            advice = "The config was inferred from the weights: is the file complete? --config takes a config.json."
        plan = Plan([Component.inferred(tensors, config or {}, advice)])
    plan.skipped_objects |= skipped
    return plan


def _is_torch(path: Path) -> bool:
    """Whether a .ckpt begins as PyTorch's files do: as a zip archive or a pickle."""
    with path.open("rb") as file:
        return file.read(1) in (b"P", b"\x80")


def _verified(plan: Plan, options: Options) -> dict[str, float]:
    """The errors against PyTorch, which reads the source where it can, and otherwise the result."""
    source = Path(options.source)
    if source.is_dir() and not list(source.rglob(f"{MINDSPORE_STEM}.*")):
        return verify(plan, source, options.variant)
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "converted"
        write_plan(plan, Options(options.source, result))
        return verify(plan, result)


def write_plan(plan: Plan, options: Options, progress: Callable[[], Any] = lambda: None) -> None:
    """Writes a checked plan, one tensor at a time; a component alone lies directly in the folder."""
    with replacing_folder(options.destination, options.overwrite) as folder:
        for component in plan.components:
            _write_component(component, folder / component.folder if plan.pipeline else folder, options, progress)
        for part, name in ((plan.scheduler, "scheduler"), (plan.tokenizer, "tokenizer")):
            if part is not None:
                part.save_pretrained(folder / name)
        if plan.pipeline is not None:
            _write_index(plan, folder, Path(options.source).name)


def _write_index(plan: Plan, folder: Path, source: str) -> None:
    """model_index.json, and the model card."""
    class_names = {component.folder: component.class_name for component in plan.components}
    write_json(folder / "model_index.json", plan.pipeline.index(class_names, plan.default_settings))
    parts = {component.folder: component.network for component in plan.components}
    parts.update(scheduler=plan.scheduler, tokenizer=plan.tokenizer)
    components = {name: parts[name] for name in plan.pipeline.component_classes}
    settings = {**PUBLISHED_SETTINGS, **plan.default_settings}
    write_card(folder, plan.pipeline.__name__, components, settings, source, f"Converted from `{source}`.")


def _write_component(component: Component, folder: Path, options: Options, progress: Callable[[], Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    network = component.network
    tensors = {key: _with_progress(tensor, progress) for key, tensor in component.written(options.dtype).items()}
    if options.format == "diffusers":
        tensors.update(network.extra_tensors())
        write_weights(folder, network.weights_stems[0], tensors, max_shard_size=options.max_shard_size)
    elif tensors:
        names = {key: parameter.name for key, parameter in state_dict_parameters(network).items()}
        renamed = {names[key]: tensor for key, tensor in tensors.items()}
        if options.format == "ckpt":
            _write_ckpt(folder / f"{MINDSPORE_STEM}.ckpt", renamed)
        else:
            write_safetensors(folder / f"{MINDSPORE_STEM}.safetensors", renamed)
    network.save_config(folder)


def _with_progress(tensor: LazyTensor, progress: Callable[[], Any]) -> LazyTensor:
    """The same tensor, which calls ``progress`` when it is read or copied."""

    def read_stored() -> np.ndarray:
        progress()
        return tensor.read_stored()

    def copy_to(file: BinaryIO) -> None:
        progress()
        tensor.write_to(file)

    return replace(tensor, read_stored=read_stored, copy_to=copy_to)


def _write_ckpt(path: Path, tensors: dict[str, LazyTensor]) -> None:
    """MindSpore's own checkpoint, whose writer needs all weights in memory."""
    entries = [{"name": name, "data": ms.Tensor(t.read(), getattr(ms, t.dtype))} for name, t in tensors.items()]
    ms.save_checkpoint(entries, str(path))
    os.chmod(path, 0o644)  # the writer leaves a file that only its owner may read, and nobody write


def as_text(report: dict[str, Any]) -> str:
    """The report as a table."""
    rows, ignored = [("component", "class", "tensors", "parameters", "type")], dict(report["ignored"])
    for entry in report["components"]:
        counts = f"{entry['tensors']:,}", f"{entry['parameters']:,}"
        rows.append((entry["component"], entry["class"], *counts, ", ".join(entry["dtypes"]) or "-"))
        ignored.update(entry["ignored"])
    name, kind, tensors, parameters, _ = (max(map(len, column)) for column in zip(*rows))
    lines = [f"{row[0]:{name}}  {row[1]:{kind}}  {row[2]:>{tensors}}  {row[3]:>{parameters}}  {row[4]}" for row in rows]
    for reason in dict.fromkeys(ignored.values()):
        keys = [key for key, value in ignored.items() if value == reason]
        lines.append(f"left out: {len(keys)} x {reason} ({keys[0]}{', ...' if len(keys) > 1 else ''})")
    if report["objects_passed_over"]:
        lines.append(f"skipped objects: {', '.join(report['objects_passed_over'])}")
    for component, error in report.get("relative_error_against_pytorch", {}).items():
        lines.append(f"verified: {component} agrees with PyTorch to {error:.1e}")
    return "\n".join(lines)
