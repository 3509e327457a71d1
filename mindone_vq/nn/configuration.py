"""How MindSpore compiles and computes the graphs of this package: its options, in one place.

Each option is an argument of ``mindone_vq.configure``, or an environment variable that holds until ``configure`` is
called: MINDONE_VQ_JIT_LEVEL, MINDONE_VQ_BACKEND, MINDONE_VQ_FUSED_ATTENTION, MINDONE_VQ_HF32.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Optional

import mindspore as ms

PREFIX = "MINDONE_VQ_"
SWITCHES = {"1": True, "on": True, "true": True, "0": False, "off": False, "false": False}
CHOICES = {
    "jit_level": ("O0", "O1"),
    "backend": ("", "ms_backend", "GE"),
    "fused_attention": (None, True, False),
    "hf32": (None, True, False),
}


@dataclass(frozen=True)
class Configuration:
    """The options of ``configure``.

    Raises:
        ValueError: an option has a value that it does not take.
    """

    jit_level: str = "O0"
    backend: str = ""
    fused_attention: Optional[bool] = None
    hf32: Optional[bool] = None

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if not any(value is each or (isinstance(value, str) and value == each) for each in choices):
                raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(map(repr, choices))}.")


_current: Optional[Configuration] = None


def configure(**options: Any) -> Configuration:
    """Sets options; call it before the first network is made.

    Networks and graphs that exist already keep the options that they were made with.

    Args:
        jit_level: "O0", kernel by kernel, or "O1", with MindSpore's fusion of kernels, which it calls experimental.
        backend: "ms_backend", "GE", or "", which leaves the choice to MindSpore.
        fused_attention: whether attention is one kernel where its inputs allow it. None: on an NPU that has the kernel,
            after one small call of it succeeded.
        hf32: whether products of float32 may be rounded to 10 bits of mantissa, in convolutions and matrix products.
            None leaves CANN's default: in convolutions, but not in matrix products. MindSpore takes it once for a
            process; without effect on a CPU.

    Returns:
        All options as they are now.

    Raises:
        TypeError: there is no such option.
        ValueError: an option does not take this value.
        RuntimeError: hf32 has another value in this process already.
    """
    global _current
    unknown = options.keys() - CHOICES.keys()
    if unknown:
        raise TypeError(f"configure has no option {', '.join(sorted(unknown))}; it has {', '.join(CHOICES)}.")
    changed = replace(configuration(), **options)
    _allow_hf32(changed.hf32)
    _current = changed
    return changed


def configuration() -> Configuration:
    """The options as they are now."""
    global _current
    if _current is None:
        _current = _from_environment()
        _allow_hf32(_current.hf32)
    return _current


def jit(cell: Callable[..., Any]) -> Callable[..., Any]:
    """``cell``, or a function, compiled whole when it is first called."""
    options = configuration()
    return ms.jit(cell, fullgraph=True, jit_level=options.jit_level, backend=options.backend)


def _from_environment() -> Configuration:
    result = Configuration()
    for name, choices in CHOICES.items():
        variable = PREFIX + name.upper()
        text = os.environ.get(variable, "")
        if not text:
            continue
        value = SWITCHES.get(text.lower(), text) if True in choices else text
        try:
            result = replace(result, **{name: value})
        except ValueError as error:
            raise ValueError(f"Environment variable {variable}: {error}") from error
    return result


def _allow_hf32(value: Optional[bool]) -> None:
    if value is None or ms.get_context("device_target") != "Ascend":
        return
    precision = ms.device_context.ascend.op_precision
    precision.conv_allow_hf32(value)
    precision.matmul_allow_hf32(value)
