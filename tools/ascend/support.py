"""Which kernel MindSpore selects for its primitives on Ascend, as far as the installed wheel tells.

MindSpore's sources (kernel_select_ascend.cc) try in this order: an aclnn kernel, if the operator's yaml has
"dispatch: enable: True" and a kernel class is registered; an operator of CANN by its adapter ("aclop", compiled when it
is first used), if its definition has the types of the inputs; and then, without a message, the CPU of the host. Nothing
here comes from an NPU:

- documented: the "Supported Platforms" line in the docstring of the primitive, or of the function it refers to.
  Gradients and other primitives that users do not call have none.
- dispatched: the yaml is not in the wheel, but the Python that is generated from it: a primitive calls "pyboost_..." if
  and only if its definition in libmindspore_ops.so has dispatch enabled (2.8.0: all 746 primitives with both agree).
- kernel class: its name in the operator library has the name of the primitive, in the same case. Some classes have
  another name, but a namespace with that of the primitive ("gather_d_grad_v2").
- adapter: to an operator of CANN with the same name, or with this name and a version.
- AiCPU: the description of an operator for the CPU cores of the NPU; this is the weakest evidence, because it also
  exists for primitives documented as missing on Ascend.
- rewritten: a pass over graphs replaces the primitive by others.

The libraries cannot be loaded without CANN: the names of their classes are read from the files.
"""

import importlib
import inspect
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
# Adapters under another name: mindspore/ccsrc/transform/graph_ir/op_declare/split_combination_ops_declare.cc has
# REG_ADPT_DESC(Stack, ..., ADPT_DESC(Pack)).
ALIASES = {"Stack": "Pack"}

# Names of C++ classes as compilers mangle them: each part of the name follows its length.
KERNEL = re.compile(rb"N9mindspore6kernel(\d\w*?)E\0")
KERNEL_CLASS = re.compile(r"Aclnn(\w+)KernelMod|(\w+?)(?:AclnnKernelMod|Ascend)")
ADAPTER = re.compile(rb"OpAdapterINS1_\d+cz(\w+?)EEE\0")
PASS = re.compile(rb"N9mindspore3opt\d+(\w+?)UnifyMindIR\d?E")
VERSIONS = ("", "v2", "v3", "v4", "d")  # suffixes of CANN's names, in lower case
PLATFORMS = re.compile(r"Supported Platforms:\s*\n\s*(.+)")
REFERENCE = re.compile(r"Refer to\s+:func:`mindspore\.([\w.]+)`")


@dataclass(frozen=True)
class Support:
    """What the wheel has for a primitive.

    Attributes:
        documented: the platforms in the docstring; None: it names none.
        dispatched: whether the operator's yaml enables aclnn.
        has_class: whether the operator library has an aclnn kernel class for it.
        adapter: the operator of CANN that an adapter calls.
        is_described: whether it has a description for AiCPU.
        is_rewritten: whether a pass for Ascend replaces it.
    """

    documented: Optional[tuple[str, ...]] = None
    dispatched: bool = False
    has_class: bool = False
    adapter: Optional[str] = None
    is_described: bool = False
    is_rewritten: bool = False

    @property
    def kernel(self) -> str:
        """What MindSpore selects: "rewritten", "aclnn", "aclop (<CANN's operator>)", "AiCPU" or "none found"."""
        if self.is_rewritten:
            return "rewritten"
        if self.dispatched and self.has_class:
            return "aclnn"
        if self.adapter:
            return f"aclop ({self.adapter})"
        return "AiCPU" if self.is_described else "none found"

    @property
    def supported(self) -> bool:
        """Whether Ascend is documented, or, without documentation, whether a kernel was found."""
        return self.kernel != "none found" if self.documented is None else "Ascend" in self.documented

    @property
    def evidence(self) -> str:
        """How this is known: a short text for the table."""
        if self.documented is not None and "Ascend" not in self.documented:
            return f"documented for {', '.join(self.documented)} only"
        found = {
            "documented": self.documented,
            "dispatched": self.dispatched,
            "class": self.has_class,
            "adapter": self.adapter,
            "AiCPU": self.is_described,
            "pass": self.is_rewritten,
        }
        return ", ".join(name for name, value in found.items() if value) or "none"


@cache
def support(primitive: str) -> Support:
    """The evidence for a primitive, by its name in a graph."""
    return Support(
        documented_platforms(primitive),
        dispatched(primitive),
        has_kernel_class(primitive),
        adapter(primitive),
        primitive in described(),
        primitive in rewritten(),
    )


def dispatched(primitive: str) -> bool:
    """Whether the operator's yaml enables aclnn: then the class generated from it calls "pyboost_..."."""
    calls = (each.__call__ for each in _definitions(primitive))
    return any("pyboost_" in inspect.getsource(call) for call in calls if inspect.isfunction(call))


def has_kernel_class(primitive: str) -> bool:
    classes, namespaces = kernels()
    return primitive in classes or primitive.lower() in namespaces


def adapter(primitive: str) -> Optional[str]:
    """The operator of CANN that an adapter calls."""
    name = ALIASES.get(primitive, primitive).lower()
    return next((adapters()[name + end] for end in VERSIONS if name + end in adapters()), None)


def _definitions(primitive: str) -> Iterator[object]:
    """What MindSpore's modules have under the name."""
    for module in MODULES:
        try:
            found = getattr(importlib.import_module(f"mindspore.ops.{module}"), primitive, None)
        except ImportError:  # another release of MindSpore
            continue
        if found is not None:
            yield found


def documented_platforms(primitive: str) -> Optional[tuple[str, ...]]:
    """The platforms in the docstring of the primitive's class, or of the function it refers to."""
    for definition in _definitions(primitive):
        text = getattr(definition, "__doc__", None) or ""
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


@cache
def kernels() -> tuple[frozenset[str], frozenset[str]]:
    """The primitives with an aclnn kernel class: by the names of the classes, and in lower case by their namespaces."""
    classes, namespaces = set(), set()
    for name in KERNEL.findall(_library(OPERATOR_LIBRARY)):
        *spaces, last = _parts(name.decode())
        # the classes in "pyboost" are for calls outside graphs
        if "pyboost" not in spaces and (kernel := KERNEL_CLASS.fullmatch(last)):
            classes.add(kernel[1] or kernel[2])
            namespaces.update(space.replace("_", "") for space in spaces)
    return frozenset(classes), frozenset(namespaces)


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
