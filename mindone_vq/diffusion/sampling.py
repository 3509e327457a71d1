"""Drawing classes. Randomness is made on the host, one uniform number for each latent pixel."""

from collections.abc import Sequence
from typing import Any, Optional, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor, ops

Generator = Union[np.random.Generator, ms.Generator, int]
Generators = Union[Generator, Sequence[Generator], None]
KEPT = -1  # what ``draw_changes`` gives for a code that does not change


def make_generators(generator: Generators, batch: int) -> list[np.random.Generator]:
    """One generator for the whole batch (a list of one), or one for each image (a list of ``batch``).

    Args:
        generator: a numpy or a MindSpore generator, a seed, or a list of ``batch`` of these; None: seeded from numpy's
            global state, which ``mindspore.set_seed`` and ``numpy.random.seed`` set. A generator advances, so a second
            call with it draws other numbers.
        batch: number of images.

    Raises:
        TypeError: something that is neither a generator nor a seed.
        ValueError: a list of another length, or a negative seed.
    """
    listed = isinstance(generator, (list, tuple))
    if listed and len(generator) != batch:
        raise ValueError(f"{len(generator)} generators given for {batch} images: give one, or one for each image.")
    return [_make_generator(entry) for entry in (generator if listed else [generator])]


def as_argument(generators: list[np.random.Generator]) -> Generators:
    """What ``make_generators`` returned, as it takes it: one for the whole batch is not in a list."""
    return generators[0] if len(generators) == 1 else generators


def _make_generator(entry: Optional[Generator]) -> np.random.Generator:
    if isinstance(entry, np.random.Generator):
        return entry
    if isinstance(entry, ms.Generator):
        return _from_mindspore(entry)
    if entry is None:
        return np.random.default_rng(np.random.randint(0, 2**32, 4, np.uint32))
    if isinstance(entry, (int, np.integer)) and not isinstance(entry, bool):
        if entry < 0:
            raise ValueError(f"a seed is a non-negative integer, given {entry}.")
        return np.random.default_rng(entry)
    kind = type(entry)
    instead = " Give its seed." if kind.__module__.split(".")[0] == "torch" else ""
    raise TypeError(
        "a generator is a numpy.random.Generator, a mindspore.Generator or an integer seed, given a "
        f"{kind.__module__}.{kind.__name__}.{instead}"
    )


def _from_mindspore(generator: ms.Generator) -> np.random.Generator:
    """A numpy generator seeded with the state of MindSpore's, whose offset is moved on."""
    state = generator.get_state().asnumpy()  # seed and offset, 8 bytes each
    seed, offset = state.view(np.int64)
    generator.set_state(Tensor(np.array([seed, offset + 1]).view(np.uint8)))
    return np.random.default_rng(state)


def draw_uniforms(generators: Sequence[np.random.Generator], batch: int, pixels: int) -> np.ndarray:
    """Uniform numbers in [0, 1): (batch, pixels) float32, from one generator or row by row from ``batch``."""
    if len(generators) == 1:
        return generators[0].random((batch, pixels), dtype=np.float32)
    return np.stack([generator.random(pixels, dtype=np.float32) for generator in generators])


def draw_changes(
    generators: Sequence[np.random.Generator], batch: int, pixels: int, keep: Any, mask: Any, mask_class: int
) -> np.ndarray:
    """What the forward process puts in the place of codes: (batch, pixels) int32.

    Args:
        generators: one for the whole batch, or one for each image.
        keep, mask: the probabilities of ``KEPT`` and of the mask, (batch, 1) or one for all; else it is a random code.
        mask_class: the number of codes.
    """
    generators = generators * batch if len(generators) == 1 else generators
    # float64: the chance of being replaced is some 1e-6, finer than a float32 uniform resolves
    u = np.stack([generator.random(pixels) for generator in generators])
    other = np.stack([generator.integers(0, mask_class, pixels) for generator in generators])
    return np.where(u < mask, mask_class, np.where(u < mask + keep, KEPT, other)).astype(np.int32)


def draw(p: Tensor, rest: Tensor, uniforms: Tensor) -> Tensor:
    """Draws a state for each pixel by inverting the cumulative distribution over the last axis.

    Args:
        p: (batch, pixels, states) float32, at least 0, of any sum.
        rest: probability of one more state, which comes last, on the same scale, (batch, pixels, 1).
        uniforms: (batch, pixels) float32 in [0, 1).

    Returns:
        (batch, pixels) int32. A state of probability zero is never drawn: the state returned is the first whose
        cumulative probability exceeds ``uniform * total``, so its own probability is positive.
    """
    states = p.shape[-1]
    cumulative = ops.cumsum(p.reshape(-1, states), -1)  # (rows, states)
    level = uniforms.reshape(-1, 1) * (cumulative[:, -1:] + rest.reshape(-1, 1))
    below = cumulative <= ops.tile(level, (1, states))
    counts = below.astype(ms.float32).sum(-1)  # exact: far below 2^24
    return counts.astype(ms.int32).reshape(uniforms.shape)
