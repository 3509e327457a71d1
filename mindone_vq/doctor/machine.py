"""The machine: Python, packages, memory and cores, Ascend's driver and CANN, and the environment variables in use."""

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import Optional

from mindone_vq.doctor.findings import NOTE, WRONG, Finding, said_by

# Distribution -> the module in it, and the oldest release that is good; as in setup.py.
REQUIRED = {
    "numpy": ("numpy", ""),
    "safetensors": ("safetensors", "0.4.5"),
    "huggingface_hub": ("huggingface_hub", "0.25"),
    "tokenizers": ("tokenizers", "0.19"),
    "pillow": ("PIL", ""),
    "tqdm": ("tqdm", ""),
    "pyyaml": ("yaml", ""),
}
OPTIONAL = ("tensorboardX", "mindnlp", "torch", "diffusers", "transformers")
PYTHON = ((3, 9), (3, 13))  # from, to below

# Variables that change what happens, and that say nothing of a person.
VARIABLES = (
    "ASCEND_RT_VISIBLE_DEVICES",
    "DEVICE_ID",
    "RANK_ID",
    "RANK_SIZE",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "GLOG_v",
    "MS_ENABLE_GE",
    "MS_JIT",
    "MS_SIMULATION_LEVEL",
    "HF_HUB_OFFLINE",
)
CANN_FOLDERS = ("usr/local/Ascend/ascend-toolkit/latest", "usr/local/Ascend/cann", "usr/local/Ascend/latest")
CANN_VARIABLES = ("ASCEND_HOME_PATH", "ASCEND_TOOLKIT_HOME")
CANN_VERSION_FILES = (
    "compiler/version.info",
    "*-linux/ascend_toolkit_install.info",
    "runtime/version.info",
    "version.info",
    "version.cfg",
)
CGROUP_LIMITS = ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes")
ROOT = Path("/")


def python() -> Finding:
    """The interpreter and what it runs on."""
    system = [platform.system(), platform.machine(), " ".join(platform.libc_ver())]
    value = f"{platform.python_version()} on {', '.join(part for part in system if part)}"
    oldest, beyond = PYTHON
    if oldest <= sys.version_info[:2] < beyond:
        return Finding("Python", value)
    return Finding("Python", value, WRONG, "use Python 3.9 to 3.12; MindSpore is made for no other")


def packages() -> Iterator[Finding]:
    """What the package needs, imported; and what it can use."""
    for distribution, (module, oldest) in REQUIRED.items():
        yield _required(distribution, module, oldest)
    optional = {name: version_of(name) for name in OPTIONAL}
    installed = [f"{name} {version}" for name, version in optional.items() if version]
    yield Finding("optional packages", ", ".join(installed) or "none")


def _required(distribution: str, module: str, oldest: str) -> Finding:
    version = version_of(distribution)
    if version is None:
        return Finding(distribution, "not installed", WRONG, f'pip install "{distribution}{oldest and ">=" + oldest}"')
    try:
        import_module(module)
    except Exception as error:
        advice = f"pip install --force-reinstall {distribution}"
        return Finding(distribution, f"{version}, which does not import: {said_by(error)}", WRONG, advice)
    if numbers(version) < numbers(oldest):
        return Finding(distribution, version, WRONG, f'pip install "{distribution}>={oldest}"')
    if distribution == "numpy" and numbers(version) >= (2,):
        return Finding(distribution, version, WRONG, 'MindSpore is compiled for numpy 1: pip install "numpy<2"')
    return Finding(distribution, version)


def version_of(distribution: str) -> Optional[str]:
    """The version that is installed; None: none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version: (2, 8, 0) for 2.8.0rc1."""
    return tuple(int(part) for part in re.findall(r"(?:^|\.)(\d+)", version.partition("+")[0]))


def memory(root: Path = ROOT) -> Finding:
    """Main memory: free, in all, and the limit of the container."""
    name, sizes = "memory", {}
    try:
        for line in (root / "proc/meminfo").read_text().splitlines():
            sizes[line.split(":")[0]] = int(line.split()[1]) * 1024
        value = f"{in_gigabytes(sizes['MemAvailable'])} free of {in_gigabytes(sizes['MemTotal'])}"
    except (OSError, ValueError, LookupError):
        return Finding(name, "not known on this system")
    for file in CGROUP_LIMITS:
        text = (root / file).read_text().strip() if (root / file).is_file() else "max"
        if text.isdigit() and int(text) < sizes["MemTotal"]:
            value += f", of which this container may use {in_gigabytes(int(text))}"
    return Finding(name, value)


def cores() -> Finding:
    """Cores of the machine and of this process."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("cores", f"{usable} usable of {os.cpu_count()}")


def variables() -> Finding:
    """The environment variables of ``VARIABLES`` that are set."""
    found = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    return Finding("environment", " ".join(found) or "none of the variables that matter is set")


def number_of_npus(root: Path = ROOT) -> int:
    """Ascend devices that the driver shows."""
    return len([path for path in (root / "dev").glob("davinci*") if path.name[len("davinci") :].isdigit()])


def driver(root: Path = ROOT) -> Finding:
    """Ascend's driver, and the devices it shows."""
    count, version = number_of_npus(root), _version_in(root / "usr/local/Ascend/driver/version.info")
    devices = f"{count} NPU{'' if count == 1 else 's'}"
    if count and version is None:
        return Finding("Ascend driver", f"{devices}, version not found", NOTE, "say which driver, from npu-smi info")
    return Finding("Ascend driver", f"{version}, {devices}" if version else "none, no NPU")


def cann(root: Path = ROOT) -> Finding:
    """CANN, by its environment variables or where it usually is."""
    name, set_env = "CANN", "source the set_env.sh of CANN in this shell"
    named = [variable for variable in CANN_VARIABLES if os.environ.get(variable)]
    if named:
        folder = Path(os.environ[named[0]])
        if not folder.is_dir():
            return Finding(name, f"{named[0]} is {folder}, which is not there", WRONG, f"install CANN, or {set_env}")
        return Finding(name, f"{_cann_version(folder) or 'of unknown version'} in {folder}")
    found = next((root / place for place in CANN_FOLDERS if (root / place).is_dir()), None)
    if found is not None:
        value = f"{_cann_version(found) or 'of unknown version'} in {found}, not set up"
        return Finding(name, value, WRONG if number_of_npus(root) else NOTE, set_env)
    if number_of_npus(root):
        return Finding(name, "not found, though there are NPUs", WRONG, f"install CANN, then {set_env}")
    return Finding(name, "not found; a CPU needs none")


def _cann_version(folder: Path) -> Optional[str]:
    for pattern in CANN_VERSION_FILES:
        for path in sorted(folder.glob(pattern)):
            version = _version_in(path)
            if version:
                return version
    return None


def _version_in(path: Path) -> Optional[str]:
    """What a file of lines NAME=VALUE says is its version."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    found = re.search(r"^(?:\w+_)?version\s*=\s*(\S+)", text, re.IGNORECASE | re.MULTILINE)
    return found.group(1) if found else None


def in_gigabytes(size: int) -> str:
    """1.5e9 -> "1.5 GB"."""
    return f"{size / 1e9:.1f} GB"
