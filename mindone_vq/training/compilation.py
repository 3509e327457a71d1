"""Compiled graphs of a training, which say when they compile."""

import logging
import time
from collections.abc import Callable
from typing import Any

from mindone_vq.nn.configuration import jit

logger = logging.getLogger("mindone_vq")


class TrainingGraph:
    """A cell compiled whole by its first call, which says so; the inputs of all calls have the same shapes and types.

    It does not wait for its results, and leaves the cell's mode as it is; the pipelines' ``CompiledGraph`` does both.

    Args:
        cell: what is compiled.
        name: for the message.
    """

    def __init__(self, cell: Callable[..., Any], name: str) -> None:
        self.name, self._run, self._compiled = name, jit(cell), False

    def __call__(self, *inputs: Any) -> Any:
        if self._compiled:
            return self._run(*inputs)
        logger.info("Compiling the %s ...", self.name)
        start = time.perf_counter()
        output = self._run(*inputs)
        self._compiled = True
        logger.info("Compiled the %s in %.1f s.", self.name, time.perf_counter() - start)
        return output
