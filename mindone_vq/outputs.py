"""What models, schedulers and pipelines return: tuples whose entries also have names.

``output[0]``, ``output.sample`` and ``output["sample"]`` are the same. A tuple is what mindone returns by default,
names are what diffusers has. Inside a compiled graph the same functions return a plain tuple.
"""

import functools
from typing import Any, Callable, Union


def output(kind: type) -> type:
    """Decorates a ``NamedTuple``: its entries can be read by key too, as those of an output of diffusers."""

    def get(self: tuple, key: Union[str, int, slice]) -> Any:
        if isinstance(key, str):
            if key not in self._fields:
                raise KeyError(f"{kind.__name__} has no {key!r}; it has {', '.join(self._fields)}.")
            return getattr(self, key)
        return tuple.__getitem__(self, key)

    def to_tuple(self: tuple) -> tuple:
        """The entries that are set, in order."""
        return tuple(value for value in self if value is not None)

    kind.__getitem__, kind.to_tuple = get, to_tuple
    return kind


def returns(kind: type) -> Callable:
    """Decorates a method that returns a plain tuple: outside of a graph it returns a ``kind``.

    MindSpore compiles the source of the method itself, without its decorator, so a graph sees plain tuples.
    """

    def decorate(method: Callable) -> Callable:
        @functools.wraps(method)
        def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
            return kind(*method(self, *args, **kwargs))

        return wrapper

    return decorate
