"""Reports what is installed here and whether it works, for bug reports.

    python -m mindone_vq.doctor [--model DIR] [--check DEVICE] [--json [FILE]]

The exit code is 1 if something is wrong; its line says what to do. The checks run in a child process, because other
libraries can crash or hang. To add one, write a function that yields ``Finding``s and put it into ``checks``.
"""

import argparse
import itertools
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Optional

from mindone_vq import __version__
from mindone_vq.device_check import groups
from mindone_vq.findings import (
    Checks,
    Finding,
    anonymous,
    as_json,
    count_wrong,
    in_child_process,
    print_checks,
    print_lines,
    run_check,
)
from mindone_vq.weights.files import check_writable, write_atomically

ROOT = Path("/")
TIME_LIMIT = 600  # seconds for the child process; the first start on an NPU takes minutes
TESTED = ("2.7.0", "2.8.0")  # releases of MindSpore; the first is the oldest that works
SLOW_ON_CPU = "2.9.0"  # and later: oneDNN uses its reference kernel for convolutions
MODULES = {"pillow": "PIL", "pyyaml": "yaml"}  # the others have the name of the package
OPTIONAL = ("tensorboardX", "mindnlp", "torch", "diffusers", "transformers")
# Environment variables that change the behaviour and contain nothing personal.
VARIABLES = ("ASCEND_RT_VISIBLE_DEVICES", "DEVICE_ID", "RANK_ID", "RANK_SIZE", "OMP_NUM_THREADS", "ONEDNN_MAX_CPU_ISA")
VARIABLES += ("GLOG_v", "MS_ENABLE_GE", "MS_JIT", "MS_SIMULATION_LEVEL", "HF_HUB_OFFLINE")
CANN_FOLDERS = ("usr/local/Ascend/ascend-toolkit/latest", "usr/local/Ascend/cann", "usr/local/Ascend/latest")
CANN_VERSIONS = ("compiler/version.info", "*-linux/ascend_toolkit_install.info", "runtime/version.info", "version.*")


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB"


def machine(root: Path = ROOT) -> Iterator[Finding]:
    """Versions of the package and of Python, memory, cores and environment variables."""
    yield Finding("mindone_vq", __version__)
    system = filter(None, (platform.system(), platform.machine(), " ".join(platform.libc_ver())))
    yield Finding("Python", f"{platform.python_version()} on {', '.join(system)}")
    info = root / "proc/meminfo"
    memory = dict(re.findall(r"^(\w+): +(\d+)", info.read_text(), re.MULTILINE)) if info.is_file() else {}
    value = ", ".join(
        f"{name} {_gigabytes(1024 * int(memory[name]))}" for name in ("MemTotal", "MemAvailable") if memory
    )
    for file in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = (root / file).read_text().strip() if (root / file).is_file() else "max"
        if limit.isdigit() and int(limit) < 1024 * int(memory.get("MemTotal", 0)):
            value += f", limit of this container {_gigabytes(int(limit))}"
    yield Finding("memory", value or "unknown on this system")
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cores", f"{usable} usable of {os.cpu_count()}")
    variables = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    yield Finding("environment", " ".join(variables) or "none of the relevant variables is set")


def ascend(root: Path = ROOT) -> Iterator[Finding]:
    """Ascend's devices and driver, and CANN."""
    npus, driver = number_of_npus(root), _version_in(root / "usr/local/Ascend/driver/version.info")
    yield Finding("Ascend", f"NPUs: {npus}, driver: {driver or ('not found' if npus else 'none')}")
    variable = os.environ.get("ASCEND_HOME_PATH") or os.environ.get("ASCEND_TOOLKIT_HOME")
    places = [Path(variable)] if variable else [root / place for place in CANN_FOLDERS]
    folder = next((place for place in places if place.is_dir()), None)
    if folder is None:
        value = f"{variable} does not exist" if variable else "not found"
    else:
        files = (path for pattern in CANN_VERSIONS for path in sorted(folder.glob(pattern)))
        version = next(filter(None, map(_version_in, files)), "unknown version")
        value = f"{version} in {folder}" + ("" if variable else ", not set up")
    works = folder is not None and variable
    yield Finding("CANN", value, "install CANN and source its set_env.sh in this shell" if npus and not works else "")


