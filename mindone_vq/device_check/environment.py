"""The device, and how graphs are compiled for it."""

from collections.abc import Iterator

import mindspore as ms

from mindone_vq.findings import ERROR_ADVICE, Checks, Finding
from mindone_vq.nn.configuration import configuration
from mindone_vq.nn.device import fused_attention

BACKEND = "MindSpore's choice, ms_backend from Atlas A2 on"
HF32 = "CANN's default, allowed in convolutions"


def checks(device: str) -> Checks:
    return {"chip": (chip, ERROR_ADVICE), "options": (options, ERROR_ADVICE)}


def chip() -> Iterator[Finding]:
    """Its name and its memory."""
    target = ms.get_context("device_target")
    name = target if target == "CPU" else ms.hal.get_device_name(0, target)
    yield Finding("chip", f"{name}, MindSpore {ms.__version__}")
    if target != "CPU":
        ms.ops.ones((1,), ms.float32).asnumpy()  # before, the memory is said to be 0
        memory = ms.hal.get_device_properties(0, target).total_memory
        yield Finding("device memory", f"{memory / 1e9:.1f} GB", numbers={"bytes": memory})


def options() -> Iterator[Finding]:
    """Those of ``mindone_vq.configure``, as they act here."""
    chosen = configuration()
    yield Finding("jit level", chosen.jit_level)
    yield Finding("backend", chosen.backend or BACKEND)
    yield Finding("fused attention", "on" if fused_attention() else "off")
    yield Finding("HF32", HF32 if chosen.hf32 is None else "allowed" if chosen.hf32 else "not allowed")
