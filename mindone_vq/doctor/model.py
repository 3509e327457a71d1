"""A model folder: whether everything is there that loading needs. Of weights only the headers are read."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from mindone_vq.doctor.findings import WRONG, Finding, said_by
from mindone_vq.doctor.machine import in_gigabytes

AGAIN = "download or convert it again"


def check_model(folder: Path) -> Iterator[Finding]:
    """A finding for model_index.json, and one for each component it should have."""
    import mindone_vq
    from mindone_vq.pipelines.base import DiffusionPipeline
    from mindone_vq.pipelines.pretrained import check_index
    from mindone_vq.weights.files import read_json

    if not folder.is_dir():
        yield Finding("model", f"{folder} is not a folder", WRONG, "give the folder that holds model_index.json")
        return
    try:
        named = read_json(folder / "model_index.json").get("_class_name", "VQDiffusionPipeline")
        pipeline = getattr(mindone_vq, named, None) if named in mindone_vq.__all__ else None
        if not isinstance(pipeline, type) or not issubclass(pipeline, DiffusionPipeline):
            yield Finding("model", f"{folder} holds a {named}", WRONG, "it is for another package")
            return
        check_index(pipeline, folder)
    except (OSError, ValueError) as error:
        yield Finding("model", said_by(error), WRONG, AGAIN)
        return
    yield Finding("model", f"{named} in {folder}")
    for name, (_, component_class) in pipeline.component_classes.items():
        yield _component(name, component_class, folder / name)


def _component(name: str, component_class: type, folder: Path) -> Finding:
    if not folder.is_dir():
        return Finding(name, f"{folder} is not there", WRONG, AGAIN)
    try:
        is_network = hasattr(component_class, "weights_stems")
        value = _network(component_class, folder) if is_network else _small(component_class, folder)
    except (OSError, ValueError, LookupError, TypeError) as error:
        return Finding(name, said_by(error), WRONG, AGAIN)
    return Finding(name, value)


def _small(component_class: type, folder: Path) -> str:
    """Tokenizer or scheduler: loaded."""
    component_class.from_pretrained(folder)
    return f"{component_class.__name__}, complete"


def _network(component_class: type, folder: Path) -> str:
    """Config and weights: every shard, with a header that can be read."""
    from mindone_vq.weights.store import find_weights, open_weights

    config = component_class.load_config(folder)
    if config.get("learnable") is False:  # the null text of a model that learned none
        return "nothing learned, no weights needed"
    files = find_weights(folder, component_class.weights_stems)
    tensors = open_weights(files)
    types = ", ".join(sorted(Counter(tensor.dtype for tensor in tensors.values())))
    size = in_gigabytes(sum(path.stat().st_size for path in files))
    count = f"{len(files)} file{'' if len(files) == 1 else 's'}"
    return f"{len(tensors)} tensors of {types} in {count}, {size}"


def check_bundled() -> Finding:
    """The model in the package, in one line."""
    from mindone_vq.demo import MODEL

    found = [finding for finding in check_model(MODEL) if finding.status == WRONG]
    if found:
        value = f"{found[0].name}: {found[0].value}"
        return Finding("bundled model", value, WRONG, "install mindone_vq again: a file of it is missing or damaged")
    return Finding("bundled model", "complete")
