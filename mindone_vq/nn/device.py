"""Where the cells run: the one place that decides between forms of the same computation."""

import contextlib
from collections.abc import Iterator
from typing import Optional

import mindspore as ms

LARGE = 2**28  # bytes of weights

_target: Optional[str] = None  # built for instead of the device that computes; see ``built_for``


def on_cpu() -> bool:
    """Whether cells are built for a CPU, where MindSpore's norm kernels take longer than the sums they are made of."""
    return (_target or ms.get_context("device_target")) == "CPU"


def layer_by_layer(weight_bytes: int) -> bool:
    """Whether a denoising step runs as one compiled layer called for each, and not as one graph.

    On a CPU that saves most of the compilation and of the memory (benchmarks/RESULTS.md); a small model is faster
    whole. An NPU wants one graph.

    Args:
        weight_bytes: of the network.
    """
    return on_cpu() and weight_bytes > LARGE


@contextlib.contextmanager
def built_for(target: str) -> Iterator[None]:
    """Cells made inside take the form they have on ``target``, "CPU" or "Ascend", wherever they compute.

    Cells decide when they are made: what was made before stays as it is.

    Raises:
        ValueError: another target.
    """
    global _target
    if target not in ("CPU", "Ascend"):
        raise ValueError(f'target is {target!r}; it must be "CPU" or "Ascend".')
    before, _target = _target, target
    try:
        yield
    finally:
        _target = before
