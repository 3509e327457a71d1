"""An unpickler that builds data, and never imports or executes what a file names.

It extends ``pickle._Unpickler``, Python's implementation in Python, because single opcodes can be replaced there, and
because its memo is a dict: a large index in a file allocates no memory.
"""

import pickle
import pickletools
import struct
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, BinaryIO, Callable, Optional

# Limits of one pickle, so that a small file cannot ask for much memory or time. A thousand tensors take some hundred
# kilobytes and 35 thousand opcodes.
MAX_LENGTH = 16 * 2**20  # bytes
MAX_OPCODES = 1_000_000
MAX_NAME = 200  # characters, of a global
# What ``pickle._Unpickler`` raises for a damaged pickle.
DAMAGE = (pickle.UnpicklingError, EOFError, struct.error, ArithmeticError, RecursionError)
DAMAGE += (AttributeError, LookupError, TypeError, ValueError)


class UnreadableCheckpoint(ValueError):
    """A file is damaged, or holds something that is not read. The message names it."""


class Unknown:
    """Stands for an unknown class, or for an object of one. It ignores what a pickle does to it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *_: Any, **__: Any) -> "Unknown":
        return Unknown(self.name)

    def ignore(self, *_: Any) -> None:
        pass

    append = extend = __setitem__ = ignore


def check_keys(keys: Iterable[Any]) -> None:
    """Refuses tuples of tuples: to hash a deeply nested tuple takes endless time, or overflows the stack."""
    if any(isinstance(key, tuple) and any(isinstance(part, tuple) for part in key) for key in keys):
        raise UnreadableCheckpoint("its pickle has a tuple of tuples as a key")


class Unpickler(pickle._Unpickler):
    """Reads one pickle.

    Args:
        file: positioned at the pickle; it is left behind its end.
        names: what stands for a global in the pickle, such as "torch.FloatStorage": a function of ours, or data.
        persistent_load: returns the object for a persistent id.
        ignore_unknown: replace other globals by ``Unknown`` instead of refusing them.

    Attributes:
        ignored: the names of the unknown globals.
    """

    def __init__(
        self,
        file: BinaryIO,
        names: Mapping[str, Any] = MappingProxyType({}),
        persistent_load: Optional[Callable[[Any], Any]] = None,
        ignore_unknown: bool = False,
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.names, self.ignore_unknown = names, ignore_unknown
        if persistent_load is not None:
            self.persistent_load = persistent_load
        self.ignored: set[str] = set()
        self.dispatch = _Opcodes(OPCODES)
        self.size_of_arguments = 0

    def load(self) -> Any:
        """The object.

        Raises:
            UnreadableCheckpoint: the pickle is damaged, or refers to something unknown.
        """
        try:
            result = super().load()
        except UnreadableCheckpoint:
            raise
        except DAMAGE as error:
            raise UnreadableCheckpoint(f"its pickle is damaged ({type(error).__name__}: {error!s:.200})") from error
        if self.stack or self.metastack:
            raise UnreadableCheckpoint("its pickle is damaged (it describes more than one object)")
        return result

    def find_class(self, module: str, name: str) -> Any:
        text = f"{module}.{name}"[:MAX_NAME]
        if text in self.names:
            return self.names[text]
        if not self.ignore_unknown:
            raise UnreadableCheckpoint(f"its pickle refers to {text}, which is not needed to read tensors: refused")
        self.ignored.add(text)
        return Unknown(text)

    def load_reduce(self) -> None:
        """Calls a function, which can only be one of ``names``."""
        arguments = self.stack[-1]
        for argument in (arguments, *arguments):  # a long one takes few bytes where it is given again and again
            if isinstance(argument, (str, bytes, tuple, list, dict)):
                self.size_of_arguments += len(argument) * (1 if isinstance(argument, (str, bytes)) else 16)
        if self.size_of_arguments > MAX_LENGTH:
            raise UnreadableCheckpoint("its pickle calls functions with more than it contains")
        super().load_reduce()

    def load_newobj_ex(self) -> None:
        if self.stack.pop() and not isinstance(self.stack[-2], Unknown):
            raise UnreadableCheckpoint("its pickle calls a function with keywords: refused")
        self.load_reduce()

    def _instantiate(self, function: Any, arguments: list) -> None:
        self.stack += [function, arguments]
        self.load_reduce()

    def load_build(self) -> None:
        """Ignores the attributes of an OrderedDict (PyTorch's ``_metadata``) and of the unknown."""
        self.stack.pop()
        if not isinstance(self.stack[-1], (OrderedDict, Unknown)):
            raise UnreadableCheckpoint(f"its pickle sets the attributes of a {type(self.stack[-1]).__name__}: refused")


class _Opcodes(dict):
    """Code -> method. A pickle looks up one after another."""

    count = 0

    def __getitem__(self, code: int) -> Callable:
        self.count += 1
        if self.count > MAX_OPCODES:
            raise UnreadableCheckpoint(f"its pickle has more than {MAX_OPCODES} opcodes")
        return super().__getitem__(code)

    def __missing__(self, code: int) -> Callable:
        known = pickletools.code2op.get(chr(code))
        raise UnreadableCheckpoint(f"its pickle has the opcode {known.name if known else code}, which is refused")


def _checking_keys(opcode: bytes, keys: slice) -> Callable:
    """Python's method for ``opcode`` after a check of the keys, which are at ``keys`` on the stack."""
    load = pickle._Unpickler.dispatch[opcode[0]]

    def checked(unpickler: Unpickler) -> None:
        check_keys(unpickler.stack[keys])
        load(unpickler)

    return checked


REPLACED = {
    pickle.REDUCE: Unpickler.load_reduce,
    pickle.NEWOBJ: Unpickler.load_reduce,
    pickle.NEWOBJ_EX: Unpickler.load_newobj_ex,
    pickle.BUILD: Unpickler.load_build,
    pickle.SETITEM: _checking_keys(pickle.SETITEM, slice(-2, -1)),
    pickle.SETITEMS: _checking_keys(pickle.SETITEMS, slice(0, None, 2)),  # since the last mark
    pickle.DICT: _checking_keys(pickle.DICT, slice(0, None, 2)),
    # Sets become lists, whose elements need no hash.
    pickle.EMPTY_SET: Unpickler.load_empty_list,
    pickle.FROZENSET: Unpickler.load_list,
    pickle.ADDITEMS: Unpickler.load_appends,
    pickle.BYTEARRAY8: Unpickler.load_binbytes8,  # a bytearray is allocated before it is read
}
REFUSED = (pickle.EXT1, pickle.EXT2, pickle.EXT4, pickle.NEXT_BUFFER, pickle.READONLY_BUFFER)
OPCODES = {**pickle._Unpickler.dispatch, **{opcode[0]: load for opcode, load in REPLACED.items()}}
for _opcode in REFUSED:
    del OPCODES[_opcode[0]]
