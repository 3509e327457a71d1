"""Where compiled graphs and downloads are kept."""

import os
import shutil
from pathlib import Path

from mindone_vq.doctor.findings import NOTE, WRONG, Finding
from mindone_vq.doctor.machine import in_gigabytes


def compile_cache() -> Finding:
    """MindSpore's cache of compiled graphs, which these two variables set."""
    name, enabled = "compile cache", os.environ.get("MS_COMPILER_CACHE_ENABLE")
    place = os.environ.get("MS_COMPILER_CACHE_PATH")
    if enabled in (None, "", "0"):
        return Finding(name, "off; MS_COMPILER_CACHE_ENABLE=1 keeps compiled graphs from run to run")
    if enabled != "1":
        return Finding(name, f"MS_COMPILER_CACHE_ENABLE is {enabled!r}", WRONG, "set it to 1 or 0")
    folder = Path(place or ".").absolute() / f"rank_{os.environ.get('RANK_ID', '0')}" / "graph_cache"
    if not is_writable(folder):
        advice = "set MS_COMPILER_CACHE_PATH to a folder that may be written"
        return Finding(name, f"on, but {folder} cannot be written", WRONG, advice)
    if not place:
        return Finding(
            name, f"on, in the current folder: {folder}", NOTE, "set MS_COMPILER_CACHE_PATH to keep it in one"
        )
    return Finding(name, f"on, in {folder}")


def hub_cache() -> Finding:
    """huggingface_hub's cache, as its own variables set it."""
    from huggingface_hub import constants

    name, folder = "hub cache", Path(constants.HF_HUB_CACHE)
    offline = "; offline (HF_HUB_OFFLINE)" if constants.HF_HUB_OFFLINE else ""
    if not is_writable(folder):
        return Finding(
            name, f"{folder} cannot be written{offline}", WRONG, "set HF_HOME to a folder that may be written"
        )
    models = len(list(folder.glob("models--*")))
    free = in_gigabytes(shutil.disk_usage(_existing(folder)).free)
    return Finding(name, f"{folder}, {models} model{'' if models == 1 else 's'}, {free} of disk free{offline}")


def is_writable(folder: Path) -> bool:
    """Whether files could be made in ``folder``, which need not be there yet. Nothing is made."""
    existing = _existing(folder)
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


def _existing(folder: Path) -> Path:
    """``folder``, or the nearest above it that is there."""
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())