def number_of_npus(root: Path = ROOT) -> int:
    """The number of Ascend devices that the driver shows."""
    return sum(path.name[len("davinci") :].isdigit() for path in (root / "dev").glob("davinci*"))


def _version_in(file: Path) -> Optional[str]:
    """The version in a file of lines NAME=VALUE; None if there is none."""
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    found = re.search(r"^(?:\w+_)?version\s*=\s*(\S+)", text, re.IGNORECASE | re.MULTILINE)
    return found and found[1]


def compile_cache() -> Iterator[Finding]:
    """MindSpore's cache of compiled graphs, which environment variables configure."""
    enabled, place = (os.environ.get(f"MS_COMPILER_CACHE_{name}") for name in ("ENABLE", "PATH"))
    if enabled not in (None, "", "0", "1"):
        yield Finding("compile cache", f"MS_COMPILER_CACHE_ENABLE is {enabled!r}", "set it to 1 or 0")
    elif enabled != "1":
        kept = "MS_COMPILER_CACHE_ENABLE=1 keeps compiled graphs between runs; on a CPU they are kept without it"
        yield Finding("compile cache", f"off; {kept}")
    else:
        yield _folder("compile cache", Path(place or "."), "MS_COMPILER_CACHE_PATH")


def _folder(name: str, folder: Path, variable: str) -> Finding:
    """Whether files can be created in ``folder``, which may not exist yet. Creates nothing."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        return Finding(name, f"{folder.absolute()} is not writable", f"set {variable} to a writable folder")
    return Finding(name, f"{folder.absolute()}, {_gigabytes(shutil.disk_usage(existing).free)} free")


def packages() -> Iterator[Finding]:
    """The required packages, imported; the optional packages; the cache for downloads."""
    from packaging.requirements import Requirement
    from packaging.specifiers import SpecifierSet

    python = metadata.metadata("mindone_vq")["Requires-Python"]
    if not SpecifierSet(python).contains(platform.python_version()):
        yield Finding("Python version", platform.python_version(), f"use Python {python}")
    for requirement in map(Requirement, metadata.requires("mindone_vq") or ()):
        if requirement.marker is None and requirement.name != "mindspore":  # which has its own check
            yield from run_check(requirement.name, partial(_required, requirement), f'pip install "{requirement}"')
    versions = {each.metadata["Name"]: each.version for each in metadata.distributions()}
    yield Finding("optional", ", ".join(f"{name} {versions[name]}" for name in OPTIONAL if name in versions) or "none")
    from huggingface_hub import constants

    yield _folder("hub cache", Path(constants.HF_HUB_CACHE), "HF_HOME")


def _required(requirement) -> Iterator[Finding]:
    version = metadata.version(requirement.name)
    fits = requirement.specifier.contains(version, prereleases=True)
    yield Finding(requirement.name, version, "" if fits else f'pip install "{requirement}"')
    import_module(MODULES.get(requirement.name, requirement.name))


def mindspore() -> Iterator[Finding]:
    """MindSpore's version, the device, and a compiled graph."""
    import mindspore as ms

    target = ms.get_context("device_target")
    yield check_release(ms.__version__, target)
    unused = target == "CPU" and number_of_npus()
    advice = "source the set_env.sh of CANN, and install the MindSpore for its release" if unused else ""
    yield Finding("device", f"{target}, although there are NPUs" if unused else target, advice)
    result = ms.jit(_product, fullgraph=True)(ms.ops.ones((2, 3), ms.float32)).asnumpy().tolist()
    advice = "" if result == [3.0] * 4 else "install MindSpore again, in an environment of its own"
    yield Finding("compiled graph", f"the result is {result}" if advice else "the result is correct", advice)
    if target != "CPU":
        count = getattr(ms.device_context, target.lower()).device_count()
        yield Finding("device name", f"{ms.hal.get_device_name(0, target)}, count: {count}")


