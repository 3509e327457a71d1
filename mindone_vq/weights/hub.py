"""From what the user names - a folder or a hub id - to a folder on this machine; and back to the hub."""

import difflib
import inspect
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional, Union

from mindone_vq.weights.store import weight_files

# Weight files of any component, diffusers' names and transformers' names.
WEIGHT_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
SMALL_ENDINGS = (".json", ".txt")
# Keywords of every from_pretrained that are for the hub.
OPTIONS = ("revision", "cache_dir", "local_files_only", "token", "force_download")
# What other libraries call a keyword, or have and this package does not: what to do instead.
ELSEWHERE = {
    "torch_dtype": "the type of the weights is mindspore_dtype=mindspore.float16",
    "dtype": "the type of the weights is mindspore_dtype=mindspore.float16",
    "device_map": 'the device is chosen with mindspore.set_device("Ascend") before loading',
    "device": 'the device is chosen with mindspore.set_device("Ascend") before loading',
    "low_cpu_mem_usage": "leave it out: weights are always read into their place, without a second copy",
    "use_auth_token": "it is called token",
    "custom_pipeline": "pipelines from elsewhere are not executed",
    "trust_remote_code": "code from elsewhere is not executed",
}


def check_options(given: Iterable[str], known: Iterable[str], name: str) -> None:
    """Raises TypeError for a keyword that is not known, with what to write instead.

    Args:
        given: the keywords.
        known: those that ``name`` takes.
        name: of the function.
    """
    known = list(known)
    for keyword in given:
        if keyword in known:
            continue
        alike = difflib.get_close_matches(keyword, known, 1)
        advice = ELSEWHERE.get(keyword) or (f"did you mean {alike[0]}?" if alike else "leave it out")
        raise TypeError(f"{name} has no argument {keyword}: {advice}{'' if advice.endswith('?') else '.'}")


def resolve(
    source: Union[str, os.PathLike],
    folders: Optional[Iterable[str]] = None,
    variant: Optional[str] = None,
    use_safetensors: Optional[bool] = None,
    **hub_options: Any,
) -> Path:
    """The folder that ``source`` names, downloaded into the hub's cache where it is a hub id.

    Args:
        source: a folder, or a hub id "owner/name".
        folders: of a hub repository only these sub-folders (and the files beside them); None: all.
        variant: of the weights only this variant, where a folder has it.
        use_safetensors: which weight files, as ``weight_files`` takes it.
        hub_options: ``revision``, ``cache_dir``, ``local_files_only``, ``token``, ``force_download``, as
            huggingface_hub takes them. The variables HF_HOME, HF_HUB_OFFLINE and HF_ENDPOINT are its own.

    Raises:
        FileNotFoundError: neither a folder nor something the hub or its cache has.
        TypeError: an unknown option.
    """
    check_options(hub_options, OPTIONS, "from_pretrained")
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise FileNotFoundError(f"{source} is a file; give the folder that holds model_index.json or config.json.")
    if not _looks_like_hub_id(str(source)):
        raise FileNotFoundError(f"{source} is not a folder here, and not a hub id of the form owner/name either.")
    return _download(str(source), folders, variant, use_safetensors, **hub_options)


def _looks_like_hub_id(source: str) -> bool:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    try:
        validate_repo_id(source)
    except HFValidationError:
        return False
    return source.count("/") == 1


def _download(
    repo_id: str,
    folders: Optional[Iterable[str]],
    variant: Optional[str],
    use_safetensors: Optional[bool],
    **options: Any,
) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    offline = options.get("local_files_only") or huggingface_hub.constants.HF_HUB_OFFLINE
    try:
        if offline:
            wanted = None
        else:
            listing = huggingface_hub.HfApi().list_repo_files(
                repo_id, revision=options.get("revision"), token=options.get("token")
            )
            wanted = files_to_download(listing, folders, variant, use_safetensors)
        return Path(huggingface_hub.snapshot_download(repo_id, allow_patterns=wanted, **options))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"{repo_id} is not a folder here and not in the hub's cache, and the hub may not be asked "
            "(local_files_only or HF_HUB_OFFLINE). Download it once while online."
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise FileNotFoundError(f"{repo_id} is not a folder here, and the hub answers {_answer(error)}") from error
    except OSError as error:
        raise FileNotFoundError(
            f"{repo_id} is not a folder here, and the hub cannot be reached at {huggingface_hub.constants.ENDPOINT}. "
            "Check the connection and the variable HF_ENDPOINT, give a local folder, or set HF_HUB_OFFLINE=1 "
            "(local_files_only=True) for what was downloaded before."
        ) from error


def _answer(error: Exception) -> str:
    """What the hub says, and what to do, in one line."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    known = {
        401: "that it has no such repository, or a private one: check the name, or log in with huggingface-cli login.",
        403: "that it may not be read with this token: ask its owner for access.",
        404: "that it has no such repository or revision: check both names.",
    }
    said = " ".join(str(error).split())
    return f"(HTTP {status}) {known[status]}" if status in known else f"with an error: {said}"


def files_to_download(
    listing: Iterable[str],
    folders: Optional[Iterable[str]],
    variant: Optional[str],
    use_safetensors: Optional[bool] = None,
) -> list[str]:
    """Of the files in a repository those that loading needs: configs, vocabularies, one set of weights a folder."""
    by_folder: dict[str, list[str]] = {}
    for name in listing:
        folder, _, base = name.rpartition("/")
        by_folder.setdefault(folder, []).append(base)
    wanted = []
    for folder, names in by_folder.items():
        if folders is not None and folder not in ("", *folders):
            continue
        chosen = [name for name in names if name.endswith(SMALL_ENDINGS) and ".index." not in name]
        weights = weight_files(names, WEIGHT_STEMS, variant, use_safetensors)
        weights = weights or weight_files(names, WEIGHT_STEMS, None, use_safetensors)
        wanted += [f"{folder}/{name}" if folder else name for name in chosen + weights]
    return wanted


def push(
    folder: Path,
    repo_id: Optional[str] = None,
    token: Union[str, bool, None] = None,
    private: Optional[bool] = None,
    commit_message: str = "Upload with mindone_vq",
    create_pr: bool = False,
) -> None:
    """Uploads a folder to the hub; the repository is made if needed.

    Args:
        folder: what to upload.
        repo_id: "owner/name"; None: the name of the folder, of the user whom the token belongs to.
        token: of the hub; None: the one of ``huggingface-cli login``.
        private: of a new repository.
        commit_message: of the upload.
        create_pr: propose the upload instead of changing the repository.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id or folder.resolve().name, private=private, exist_ok=True).repo_id
    api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message, create_pr=create_pr)


PUSH_OPTIONS = tuple(inspect.signature(push).parameters)[1:]
