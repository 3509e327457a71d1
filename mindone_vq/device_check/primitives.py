"""The checks of every primitive of the audited graphs (docs/ascend.md), and of what drawing a code relies on."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Optional

import numpy as np
from mindspore import Tensor, ops

from mindone_vq.device_check.comparison import ADVICE, FLOAT32, HF32, Applied, Case, has
from mindone_vq.device_check.gradients import gradients
from mindone_vq.device_check.sizes import Sizes
from mindone_vq.device_check.tables import convolutions, elementwise, layouts, norms, products, reductions
from mindone_vq.diffusion.sampling import draw
from mindone_vq.findings import Checks, Finding
from mindone_vq.nn.configuration import jit

TABLES = (elementwise, layouts, reductions, products, convolutions, norms, gradients)


def checks(device: str, s: Optional[Sizes] = None) -> Checks:
    """All of them, in every type that the device has."""
    s = s or Sizes()
    result = _checks(device, [case for table in TABLES for case in table(s)])
    return {**result, "draw": (partial(no_impossible_code, s), ADVICE)}


def hf32_checks(device: str) -> Checks:
    """Products of float32, which HF32 may round."""
    cases = [case for case in (*products(Sizes()), *convolutions(Sizes())) if "float32" in case.types]
    return _checks(device, [replace(case, types=FLOAT32, limits=HF32) for case in cases])


def _checks(device: str, cases: list[Case]) -> Checks:
    result = {}
    for case in cases:
        for dtype in case.types:
            if case.only_on in ("", device) and has(device, dtype):
                result[f"{case.name} {dtype}"] = (partial(case.findings, dtype), ADVICE)
    return result


def no_impossible_code(s: Sizes) -> Iterator[Finding]:
    """The cumulative sum never falls, and stays where a probability is 0, so that no such class is drawn."""
    rng = np.random.default_rng(0)
    p = rng.random((1, s.pixels, s.classes), dtype=np.float32) ** 8 * (rng.random((1, s.pixels, s.classes)) < 0.1)
    p[..., 0] = p[..., -1] = 0
    p[..., 1] = 1e-6  # at least one class is possible
    sums = jit(Applied(ops.CumSum(), -1))(Tensor(p)).asnumpy()
    rises = np.diff(sums, axis=-1)
    falling, moving = int((rises < 0).sum()), int((rises[p[..., 1:] == 0] != 0).sum())
    value = f"the cumulative sum falls in {falling} places, and changes at {moving} of probability 0"
    yield Finding("CumSum, monotone", value, ADVICE if falling + moving else "", {"falls": falling, "moves": moving})
    impossible, shape = 0, p.shape[:2]
    for uniforms in (rng.random(shape, dtype=np.float32), np.zeros(shape), np.full(shape, 1 - 2**-24)):
        inputs = p, np.zeros((*shape, 1), np.float32), uniforms.astype(np.float32)
        drawn = jit(Applied(draw))(*map(Tensor, inputs)).asnumpy()
        taken = np.take_along_axis(p, drawn[..., None].clip(0, s.classes - 1), -1)[..., 0]
        impossible += int(((taken == 0) | (drawn >= s.classes)).sum())
    value = f"{impossible} codes of probability 0 were drawn"
    yield Finding("draw, possible codes only", value, ADVICE if impossible else "", {"impossible": impossible})
