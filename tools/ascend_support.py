"""What the installed MindSpore says and holds about its primitives on Ascend.

Two kinds of evidence, neither of which is an NPU that ran something:

- documented: the "Supported Platforms" line in the docstring of the primitive, or of the function it refers to.
  Gradients and other primitives that users do not call have none.
- registered: what the Ascend part of the wheel has under the primitive's name. "aclnn": a kernel class in the
  operator library, which calls an operator of CANN by its aclnn interface. "CANN": an adapter to an operator of CANN
  of the same name, or of that with a version. "AiCPU": a description of an operator for the processor's own CPU
  cores; that is also there for primitives of which the documentation says that Ascend has them not, so it is the
  weakest. "rewritten": a pass over graphs that puts other primitives in its place.

The libraries cannot be loaded where CANN is not installed: the names of their classes are read from the files.
"""

import importlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Optional

import mindspore

ROOT = Path(mindspore.__file__).parent
OPERATOR_LIBRARY = ROOT / "lib/plugin/libmindspore_ops_ascend.so"
ADAPTER_LIBRARY = ROOT / "lib/plugin/ascend/libmindspore_ascend_res_manager.so"
PASS_LIBRARY = ROOT / "lib/plugin/libmindspore_ascend.so.2"
DESCRIPTIONS = ROOT / "config/op_info.config"
# Where primitives are defined, in the order they are looked for.
MODULES = ("auto_generate.gen_ops_prim", "operations", "operations._grad_ops", "operations._inner_ops")
MODULES += ("operations._rl_inner_ops", "auto_generate.pyboost_inner_prim", "operations.random_ops")

# Names of C++ classes as compilers write them: each part of the name after its length.
KERNEL = re.compile(rb"N9mindspore6kernel(\d\w*?)E\0")
KERNEL_CLASS = re.compile(r"Aclnn(\w+)KernelMod|(\w+?)(?:AclnnKernelMod|Ascend)")
ADAPTER = re.compile(rb"OpAdapterINS1_\d+cz(\w+?)EEE\0")
PASS = re.compile(rb"N9mindspore3opt\d+(\w+?)UnifyMindIR\d?E")
VERSIONS = ("", "V2", "V3", "V4", "D")  # what CANN's name may have behind the primitive's
PLATFORMS = re.compile(r"Supported Platforms:\s*\n\s*(.+)")
REFERENCE = re.compile(r"Refer to\s+:func:`mindspore\.([\w.]+)`")


@dataclass(frozen=True)
class Support:
    """documented: the platforms of the docstring, None where there is no such line; registered: what the wheel has."""

    documented: Optional[tuple[str, ...]]
    registered: tuple[str, ...]

    @property
    def supported(self) -> bool:
        """What the documentation says; where that says nothing, whether anything is registered."""
        return bool(self.registered) if self.documented is None else "Ascend" in self.documented

    @property
    def evidence(self) -> str:
        """In a few words."""
        if self.documented is not None and "Ascend" not in self.documented:
            return f"documented for {', '.join(self.documented)} only"
        documented = "documented" if self.documented else ""
        registered = f"registered ({', '.join(self.registered)})" if self.registered else ""
        return " and ".join(filter(None, (documented, registered))) or "none"


def support(primitive: str) -> Support:
    """What is known about a primitive, by its name in a graph."""
    return Support(documented_platforms(primitive), tuple(registered(primitive)))


def documented_platforms(primitive: str) -> Optional[tuple[str, ...]]:
    """The platforms in the docstring of the primitive's class, or of the function it refers to."""
    for module in MODULES:
        try:
            found = getattr(importlib.import_module(f"mindspore.ops.{module}"), primitive, None)
        except ImportError:  # another release of MindSpore
            continue
        text = getattr(found, "__doc__", None) or ""
        if not PLATFORMS.search(text) and (reference := REFERENCE.search(text)):
            text = _documentation(reference[1])
        platforms = re.findall(r"``(\w+)``", found[1]) if (found := PLATFORMS.search(text)) else []
        if platforms:
            return tuple(platforms)
    return None


def _documentation(name: str) -> str:
    """The docstring of ``mindspore.<name>``."""
    found = mindspore
    for part in name.split("."):
        found = getattr(found, part, None)
    return getattr(found, "__doc__", None) or ""


def registered(primitive: str) -> Iterator[str]:
    """What the wheel has for it."""
    if primitive.lower() in kernels():
        yield "aclnn"
    adapted = next((adapters()[name] for end in VERSIONS if (name := (primitive + end).lower()) in adapters()), None)
    if adapted is not None:
        yield "CANN" if adapted == primitive else f"CANN's {adapted}"
    if primitive in described():
        yield "AiCPU"
    if primitive in rewritten():
        yield "rewritten"


@cache
def kernels() -> frozenset[str]:
    """Primitives with a kernel class in the operator library, in lower case."""
    found = set()
    for name in KERNEL.findall(_library(OPERATOR_LIBRARY)):
        *spaces, last = _parts(name.decode())
        # what is in "pyboost" is for calls outside graphs
        if "pyboost" not in spaces and (kernel := KERNEL_CLASS.fullmatch(last)):
            # a namespace of a class has the name of the primitive ("gather_d_grad_v2"), the class may have another
            found |= {kernel[1] or kernel[2], *(space.replace("_", "") for space in spaces)}
    return frozenset(map(str.lower, found))


def _parts(mangled: str) -> list[str]:
    """The names in "6matmul2Mm": matmul, Mm."""
    parts = []
    while length := re.match(r"\d+", mangled):
        end = length.end() + int(length[0])
        parts.append(mangled[length.end() : end])
        mangled = mangled[end:]
    return parts


@cache
def adapters() -> dict[str, str]:
    """Operators of CANN that graphs are translated to: their names in lower case -> as they are."""
    names = {name.decode() for name in ADAPTER.findall(_library(ADAPTER_LIBRARY))}
    return {name.lower(): name for name in sorted(names)}


@cache
def described() -> frozenset[str]:
    """Primitives with a description for AiCPU."""
    lines = (json.loads(line) for line in DESCRIPTIONS.read_text().splitlines() if line.strip())
    return frozenset(line["op_name"] for line in lines if line.get("imply_type") == "AiCPU")


@cache
def rewritten() -> frozenset[str]:
    """Primitives that a pass for Ascend takes apart."""
    return frozenset(name.decode() for name in PASS.findall(_library(PASS_LIBRARY)))


def _library(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: this MindSpore was built without Ascend. Linux wheels have it."
        )
    return path.read_bytes()
