"""Where the cells run: the one place that decides between forms of the same computation."""

import contextlib
import functools
import logging
from collections.abc import Iterator
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

from mindone_vq.nn.configuration import configuration

logger = logging.getLogger("mindone_vq")

TARGETS = ("CPU", "Ascend")
LARGE = 2**28  # bytes of weights
MANY_SCORES = 2**26
FUSED_ATTENTION = ("ascend910b", "ascend910_93")  # Atlas A2 and A3

_target: Optional[str] = None  # built for instead of the device that computes; see ``built_for``


def on_cpu() -> bool:
    """Whether cells are built for a CPU, where MindSpore's norm kernels take longer than the sums they are made of."""
    return device() == "CPU"


def fused_attention() -> bool:
    """Whether cells are built for a device with MindSpore's fused attention kernel: Ascend, from Atlas A2 on."""
    if device() != "Ascend":
        return False
    wanted = configuration().fused_attention
    if wanted is not None or ms.get_context("device_target") != "Ascend":
        return wanted is not False
    return _processor() in FUSED_ATTENTION and _fused_attention_runs()


@functools.cache
def _fused_attention_runs() -> bool:
    """Whether this NPU takes the kernel: CANN's pages list it as missing on the Atlas 800I A2."""
    heads = Tensor(np.zeros((1, 16, 1, 16)), ms.float16)  # (batch, tokens, heads, head_dim)
    try:
        ops.flash_attention_score(heads, heads, heads, 1, input_layout="BSND").asnumpy()
    except Exception as error:  # MindSpore raises errors of many types for a kernel
        reason = " ".join(str(error).split())[:200]
        logger.warning("This NPU refuses the fused attention kernel; attention is decomposed. (%s)", reason)
        return False
    return True


def fused_linear() -> bool:
    """Whether a linear layer is one kernel with its bias. MindSpore's on a CPU is a product and a slow sum."""
    return not on_cpu()


def centres_tokens() -> bool:
    """Whether the tokens between blocks have mean zero, so that the norms, which are sums, need not subtract it."""
    return on_cpu()


def device() -> str:
    """What cells are built for: "CPU", "Ascend" or another of MindSpore's names."""
    return _target or ms.get_context("device_target")


def _processor() -> str:
    """The generation of the NPU that computes, as MindSpore calls it."""
    from mindspore._c_expression import MSContext  # the public interface does not tell

    return MSContext.get_instance().get_ascend_soc_version()


def compute_dtype(dtype: ms.Type) -> ms.Type:
    """The type that a network with such weights computes in."""
    return ms.float32 if widens() else dtype


def widens() -> bool:
    """Whether weights of float16 only save memory: on a CPU products of that type are slow."""
    return on_cpu()


def steps_in_a_graph() -> int:
    """How many denoising steps one graph does.

    On a CPU a graph takes a few milliseconds to begin and to end. An NPU reads ahead while it computes, and would have
    to wait at the end of each turn of a loop.
    """
    return 10 if on_cpu() else 1


def sorts() -> bool:
    """Whether sorting a few probabilities takes less time than bisection, which is many small kernels, for a CPU.

    An NPU sorts float32 with less accuracy.
    """
    return on_cpu()


def layer_by_layer(weight_bytes: int) -> bool:
    """Whether a denoising step runs as one compiled layer called for each, and not as one graph.

    On a CPU that saves most of the compilation and of the memory (benchmarks/RESULTS.md); a small model is faster
    whole. An NPU wants one graph.

    Args:
        weight_bytes: of the network.
    """
    return on_cpu() and weight_bytes > LARGE


def groups_of_heads(heads: int, scores: int) -> int:
    """How many groups of heads attend one after the other where a network runs layer by layer.

    There the scores, and the copies that matrix products make of them, are the largest tensors by far where there are
    many pictures or many pixels. Groups take a tenth longer.

    Args:
        heads: all.
        scores: of one head of all pictures: batch * queries * keys.

    Returns:
        The least number of groups of equal size whose scores fit a quarter of a GB.
    """
    return next(
        (groups for groups in range(1, heads) if heads % groups == 0 and heads // groups * scores <= MANY_SCORES), heads
    )


@contextlib.contextmanager
def built_for(target: str) -> Iterator[None]:
    """Cells made inside take the form they have on ``target``, one of ``TARGETS``, wherever they compute.

    A cell decides when it is made; cells made before do not change.

    Raises:
        ValueError: another target.
    """
    global _target
    if target not in TARGETS:
        raise ValueError(f"target is {target!r}; it must be one of {', '.join(TARGETS)}.")
    before, _target = _target, target
    try:
        yield
    finally:
        _target = before
