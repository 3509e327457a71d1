"""Where the cells run: the one place that decides between forms of the same computation."""

import mindspore as ms

LARGE = 2**28  # bytes of weights


def on_cpu() -> bool:
    """Whether MindSpore computes on a CPU, where its norm kernels take longer than the sums they are made of."""
    return ms.get_context("device_target") == "CPU"


def layer_by_layer(weight_bytes: int) -> bool:
    """Whether a denoising step runs as one compiled layer called for each, and not as one graph.

    On a CPU that saves most of the compilation and of the memory (benchmarks/RESULTS.md); a small model is faster
    whole. An NPU wants one graph.

    Args:
        weight_bytes: of the network.
    """
    return on_cpu() and weight_bytes > LARGE
