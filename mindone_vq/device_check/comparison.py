"""One comparison of a compiled graph on the device with float64 on the host."""

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Callable, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn

from mindone_vq.findings import Finding
from mindone_vq.nn.configuration import jit
from mindone_vq.weights.pretrained import FLOAT_TYPES

FLOAT32, FLOAT16 = ("float32",), ("float16", "bfloat16")
# Largest error allowed, relative to the largest magnitude of the reference, by the type of the inputs.
ROUNDED = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1.6e-2}
SUMMED = {"float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}  # several roundings
GRADIENT = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 4e-2}
HF32 = {"float32": 2e-3}
EXACT = dict.fromkeys(FLOAT_TYPES, 0.0)
ADVICE = "report this line with the whole report; the package must not use this kernel as it does"
DIRECTIONS = 3  # in which a gradient is compared
STEP = 1e-7  # of central differences; at kinks, as of ReLU, these are wrong for as large a share of the inputs

Arrays = Sequence[np.ndarray]
Input = Callable[[np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class Case:
    """A graph of one primitive, or of a few around it, at the shapes of the published model.

    Attributes:
        primitive: the audited primitive that it is for.
        function: of tensors: a primitive, a function or a cell.
        reference: the same of float64 arrays (and of integers and booleans as they are).
        inputs: from ``normal`` and the others below; floating ones are rounded to the type of the case.
        constants: further arguments of ``function``, part of the graph.
        types: of the floating inputs; the first part of the name of a finding is the primitive, the second the type.
        limits: by type.
        gradient: compares the gradient by the floating inputs in place of the output.
        note: distinguishes several cases of a primitive.
        only_on: the device that has the kernel; empty: every device.
    """

    primitive: str
    function: Callable[..., object]
    reference: Callable[..., object]
    inputs: tuple[Input, ...]
    constants: tuple[object, ...] = ()
    types: tuple[str, ...] = ("float32", "float16", "bfloat16")
    limits: Union[dict[str, float], None] = None
    gradient: bool = False
    note: str = ""
    only_on: str = ""

    @property
    def name(self) -> str:
        return f"{self.primitive} {self.note}".strip()

    def limit(self, dtype: str) -> float:
        return (self.limits or (GRADIENT if self.gradient else ROUNDED))[dtype]

    def findings(self, dtype: str) -> Iterator[Finding]:
        """Runs the case in one type."""
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))
        arrays = [rounded(make(rng), dtype) for make in self.inputs]
        tensors = [
            Tensor(a.astype(np.float32), FLOAT_TYPES[dtype]) if a.dtype == np.float64 else Tensor(a) for a in arrays
        ]
        error = (self._error_of_gradient if self.gradient else self._error)(arrays, tensors)
        limit = self.limit(dtype)
        wrong = not error <= limit  # also where it is not a number
        value = f"error {error:.1e}, at most {limit:.0e}" if limit else f"{error:.1%} of the elements differ"
        numbers = {"error": error, "limit": limit}
        yield Finding(f"{self.name} {dtype}", value, ADVICE if wrong else "", numbers)

    def _error(self, arrays: Arrays, tensors: Sequence[Tensor]) -> float:
        outputs = jit(Applied(self.function, *self.constants).set_train(False))(*tensors)
        references = self.reference(*arrays)
        pairs = zip(_listed(outputs), _listed(references))
        exact = self.limits is EXACT
        return max((_share_different if exact else relative_error)(to_numpy(a), np.asarray(b)) for a, b in pairs)

    def _error_of_gradient(self, arrays: Arrays, tensors: Sequence[Tensor]) -> float:
        """Gradients of a weighted sum of the output, in random directions, beside central differences."""
        rng = np.random.default_rng(1)
        weights = rng.normal(size=np.shape(self.reference(*arrays))).astype(np.float32)
        floating = tuple(i for i, each in enumerate(arrays) if each.dtype == np.float64)
        cell = WeightedSum(Applied(self.function, *self.constants).set_train(False))
        gradients = jit(ms.grad(cell, tuple(i + 1 for i in floating)))(Tensor(weights), *tensors)
        errors = []
        for i, gradient in zip(floating, _listed(gradients)):
            gradient = to_numpy(gradient)
            for _ in range(DIRECTIONS):
                direction = rng.normal(size=arrays[i].shape)
                sums = []
                for sign in (1, -1):
                    moved = [*arrays[:i], arrays[i] + sign * STEP * direction, *arrays[i + 1 :]]
                    sums.append((self.reference(*moved) * weights).sum())
                expected = (sums[0] - sums[1]) / (2 * STEP)
                # the product of a gradient and a random direction has the gradient's norm as its standard deviation
                errors.append(abs((gradient * direction).sum() - expected) / max(np.linalg.norm(gradient), 1e-30))
        return float(max(errors))


def has(device: str, dtype: str) -> bool:
    """Whether the device computes in this type; no CPU multiplies bfloat16."""
    return device != "CPU" or dtype != "bfloat16"


class Applied(nn.Cell):
    """An operation as a network."""

    def __init__(self, operation: Callable[..., object], *constants: object) -> None:
        super().__init__()
        self.operation, self.constants = operation, constants

    def construct(self, *inputs):
        return self.operation(*inputs, *self.constants)


class WeightedSum(nn.Cell):
    def __init__(self, cell: nn.Cell) -> None:
        super().__init__()
        self.cell = cell

    def construct(self, weights, *inputs):
        return (self.cell(*inputs).astype(ms.float32) * weights).sum()


def rounded(array: np.ndarray, dtype: str) -> np.ndarray:
    """A float64 array at the precision of a type; other arrays as they are."""
    if array.dtype != np.float64:
        return array
    if dtype == "bfloat16":  # half the bits of float32, to the nearest, ties to even
        bits = array.astype(np.float32).view(np.uint32)
        bits = bits + 0x7FFF + ((bits >> 16) & 1)
        return (bits & 0xFFFF0000).astype(np.uint32).view(np.float32).astype(np.float64)
    return array.astype(dtype).astype(np.float64)


def to_numpy(tensor: Tensor) -> np.ndarray:
    if tensor.dtype in FLOAT_TYPES.values():
        return tensor.astype(ms.float32).asnumpy().astype(np.float64)
    return tensor.asnumpy()


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    """The largest difference, relative to the largest magnitude of the reference."""
    if value.shape != reference.shape:
        raise ValueError(f"the shape is {value.shape}, not {reference.shape}")
    return float(np.abs(value - reference).max() / max(np.abs(reference).max(), 1e-30))


def _share_different(value: np.ndarray, reference: np.ndarray) -> float:
    if value.shape != reference.shape:
        raise ValueError(f"the shape is {value.shape}, not {reference.shape}")
    return float((value != reference).mean())


def _listed(values: object) -> Sequence:
    return values if isinstance(values, (tuple, list)) else [values]


def normal(*shape: int, mean: float = 0.0, spread: float = 1.0) -> Input:
    return lambda rng: rng.normal(mean, spread, shape)


def positive(*shape: int, scale: float = 1.0) -> Input:
    return lambda rng: scale * rng.uniform(0.1, 2.0, shape)


def whole(*shape: int) -> Input:
    """Floating numbers of few values, so that many are equal."""
    return lambda rng: rng.integers(-3, 4, shape).astype(np.float64)


def integers(high: int, *shape: int) -> Input:
    return lambda rng: rng.integers(0, high, shape).astype(np.int32)


def booleans(*shape: int) -> Input:
    return lambda rng: rng.random(shape) < 0.5
