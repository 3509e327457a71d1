"""Where the cells run: the one place that decides between forms of the same computation."""

import mindspore as ms


def on_cpu() -> bool:
    """Whether MindSpore computes on a CPU, where its norm kernels take longer than the sums they are made of."""
    return ms.get_context("device_target") == "CPU"
