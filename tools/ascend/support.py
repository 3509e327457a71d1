"""What the installed MindSpore documents and contains for its primitives on Ascend.

There are two kinds of evidence, neither of which comes from an NPU:

- documented: the "Supported Platforms" line in the docstring of the primitive, or of the function it refers to.
  Gradients and other primitives that users do not call have none.
- registered: what the Ascend part of the wheel contains under the name of the primitive. "aclnn": a kernel class in
  the operator library, which calls an operator of CANN by its aclnn interface. "CANN": an adapter to an operator of
  CANN with the same name, or with this name and a version. "AiCPU": the description of an operator for the CPU cores
  of the NPU; this is the weakest evidence, because it also exists for primitives documented as missing on Ascend.
  "rewritten": a pass over graphs that replaces the primitive by others.

The libraries cannot be loaded without CANN: the names of their classes are read from the files.
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
# The modules that define primitives, in the order of the search.
MODULES = ("auto_generate.gen_ops_prim", "operations", "operations._grad_ops", "operations._inner_ops")
MODULES += ("operations._rl_inner_ops", "auto_generate.pyboost_inner_prim", "operations.random_ops")

# Names of C++ classes as compilers mangle them: each part of the name follows its length.
KERNEL = re.compile(rb"N9mindspore6kernel(\d\w*?)E\0")
KERNEL_CLASS = re.compile(r"Aclnn(\w+)KernelMod|(\w+?)(?:AclnnKernelMod|Ascend)")
ADAPTER = re.compile(rb"OpAdapterINS1_\d+cz(\w+?)EEE\0")
PASS = re.compile(rb"N9mindspore3opt\d+(\w+?)UnifyMindIR\d?E")
VERSIONS = ("", "V2", "V3", "V4", "D")  # suffixes of CANN's names
PLATFORMS = re.compile(r"Supported Platforms:\s*\n\s*(.+)")
REFERENCE = re.compile(r"Refer to\s+:func:`mindspore\.([\w.]+)`")


@dataclass(frozen=True)
class Support:
    """The platforms in the docstring (None: it names none), and the registrations in the wheel."""

    documented: Optional[tuple[str, ...]]
    registered: tuple[str, ...]

    @property
    def supported(self) -> bool:
        """Whether Ascend is documented, or, without documentation, whether anything is registered."""
        return bool(self.registered) if self.documented is None else "Ascend" in self.documented

    @property
    def evidence(self) -> str:
        """A short text for the table."""
        if self.documented is not None and "Ascend" not in self.documented:
            return f"documented for {', '.join(self.documented)} only"
        documented = "documented" if self.documented else ""
        registered = f"registered ({', '.join(self.registered)})" if self.registered else ""
        return " and ".join(filter(None, (documented, registered))) or "none"


def support(primitive: str) -> Support:
    """The evidence for a primitive, by its name in a graph."""
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
    """The kinds of registrations in the wheel."""
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
    """Lower-case names of the primitives with a kernel class in the operator library."""
    found = set()
    for name in KERNEL.findall(_library(OPERATOR_LIBRARY)):
        *spaces, last = _parts(name.decode())
        # the classes in "pyboost" are for calls outside graphs
        if "pyboost" not in spaces and (kernel := KERNEL_CLASS.fullmatch(last)):
            # a namespace has the name of the primitive ("gather_d_grad_v2"); the class may have another name
            found |= {kernel[1] or kernel[2], *(space.replace("_", "") for space in spaces)}
    return frozenset(map(str.lower, found))


def _parts(mangled: str) -> list[str]:
    """Demangles "6matmul2Mm" to ["matmul", "Mm"]."""
    parts = []
    while length := re.match(r"\d+", mangled):
        end = length.end() + int(length[0])
        parts.append(mangled[length.end() : end])
        mangled = mangled[end:]
    return parts


@cache
def adapters() -> dict[str, str]:
    """Operators of CANN with an adapter: lower-case name -> name."""
    names = {name.decode() for name in ADAPTER.findall(_library(ADAPTER_LIBRARY))}
    return {name.lower(): name for name in sorted(names)}


@cache
def described() -> frozenset[str]:
    """Primitives with a description for AiCPU."""
    lines = (json.loads(line) for line in DESCRIPTIONS.read_text().splitlines() if line.strip())
    return frozenset(line["op_name"] for line in lines if line.get("imply_type") == "AiCPU")


@cache
def rewritten() -> frozenset[str]:
    """Primitives that a pass for Ascend replaces."""
    return frozenset(name.decode() for name in PASS.findall(_library(PASS_LIBRARY)))


def _library(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: this MindSpore was built without Ascend. Use a Linux wheel.")
    return path.read_bytes()
