"""Models by folder or by hub id: download, and upload."""

import difflib
import inspect
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional, Union

from mindone_vq.weights.store import weight_files

# Names of weight files, diffusers' and transformers'.
WEIGHT_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
SMALL_ENDINGS = (".json", ".txt")
# Keywords of every from_pretrained that are passed to the hub.
OPTIONS = ("revision", "cache_dir", "local_files_only", "token", "force_download")
# Keywords of other libraries: what to do instead.
ELSEWHERE = {
    **dict.fromkeys(("torch_dtype", "dtype"), "the type of the weights is mindspore_dtype=mindspore.float16"),
    **dict.fromkeys(
        ("device_map", "device"), 'the device is chosen with mindspore.set_device("Ascend") before loading'
    ),
    "low_cpu_mem_usage": "leave it out: weights are always read without a second copy",
    "use_auth_token": "it is called token",
    "custom_pipeline": "pipelines from elsewhere are not executed",
    "trust_remote_code": "code from elsewhere is not executed",
}


def check_options(given: Iterable[str], known: Iterable[str], name: str) -> None:
    """Raises TypeError for a keyword that is not known, and says what to write instead.

    Args:
        given: the keywords.
        known: those that the function takes.
        name: of the function.
    """
    known = list(known)
    for keyword in given:
        if keyword not in known:
            alike = difflib.get_close_matches(keyword, known, 1)
            advice = f"did you mean {alike[0]}?" if alike else "leave it out."
            advice = f"{ELSEWHERE[keyword]}." if keyword in ELSEWHERE else advice
            raise TypeError(f"{name} has no argument {keyword}: {advice}")


def resolve(
    source: Union[str, os.PathLike],
    folders: Optional[Iterable[str]] = None,
    variant: Optional[str] = None,
    use_safetensors: Optional[bool] = None,
    **hub_options: Any,
) -> Path:
    """The folder that ``source`` names. A hub repository is downloaded into the hub's cache.

    Args:
        source: a folder, or a hub id "owner/name".
        folders: download only these subfolders, and the files beside them; None: all.
        variant: of the weights; a folder that has none gets its plain weights.
        use_safetensors: as ``weight_files`` takes it.
        hub_options: ``revision``, ``cache_dir``, ``local_files_only``, ``token``, ``force_download``, as
            huggingface_hub takes them. It reads the variables HF_HOME, HF_HUB_OFFLINE and HF_ENDPOINT.

    Raises:
        FileNotFoundError: there is no such folder, and the hub or its cache does not have it.
        TypeError: an unknown option.
    """
    check_options(hub_options, OPTIONS, "from_pretrained")
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise FileNotFoundError(f"{source} is a file; give the folder that holds model_index.json or config.json.")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)):
        raise FileNotFoundError(f"{source} is not a folder here, and not a hub id of the form owner/name.")
    return _download(str(source), folders, variant, use_safetensors, **hub_options)


def _download(
    repo_id: str,
    folders: Optional[Iterable[str]],
    variant: Optional[str],
    use_safetensors: Optional[bool],
    **options: Any,
) -> Path:
    from huggingface_hub import HfApi, constants, snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        HTTPError,  # of requests or of httpx, as the release has it: the base of all that goes wrong on the way
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
    )

    wanted, start = None, f"{repo_id} is not a folder here, and"
    try:
        if not options.get("local_files_only") and not constants.HF_HUB_OFFLINE:
            listing = HfApi().list_repo_files(repo_id, revision=options.get("revision"), token=options.get("token"))
            wanted = files_to_download(listing, folders, variant, use_safetensors)
        return Path(snapshot_download(repo_id, allow_patterns=wanted, **options))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        if fetched := getattr(error, "snapshot_path", None):  # newer releases miss the files that nobody needed
            return Path(fetched)
        raise FileNotFoundError(
            f"{start} not in the hub's cache, and the hub may not be used (local_files_only or HF_HUB_OFFLINE). "
            "Download it once while online."
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        raise FileNotFoundError(f"{start} the hub answers: {' '.join(str(error).split())}") from error
    except (HTTPError, OSError) as error:
        raise FileNotFoundError(
            f"{start} the hub cannot be reached at {constants.ENDPOINT}, or the connection broke. Try again: a "
            "download goes on where it ended. Otherwise check the connection and the variable HF_ENDPOINT, give a "
            "local folder, or set HF_HUB_OFFLINE=1 (local_files_only=True) for earlier downloads."
        ) from error


def files_to_download(
    listing: Iterable[str],
    folders: Optional[Iterable[str]],
    variant: Optional[str],
    use_safetensors: Optional[bool] = None,
) -> list[str]:
    """The files of a repository that loading needs: configs, vocabularies, and one set of weights for each folder."""
    by_folder: dict[str, list[str]] = {}
    for name in listing:
        folder, _, base = name.rpartition("/")
        if folders is None or folder in ("", *folders):
            by_folder.setdefault(folder, []).append(base)
    wanted = []
    for folder, names in by_folder.items():
        chosen = [name for name in names if name.endswith(SMALL_ENDINGS) and ".index." not in name]
        chosen += weight_files(names, WEIGHT_STEMS, variant, use_safetensors) or weight_files(
            names, WEIGHT_STEMS, None, use_safetensors
        )
        wanted += [f"{folder}/{name}" if folder else name for name in chosen]
    return wanted


def push(
    folder: Path,
    repo_id: Optional[str] = None,
    token: Union[str, bool, None] = None,
    private: Optional[bool] = None,
    commit_message: str = "Upload with mindone_vq",
    create_pr: bool = False,
) -> None:
    """Uploads a folder to the hub. The repository is created if needed.

    Args:
        folder: what to upload.
        repo_id: "owner/name"; None: the name of the folder, in the account of the token.
        token: of the hub; None: that of ``huggingface-cli login``.
        private: whether a new repository is private.
        commit_message: of the upload.
        create_pr: open a pull request instead of changing the repository.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id or folder.resolve().name, private=private, exist_ok=True).repo_id
    api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=commit_message, create_pr=create_pr)


PUSH_OPTIONS = tuple(inspect.signature(push).parameters)[1:]
