"""Compiled graphs, and the memory in which they read parameters."""

import logging
import time
import weakref
from typing import Any, Optional

import mindspore as ms
from mindspore import Parameter, Tensor, nn

from mindone_vq.nn.configuration import jit
from mindone_vq.nn.device import on_cpu
from mindone_vq.pipelines import graph_files

logger = logging.getLogger("mindone_vq")


class ParameterMemory:
    """The memory in which graphs read each parameter: where it was when a graph first ran with it.

    A compiled graph does not notice that ``Parameter.set_data`` or ``load_param_into_net`` gave a parameter other
    memory. So the new values are copied to the memory that graphs read.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[weakref.ref, Tensor]] = {}

    def of(self, parameter: Parameter) -> Optional[Tensor]:
        """A tensor in that memory; None where no graph has read the parameter as it is, with its type and shape."""
        reference, memory = self._held.get(id(parameter), (lambda: None, None))
        fits = reference() is parameter and (memory.dtype, memory.shape) == (parameter.dtype, parameter.shape)
        return memory if fits else None

    def after_running(self, parameter: Parameter) -> Tensor:
        """``of``, now that a graph ran with ``parameter``."""
        if self.of(parameter) is None:
            key = id(parameter)
            reference = weakref.ref(parameter, lambda _: self._held.pop(key, None))
            self._held[key] = reference, Tensor(parameter)  # which shares the parameter's memory
        return self._held[id(parameter)][1]

    def before_running(self, parameter: Parameter) -> None:
        """Brings the values of ``parameter`` to where graphs read it."""
        memory = self.of(parameter)
        if memory is not None and memory.data_ptr() != parameter.data_ptr():
            memory.copy_(parameter)
            parameter.set_data(memory)


MEMORY = ParameterMemory()
# Types of those arguments of a cell that are settings and not components.
SETTINGS = (int, str, type, type(None))


class CompiledGraph:
    """A cell compiled whole, which says so when it has to compile.

    Args:
        cell: its construct takes tensors, or tuples and dicts of these that are ``mutable``.
        name: for the message.
    """

    def __init__(self, cell: nn.Cell, name: str) -> None:
        if on_cpu() and any(p.dtype == ms.bfloat16 for p in cell.get_parameters()):
            raise ValueError(f"The {name} has bfloat16 weights, which MindSpore cannot run on a CPU: use float32.")
        self.cell, self.name = cell.set_train(False), name
        self._run = jit(cell)
        self._known: set[Any] = set()
        self._read: list[tuple[Parameter, Tensor]] = []  # the parameters, and the memory in which it reads them
        # On a CPU a thread that calls the next graph before this one has ended spins until then, on a core that this
        # one needs, which then takes up to twice as long.
        self._waits = on_cpu()

    def __call__(self, *inputs: Any) -> Any:
        signature = _signature(inputs)
        if signature in self._known:
            output = self._run(*inputs)
            if self._waits:
                _wait_for(output)
            return output
        logger.info("Compiling the %s for batch %d ...", self.name, inputs[0].shape[0])
        start = time.perf_counter()
        with graph_files.kept(self.cell, signature):
            output = self._run(*inputs)
            _wait_for(output)
        self._known.add(signature)
        self._read = [(parameter, MEMORY.after_running(parameter)) for parameter in self.cell.get_parameters()]
        logger.info("Compiled the %s and ran it once in %.1f s.", self.name, time.perf_counter() - start)
        return output

    def is_outdated(self) -> bool:
        """Whether the cell has other parameters now, or of other types and shapes; their values may have changed."""
        if not self._known:
            return False
        now = list(self.cell.get_parameters())
        return len(now) != len(self._read) or any(
            parameter is not before or MEMORY.of(parameter) is not memory
            for parameter, (before, memory) in zip(now, self._read)
        )


def _signature(value: Any) -> Any:
    """Shapes and types; other ones compile again."""
    if isinstance(value, Tensor):
        return value.shape, value.dtype
    if isinstance(value, dict):
        return tuple((name, _signature(each)) for name, each in value.items())
    return tuple(_signature(each) for each in value)


def _wait_for(output: Any) -> None:
    if isinstance(output, Tensor):
        output.asnumpy()
    else:
        for each in output:
            _wait_for(each)


class GraphCache:
    """The graphs of a pipeline, made when first needed, and again when a component or a parameter was exchanged."""

    def __init__(self) -> None:
        self._graphs: dict[Any, tuple[tuple, CompiledGraph]] = {}
        self._held: dict[type, tuple[list, Any]] = {}

    def hold(self, kind: type, cell: nn.Cell) -> Any:
        """The same ``kind(cell)`` as long as the cell, and its parameters, are the same objects of the same types."""
        made_of = [cell, *((each, each.dtype, each.shape) for each in cell.get_parameters())]
        held = self._held.get(kind)
        if held is None or not _same_objects(held[0], made_of):
            held = self._held[kind] = (made_of, kind(cell))
        return held[1]

    def get(self, kind: type, *arguments: Any, name: str) -> CompiledGraph:
        """The compiled ``kind(*arguments)``.

        It is the same one as long as the arguments are the same objects, and their parameters are the same objects of
        the same types and shapes; the values of these may change.
        """
        key = (kind, *(argument for argument in arguments if isinstance(argument, SETTINGS)))
        held: Optional[tuple[tuple, CompiledGraph]] = self._graphs.get(key)
        if held is None or not _same(held[0], arguments) or held[1].is_outdated():
            held = (arguments, CompiledGraph(kind(*arguments), name))
            self._graphs[key] = held
        for parameter in held[1].cell.get_parameters():
            MEMORY.before_running(parameter)
        return held[1]


def _same_objects(before: list, now: list) -> bool:
    return len(before) == len(now) and all(
        a[0] is b[0] and a[1:] == b[1:] if isinstance(a, tuple) else a is b for a, b in zip(before, now)
    )


def _same(before: tuple, now: tuple) -> bool:
    return all(a is b for a, b in zip(before, now) if not isinstance(a, SETTINGS))