def _product(x):
    """x x^T as a vector."""
    return (x @ x.transpose(1, 0)).reshape(-1)


def check_release(version: str, target: str) -> Finding:
    """Whether this release of MindSpore works well on the device ``target``."""
    from packaging.version import Version

    if Version(version) < Version(TESTED[0]):
        return Finding("MindSpore", version, f"install {TESTED[0]} or later; on a CPU mindspore==2.8.0")
    if target == "CPU" and Version(version) >= Version(SLOW_ON_CPU):
        return Finding("MindSpore", f"{version}; convolutions on a CPU are far slower than in mindspore==2.8.0")
    tested = version in TESTED
    return Finding("MindSpore", version if tested else f"{version}; the package is tested with {' and '.join(TESTED)}")


def pipeline(folder: str = "", name: str = "model of shapes") -> Iterator[Finding]:
    """Loads a pipeline folder; the bundled one if no other is given."""
    from mindone_vq import DiffusionPipeline
    from mindone_vq.demo import SHAPES_MODEL

    if folder and not Path(folder).is_dir():  # a hub id would be downloaded
        raise NotADirectoryError(f"{folder} is not a folder; give the one that contains model_index.json")
    pipe = DiffusionPipeline.from_pretrained(folder or SHAPES_MODEL)
    sizes = [each.num_parameters() for each in pipe.components.values() if hasattr(each, "num_parameters")]
    yield Finding(name, f"{type(pipe).__name__} with {sum(sizes) / 1e6:.1f} million parameters")


def checks(model: str = "") -> Checks:
    """Name -> the check, and the advice if it raises an error or does not finish.

    Args:
        model: the folder of one more pipeline to check, or empty.
    """
    result = {
        "machine": (machine, "report this error"),
        "Ascend": (ascend, "report this error"),
        "compile cache": (compile_cache, "report this error"),
        "packages": (packages, "install mindone_vq with pip, in an environment of its own"),
        "MindSpore": (mindspore, "install mindspore==2.8.0 on a CPU; on an Ascend server the release for its CANN"),
        "model of shapes": (pipeline, "install mindone_vq again: a file is missing or damaged"),
    }
    return {**result, "model": (partial(pipeline, model, "model"), "download or convert it again")} if model else result


def run_checks(model: str = "") -> list[Finding]:
    """The findings of ``checks`` in a child process; its crash or timeout is one more, and so is what it left out."""
    command = [sys.executable, "-c", "from mindone_vq import doctor; doctor.in_child()", model]
    advice = {name: advice for name, (_, advice) in checks(model).items()}
    return in_child_process(command, advice, TIME_LIMIT)[0]


def in_child() -> None:
    """What the child process does; its arguments are the model and the names of the checks."""
    model, *names = sys.argv[1:]
    print_checks({name: check for name, check in checks(model).items() if name in names})


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m mindone_vq.doctor", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", metavar="DIR", default="", help="also check the pipeline in this folder")
    parser.add_argument(
        "--check",
        choices=groups.DEVICES,
        help="also compute every kernel, and the model of shapes, on this device, compare the numbers and measure "
        "times; takes some minutes",
    )
    parser.add_argument(
        "--json", metavar="FILE", nargs="?", const="-", help="print JSON instead of text, or write it to FILE as well"
    )
    options = parser.parse_args(arguments)
    prints = options.json != "-"
    file = Path(options.json) if options.json and prints else None
    if file:
        check_writable(file)
    if prints:
        print("mindone_vq doctor")
    findings: list[Finding] = []
    parts = [run_checks(options.model)]
    for part in itertools.chain(parts, groups.run(options.check) if options.check else ()):
        part = [anonymous(finding) for finding in part]
        findings += part
        if prints:
            print_lines(part)
        if file:  # after each part: it may take long, or be interrupted
            write_atomically(file, as_json(findings).encode())
    wrong = count_wrong(findings)
    print(f"Problems: {wrong or 'none'}." if prints else as_json(findings))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
