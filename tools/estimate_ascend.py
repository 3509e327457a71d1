"""How long a denoising step of the published ITHQ model takes on an Ascend 910B, and its memory, estimated: no NPU ran.

    python tools/estimate_ascend.py

Compiles the guided step of one picture in float16 with one and with two of the 36 layers, in the form for Ascend, and
counts from the nodes of both graphs the operations of matrix products, and the bytes that every primitive reads and
writes if each is one kernel and nothing stays in a cache. What the second layer adds is counted 36 times. Both are
divided by the peak rates that CANN's documentation gives. Real kernels reach a part of a peak, and starting thousands
of kernels takes time that is not counted; caches and fused kernels save a part of the bytes.
"""

import math
import re
from collections.abc import Iterable

import mindspore as ms
import numpy as np
from ascend_ir import Node, saved_graphs
from audit_ascend import INTERNAL
from mindspore import Tensor

from mindone_vq import Transformer2DModel, VQDiffusionScheduler
from mindone_vq.nn.device import built_for
from mindone_vq.pipelines.graphs import CompiledGraph, DenoisingStep

LAYERS, PIXELS, CLASSES, TIMESTEPS = 36, 1024, 4097, 100
LENGTH, TEXT_WIDTH = 77, 512
# Ascend 910B2, docs/ascend.md has the source
PEAK_OPERATIONS, PEAK_BYTES = 353e12, 1.6e12  # a second: float16 matrix products; memory
SIZES = {"Bool": 1, "Float16": 2, "Float32": 4, "Int32": 4, "Int64": 8}
FREE = {*INTERNAL, "Reshape", "ExpandDims"}  # no data moves
SHAPE = re.compile(r"Tensor\[(\w+)\]\]?, \(([\d, ]*)\)")  # "]]": of a parameter
TUPLE = re.compile(r"Tuple\[([^<>]*)\], TupleShape\((\([^<>]*\))\)")


def tensors(text: str) -> list[tuple[str, tuple[int, ...]]]:
    """Types and shapes of the tensors in what MindSpore writes about inputs or outputs."""
    found = []
    for types, shapes in TUPLE.findall(text):
        repeated = re.findall(r"Tensor\[(\w+)\](?:\*(\d+))?", types)  # "Tensor[Float32]*3"
        names = [name for name, times in repeated for _ in range(int(times or 1))]
        found += list(zip(names, map(_numbers, re.findall(r"\(([\d, ]*)\)", shapes))))
    return found + [(name, _numbers(shape)) for name, shape in SHAPE.findall(TUPLE.sub("", text))]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", text)))


def operations(node: Node) -> int:
    """Multiplications and additions of a matrix product."""
    if node.primitive not in ("MatMul", "BatchMatMul"):
        return 0
    (_, left), (_, output) = tensors(node.inputs)[0], tensors(node.outputs)[0]
    # the axis that is summed is the one that is in the left factor and not in the product
    return 2 * math.prod(output) * math.prod(left) // math.prod(output[:-1])


def moved(node: Node) -> int:
    """Bytes read and written."""
    if node.primitive in FREE:
        return 0
    return sum(SIZES[name] * math.prod(shape) for text in (node.inputs, node.outputs) for name, shape in tensors(text))


def step(layers: int) -> list[Node]:
    """The nodes of a guided step."""
    with built_for("Ascend"), saved_graphs() as saved:
        transformer = Transformer2DModel(
            num_layers=layers,
            cross_attention_dim=TEXT_WIDTH,
            attention_bias=True,
            sample_size=math.isqrt(PIXELS),
            num_vector_embeds=CLASSES,
            num_embeds_ada_norm=TIMESTEPS,
            activation_fn="geglu-approximate",
        ).to(ms.float16)
        scheduler = VQDiffusionScheduler(CLASSES, TIMESTEPS)
        scheduler.set_timesteps(TIMESTEPS)
        CompiledGraph(DenoisingStep(transformer, scheduler, guided=True), "step")(
            Tensor(np.full((1, PIXELS), CLASSES - 1, np.int32)),
            Tensor([TIMESTEPS - 1], ms.int32),
            scheduler.jump(TIMESTEPS - 1),
            Tensor(np.zeros((2, LENGTH, TEXT_WIDTH), np.float16)),
            Tensor(5.0, ms.float32),
            Tensor(0.86, ms.float32),
            Tensor(np.full((1, PIXELS), 0.5, np.float32)),
        )
    return saved.nodes()


def totals(nodes: Iterable[Node]) -> np.ndarray:
    """Operations, bytes, kernels."""
    return sum((np.array([operations(node), moved(node), node.primitive not in FREE]) for node in nodes), np.zeros(3))


def main() -> None:
    one, two = totals(step(1)), totals(step(2))
    layer, rest = two - one, 2 * one - two
    print("| | matrix products, 10^12 operations | bytes moved, GB | kernels |\n|---|---|---|---|")
    for name, values in (("one layer", layer), ("the rest", rest), ("the step", rest + LAYERS * layer)):
        print(f"| {name} | {values[0] / 1e12:.3f} | {values[1] / 1e9:.2f} | {values[2]:.0f} |")
    done, moved_bytes, _ = rest + LAYERS * layer
    print(f"\nproducts: {done / 1e12:.2f} / {PEAK_OPERATIONS / 1e12:.0f} = {1e3 * done / PEAK_OPERATIONS:.1f} ms")
    print(f"memory: {moved_bytes / 1e9:.1f} / {PEAK_BYTES / 1e9:.0f} = {1e3 * moved_bytes / PEAK_BYTES:.1f} ms")


if __name__ == "__main__":
    main()
