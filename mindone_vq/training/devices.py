"""Several processes, each with its own device: that train one model together, or that work side by side."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, communication, nn, ops
from mindspore.ops.auto_generate import SplitWithSize

LARGEST_MESSAGE = 2**26  # bytes: few messages, whose buffers take little memory beside the gradients


@dataclass(frozen=True)
class Devices:
    """rank: which process this is; count: how many there are; number: its device, where it has to choose itself."""

    rank: int = 0
    count: int = 1
    number: Optional[int] = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def part(self, batch: np.ndarray) -> np.ndarray:
        """This process's rows of the whole batch, which must have a multiple of ``count``."""
        size = len(batch) // self.count
        return batch[self.rank * size : (self.rank + 1) * size]

    def gather(self, part: np.ndarray) -> np.ndarray:
        """The rows of all processes in order of rank, from the rows of each."""
        return part if self.count == 1 else ops.AllGather()(Tensor(part)).asnumpy()

    def on_first(self, work: Callable[[], object]) -> None:
        """Calls ``work`` in the first process; the others wait for it, and learn whether it failed.

        Raises:
            RuntimeError: in the other processes, where ``work`` raised an error in the first.
        """
        error = None
        if self.first:
            try:
                work()
            except Exception as raised:  # raised below: an error does not leave the others waiting
                error = raised
        failed = self.gather(np.float32([error is not None])).any()
        if error is not None:
            raise error
        if failed:
            raise RuntimeError("The first process failed; its log has the error.")


class SumOverDevices(nn.Cell):
    """Adds up tensors over all devices, in messages of many tensors.

    A message takes some time to begin, whatever its size, and a network has hundreds of parameters. MindSpore can fuse
    AllReduce nodes itself, but only if a setting of the whole process for its parallel modes asks for it.

    Args:
        shapes: of the tensors.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]]) -> None:
        super().__init__(auto_prefix=False)
        self.shapes = tuple(tuple(shape) for shape in shapes)
        self.sizes = tuple(math.prod(shape) for shape in self.shapes)
        self.messages = tuple(messages(self.sizes, LARGEST_MESSAGE // 4))
        self.all_reduce = ops.AllReduce()
        self.split = SplitWithSize()  # ``ops.split`` would be a StridedSlice for each tensor

    def construct(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """The sums, float32."""
        sums = ()
        for first, end in self.messages:
            flat = ops.concat([each.reshape(-1).astype(ms.float32) for each in tensors[first:end]])
            parts = self.split(self.all_reduce(flat), self.sizes[first:end], 0)
            for i in range(first, end):
                sums += (parts[i - first].reshape(self.shapes[i]),)
        return sums


def messages(sizes: Sequence[int], largest: int) -> Iterator[tuple[int, int]]:
    """The first and the end of runs of tensors of together at most ``largest`` numbers, or of a single larger one."""
    first = total = 0
    for i, size in enumerate(sizes):
        if i > first and total + size > largest:
            yield first, i
            first, total = i, 0
        total += size
    if sizes:
        yield first, len(sizes)


def connect() -> Devices:
    """Joins the other processes where ``msrun`` started this one; elsewhere there is one device.

    MindSpore's own distribution: HCCL between Ascend devices, its own backend between processes on a CPU. ``msrun``
    starts one process more, the scheduler, with the same arguments: it stays in this function until the others end.
    """
    if os.environ.get("MS_ROLE") not in ("MS_WORKER", "MS_SCHED"):
        return Devices()
    communication.init()
    return Devices(communication.get_rank(), communication.get_group_size())


def side_by_side() -> Optional[Devices]:
    """This process's place among those that ``msrun`` started, for work in which they do not communicate.

    They are not joined, so that none waits for another or ends with it, and MindSpore treats each as the only one.
    None for the scheduler, the process that ``msrun`` starts for the others to find each other: it has nothing to do.

    Raises:
        ValueError: ``msrun`` numbered the processes of one machine only.
    """
    role = os.environ.pop("MS_ROLE", None)
    if role == "MS_SCHED":
        return None
    if role != "MS_WORKER":
        return Devices()
    if "RANK_ID" not in os.environ:
        raise ValueError("msrun gave this process no number: with several machines, start it with --node_rank on each.")
    return Devices(*(int(os.environ[name]) for name in ("RANK_ID", "MS_WORKER_NUM", "DEVICE_ID")))
