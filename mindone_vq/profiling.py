"""Traces by mindspore.profiler."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Union

import mindspore as ms
from mindspore import profiler


@contextlib.contextmanager
def traced(folder: Union[str, Path, None], first: int = 1, last: int = 1) -> Iterator[Callable[[], None]]:
    """Traces steps ``first`` to ``last`` of what runs inside, counted from 1; a step is whatever the caller says.

    A step that compiles belongs before ``first``. In ``folder`` each process makes a folder of its own, with
    ASCEND_PROFILER_OUTPUT/trace_view.json, and on an NPU the times of its kernels.

    Args:
        folder: where to write; None or "" traces nothing.
        first, last: the steps.

    Returns:
        A context that gives the function to call at the end of every step.
    """
    if not folder:
        yield lambda: None
        return
    activities = [profiler.ProfilerActivity.CPU]
    if ms.get_context("device_target") == "Ascend":
        activities.append(profiler.ProfilerActivity.NPU)
    warmup = min(first - 1, 1)  # a step before, in which the profiler starts
    schedule = profiler.schedule(
        wait=0, warmup=warmup, active=last - first + 1, repeat=1, skip_first=first - 1 - warmup
    )
    handler = profiler.tensorboard_trace_handler(str(folder))
    with profiler.profile(activities=activities, schedule=schedule, on_trace_ready=handler) as profile:
        yield profile.step
