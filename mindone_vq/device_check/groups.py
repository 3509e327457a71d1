"""The parts of ``python -m mindone_vq.doctor --check``, each in processes of its own with its own options.

This module runs where MindSpore does not.
"""

import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module

from mindone_vq.device_check.kernel_log import selected
from mindone_vq.findings import Finding, in_child_process, listed_checks, print_checks, print_names

DEVICES = ("Ascend", "CPU")
TIME_LIMIT = 3600  # seconds of a process; the first compilation on an NPU can take minutes for each graph
RESTARTS = 20  # after a crash, with the checks that are left
DEVICE_MISSING = "has no device"
NO_DEVICE = "use a MindSpore that finds this device"


@dataclass(frozen=True)
class Group:
    """Checks with the same options.

    Attributes:
        title: stands before the names of its findings.
        function: "module:function" that makes the checks for a device.
        variables: of the environment.
        only_on: a device; empty: all.
        keeps_graphs: whether compiled graphs are kept for the next group that keeps them.
        reads_log: whether what MindSpore writes to the standard error makes findings.
    """

    title: str
    function: str
    variables: dict[str, str] = field(default_factory=dict)
    only_on: str = ""
    keeps_graphs: bool = False
    reads_log: bool = False


HERE = "mindone_vq.device_check"
GROUPS = (
    Group("environment", f"{HERE}.environment:checks"),
    Group("primitives", f"{HERE}.primitives:checks", {"MINDONE_VQ_HF32": "off"}),
    Group("HF32 allowed", f"{HERE}.primitives:hf32_checks", {"MINDONE_VQ_HF32": "on"}, only_on="Ascend"),
    Group("model", f"{HERE}.model:checks"),
    Group("kernels", f"{HERE}.kernels:checks", {"GLOG_v": "1"}, reads_log=True),
    Group("without the CPU", f"{HERE}.kernels:checks", {"MS_DISABLE_KERNEL_BACKOFF": "1"}, only_on="Ascend"),
    Group("O0, compiled", f"{HERE}.times:checks", {"MINDONE_VQ_JIT_LEVEL": "O0"}, keeps_graphs=True),
    Group("O0, graphs from files", f"{HERE}.times:checks", {"MINDONE_VQ_JIT_LEVEL": "O0"}, keeps_graphs=True),
    Group("O0, attention decomposed", f"{HERE}.times:checks", {"MINDONE_VQ_FUSED_ATTENTION": "off"}, only_on="Ascend"),
    Group("O1", f"{HERE}.times:checks", {"MINDONE_VQ_JIT_LEVEL": "O1"}, only_on="Ascend"),
)


def run(device: str, groups: Sequence[Group] = GROUPS) -> Iterator[list[Finding]]:
    """The findings of each group, when it has ended. Where a process does not find the device, no other is started."""
    missing = ""
    with tempfile.TemporaryDirectory(prefix="mindone_vq_check_") as folder:
        for group in (each for each in groups if each.only_on in ("", device)):
            if missing:
                yield [Finding(group.title, "not checked", missing)]
                continue
            print(f"Checking: {group.title} ...", file=sys.stderr, flush=True)
            findings = run_group(group, device, folder)
            missing = NO_DEVICE if any(each.advice == NO_DEVICE for each in findings) else ""
            yield [replace(each, name=f"{group.title}: {each.name}") for each in findings]


def run_group(group: Group, device: str, folder: str) -> list[Finding]:
    """Runs the checks of a group; a crash, or the end of the time, does not stop those that follow."""
    command = [sys.executable, "-c", f"from {HERE} import groups; groups.child()", group.function, device]
    variables = {**_cache(group, device, folder), **group.variables}
    names = listed_checks(command, TIME_LIMIT, variables)
    if isinstance(names, Finding):
        return [replace(names, advice=NO_DEVICE) if DEVICE_MISSING in names.value else names]
    findings, log = in_child_process(command, names, TIME_LIMIT, variables, RESTARTS)
    return findings + list(selected(log)) if group.reads_log else findings


def _cache(group: Group, device: str, folder: str) -> dict[str, str]:
    if not group.keeps_graphs:
        return {"MINDONE_VQ_GRAPHS": "off"}
    if device == "CPU":
        return {"MINDONE_VQ_GRAPHS": folder}
    return {"MS_COMPILER_CACHE_ENABLE": "1", "MS_COMPILER_CACHE_PATH": folder}


def child() -> None:
    """What the child process does. Its arguments: the function of the group, the device, and the checks to run.

    Without names of checks it prints those that there are.
    """
    import mindspore as ms

    function, device, *names = sys.argv[1:]
    try:
        ms.set_device(device)
    except (RuntimeError, ValueError) as error:
        sys.exit(f"MindSpore {ms.__version__} {DEVICE_MISSING} {device} here: {' '.join(str(error).split())[:300]}")
    module, name = function.split(":")
    checks = getattr(import_module(module), name)(device)
    if names:
        print_checks({each: checks[each] for each in names})
    else:
        print_names(checks)
