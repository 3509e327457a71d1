"""A machine for the pickles that torch.save writes, which can build data and cannot call anything.

Python's own unpickler runs whatever a pickle names. This one reads the opcodes (by the standard library's
``pickletools``, which only parses) and knows a fixed list of names; each stands for a function of ours.
"""

import io
import pickletools
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any, Callable, Optional


class UnreadableCheckpoint(ValueError):
    """A file that is damaged, or that holds something that is not read; the message names it."""


@dataclass(frozen=True)
class Name:
    """A global that a pickle refers to, such as ``torch.FloatStorage``. It is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Unknown:
    """Stands for what is not known, a class or an object of it, where such things are to be passed over. Inert."""

    kind: str
    parts: list = field(default_factory=list, repr=False)


MARK = object()
# Of one pickle, in bytes and in opcodes, so that a small file cannot ask for much memory. A thousand tensors take
# some hundred kilobytes and 35 thousand opcodes.
MAX_LENGTH, MAX_OPCODES = 16 * 2**20, 1_000_000
MAX_NAME = 1000


def shown(value: Any, depth: int = 1) -> str:
    """A value for a message: short, whatever it is. A small pickle can build what has no end as text."""
    if isinstance(value, tuple) and depth:
        return f"({', '.join(shown(item, depth - 1) for item in value[:8])}{', ...' if len(value) > 8 else ''})"
    if isinstance(value, str):
        return repr(value[:100])
    if value is None or isinstance(value, (Name, Unknown, bool, int, float)):
        return f"{value!s:.200}"
    return f"a {type(value).__name__}"


class PickleMachine:
    """Builds what one pickle describes.

    Args:
        functions: name -> what builds its result from the arguments in the pickle.
        constants: name -> the value it stands for, where it is used as a value.
        persistent: gives the object for a persistent id (torch: a storage).
        ignore_unknown: make an ``Unknown`` of what is not known, instead of refusing it.

    Attributes:
        ignored: the names that were passed over.
    """

    def __init__(
        self,
        functions: dict[str, Callable],
        constants: dict[str, Any],
        persistent: Callable[[Any], Any],
        ignore_unknown: bool = False,
    ) -> None:
        self.functions, self.constants, self.persistent = functions, constants, persistent
        self.ignore_unknown = ignore_unknown
        self.ignored: set[str] = set()

    def run(self, stream: io.BufferedIOBase) -> Any:
        """The object described by the pickle at the position of ``stream``, which is left behind its end.

        Raises:
            UnreadableCheckpoint: the pickle is damaged, or refers to what is not known.
        """
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.given = 0
        limited = _Limited(stream)
        try:
            for count, (opcode, argument, _) in enumerate(pickletools.genops(limited)):
                if count > MAX_OPCODES:
                    raise UnreadableCheckpoint(f"its pickle has more than {MAX_OPCODES} opcodes")
                if opcode.name == "STOP":
                    result = self.pop()
                    if self.stack:
                        raise UnreadableCheckpoint("its pickle is damaged (it describes more than one object)")
                    return result
                self._step(opcode.name, argument)
        except UnreadableCheckpoint:
            raise
        except (ValueError, IndexError, TypeError, KeyError, OverflowError, RecursionError, AttributeError) as error:
            raise UnreadableCheckpoint(f"its pickle is damaged ({type(error).__name__}: {error})") from error
        raise UnreadableCheckpoint("its pickle has no end")

    def _step(self, opcode: str, argument: Any) -> None:
        if opcode in PUSHES:
            self.stack.append(argument)
        elif opcode in STEPS:
            STEPS[opcode](self, argument)
        elif opcode not in IGNORED_OPCODES:
            raise UnreadableCheckpoint(f"its pickle has the opcode {opcode}, which no state dict needs")

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise UnreadableCheckpoint("its pickle is damaged (nothing on the stack)")
        return self.stack[-1]

    def pop(self) -> Any:
        self.top()
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        for position in range(len(self.stack) - 1, -1, -1):
            if self.stack[position] is MARK:
                items = self.stack[position + 1 :]
                del self.stack[position:]
                return items
        raise UnreadableCheckpoint("its pickle is damaged (no mark on the stack)")

    def refer(self, name: Name) -> None:
        if len(name.module) + len(name.name) > MAX_NAME:
            raise UnreadableCheckpoint(f"its pickle refers to a name of more than {MAX_NAME} characters")
        text = str(name)
        if text in self.constants:
            self.stack.append(self.constants[text])
        elif text in self.functions:
            self.stack.append(name)
        elif self.ignore_unknown:
            self.ignored.add(text)
            self.stack.append(Unknown(text))
        else:
            raise UnreadableCheckpoint(f"its pickle refers to {text}, which is not needed to read tensors: refused")

    def call(self, function: Any, arguments: Any) -> Any:
        if isinstance(function, Name) and str(function) in self.functions and isinstance(arguments, tuple):
            self._count(arguments)
            return self.functions[str(function)](*arguments)
        if isinstance(function, Unknown):
            return Unknown(function.kind, [arguments])
        raise UnreadableCheckpoint(
            f"its pickle calls {shown(function)}, which is no function for reading tensors: refused"
        )

    def _count(self, arguments: tuple) -> None:
        """What calls are given has a limit too: one long argument can be given again and again."""
        for argument in arguments:
            if isinstance(argument, (str, bytes)):
                self.given += len(argument)
            elif isinstance(argument, (tuple, list, dict)):
                self.given += 16 * len(argument)
        if self.given > MAX_LENGTH:
            raise UnreadableCheckpoint("its pickle calls functions with more than it contains")

    def memorize(self, index: int) -> None:
        self.memo[index] = self.top()


def _append(machine: PickleMachine, items: list[Any]) -> None:
    target = machine.top()
    if isinstance(target, Unknown):
        target.parts += items
    elif type(target) is list:
        target += items
    else:
        raise UnreadableCheckpoint(f"its pickle appends to {shown(target)}")


def _set_items(machine: PickleMachine, items: list[Any]) -> None:
    target = machine.top()
    keys = items[::2]
    if len(items) % 2:
        raise UnreadableCheckpoint("its pickle is damaged (a key without a value)")
    # The hash of a tuple of tuples of ... can take for ever.
    if any(isinstance(key, tuple) and any(isinstance(part, tuple) for part in key) for key in keys):
        raise UnreadableCheckpoint("its pickle has a tuple of tuples as a key")
    if isinstance(target, Unknown):
        target.parts += items
    elif type(target) in (dict, OrderedDict):
        target.update(zip(keys, items[1::2]))
    else:
        raise UnreadableCheckpoint(f"its pickle sets an item of {shown(target)}")


def _dict(machine: PickleMachine, _: Any) -> None:
    items = machine.pop_to_mark()
    machine.stack.append({})
    _set_items(machine, items)


def _build(machine: PickleMachine, _: Any) -> None:
    """Attributes of an object. An OrderedDict's (PyTorch's ``_metadata``) are not needed; others have none."""
    state, target = machine.pop(), machine.top()
    if isinstance(target, Unknown):
        target.parts.append(state)
    elif type(target) is not OrderedDict:
        raise UnreadableCheckpoint(f"its pickle sets the attributes of {shown(target)}: refused")


def _reduce(machine: PickleMachine, _: Any) -> None:
    arguments, function = machine.pop(), machine.pop()
    machine.stack.append(machine.call(function, arguments))


def _stack_global(machine: PickleMachine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise UnreadableCheckpoint("its pickle names a global by something that is no string")
    machine.refer(Name(module, name))


def _instance(machine: PickleMachine, argument: str) -> None:
    arguments = tuple(machine.pop_to_mark())
    machine.refer(Name(*argument.split(" ", 1)))
    machine.stack.append(machine.call(machine.pop(), arguments))


def _object(machine: PickleMachine, _: Any) -> None:
    function, *arguments = machine.pop_to_mark()
    machine.stack.append(machine.call(function, tuple(arguments)))


def _new_object_with_keywords(machine: PickleMachine, _: Any) -> None:
    keywords, arguments, function = machine.pop(), machine.pop(), machine.pop()
    if keywords and isinstance(function, Name):
        raise UnreadableCheckpoint(f"its pickle calls {function} with keywords: refused")
    machine.stack.append(machine.call(function, arguments))


def _tuple(count: int) -> Callable:
    def step(machine: PickleMachine, _: Any) -> None:
        machine.stack.append(tuple([machine.pop() for _ in range(count)][::-1]))

    return step


def _pop_then(step: Callable) -> Callable:
    """The opcodes for one item, by those for many."""

    def single(machine: PickleMachine, _: Any) -> None:
        item = machine.pop()
        step(machine, [machine.pop(), item] if step is _set_items else [item])

    return single


PUSHES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
}
IGNORED_OPCODES = {"PROTO", "FRAME"}
STEPS: dict[str, Callable[[PickleMachine, Any], Any]] = {
    "NONE": lambda m, _: m.stack.append(None),
    "NEWTRUE": lambda m, _: m.stack.append(True),
    "NEWFALSE": lambda m, _: m.stack.append(False),
    "MARK": lambda m, _: m.stack.append(MARK),
    "POP": lambda m, _: m.stack.pop(),
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    "DUP": lambda m, _: m.stack.append(m.top()),
    "EMPTY_LIST": lambda m, _: m.stack.append([]),
    "EMPTY_DICT": lambda m, _: m.stack.append({}),
    "EMPTY_SET": lambda m, _: m.stack.append([]),
    "EMPTY_TUPLE": lambda m, _: m.stack.append(()),
    "LIST": lambda m, _: m.stack.append(m.pop_to_mark()),
    "TUPLE": lambda m, _: m.stack.append(tuple(m.pop_to_mark())),
    "FROZENSET": lambda m, _: m.stack.append(m.pop_to_mark()),
    "DICT": _dict,
    "TUPLE1": _tuple(1),
    "TUPLE2": _tuple(2),
    "TUPLE3": _tuple(3),
    "APPEND": _pop_then(_append),
    "APPENDS": lambda m, _: _append(m, m.pop_to_mark()),
    "ADDITEMS": lambda m, _: _append(m, m.pop_to_mark()),
    "SETITEM": _pop_then(_set_items),
    "SETITEMS": lambda m, _: _set_items(m, m.pop_to_mark()),
    "GLOBAL": lambda m, argument: m.refer(Name(*argument.split(" ", 1))),
    "STACK_GLOBAL": _stack_global,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_object_with_keywords,
    "INST": _instance,
    "OBJ": _object,
    "BUILD": _build,
    "BINPERSID": lambda m, _: m.stack.append(m.persistent(m.pop())),
    "PERSID": lambda m, argument: m.stack.append(m.persistent(argument)),
    "PUT": lambda m, index: m.memorize(index),
    "BINPUT": lambda m, index: m.memorize(index),
    "LONG_BINPUT": lambda m, index: m.memorize(index),
    "MEMOIZE": lambda m, _: m.memorize(len(m.memo)),
    "GET": lambda m, index: m.stack.append(m.memo[index]),
    "BINGET": lambda m, index: m.stack.append(m.memo[index]),
    "LONG_BINGET": lambda m, index: m.stack.append(m.memo[index]),
}


class _Limited:
    """A stream of which one pickle may take ``MAX_LENGTH`` bytes."""

    def __init__(self, stream: io.BufferedIOBase) -> None:
        self.stream, self.left = stream, MAX_LENGTH

    def _count(self, data: bytes) -> bytes:
        self.left -= len(data)
        if self.left < 0:
            raise UnreadableCheckpoint(f"its pickle is longer than {MAX_LENGTH} bytes")
        return data

    def read(self, length: int) -> bytes:
        return self._count(self.stream.read(min(max(length, 0), self.left + 1)))

    def readline(self) -> bytes:
        return self._count(self.stream.readline(self.left + 1))

    def tell(self) -> Optional[int]:
        return None
