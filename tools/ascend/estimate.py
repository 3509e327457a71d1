"""Estimates time and memory of a denoising step of the published ITHQ model on an Ascend 910B; nothing ran on one.

    python tools/ascend/estimate.py

Compiles the guided step of one picture in float16 with one and with two of the 36 layers, in their form for Ascend.
Counts from the nodes of both graphs the operations of matrix products, and the bytes that each primitive reads and
writes as if it were a kernel of its own without a cache. What the second layer adds is counted 36 times. Both numbers
are divided by the peak rates of a 910B2 from CANN's documentation, and launching a kernel is assumed to take 5 to 20
microseconds. A step takes at least the longest of the three times, if they overlap entirely, and their sum if
they do not. Real kernels do not reach the peaks; caches and fused kernels save some of the bytes.

There are two forms of attention: one fused kernel, which never writes the scores, as on Atlas A2; and decomposed, as on
an NPU without such a kernel.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import mindspore as ms
import numpy as np
from graphs import built_for_ascend, text_pipeline, text_step, vq_model
from ir import INTERNAL, Node, compiled_graphs, tensors
from support import support

from mindone_vq import CLIPTextModel
from mindone_vq.pipelines.prepared import PreparedNetwork

LAYERS, HEADS, HEAD_WIDTH, PIXELS, CLASSES, TIMESTEPS = 36, 16, 88, 1024, 4097, 100
LENGTH, TEXT_WIDTH, TEXT_LAYERS = 77, 512, 12
# Ascend 910B2, docs/ascend.md has the source
PEAK_OPERATIONS, PEAK_BYTES = 353e12, 1.6e12  # a second: float16 matrix products; memory
LAUNCH = (5e-6, 20e-6)  # seconds for a kernel: an assumption
SIZES = {"Bool": 1, "Float16": 2, "Float32": 4, "Int32": 4, "Int64": 8}
FREE = {*INTERNAL, "Reshape", "ExpandDims"}  # no data moves
FUSED, PRODUCTS = "FlashAttentionScore", ("MatMul", "BatchMatMul", "Dense")


def operations(node: Node) -> int:
    """Multiplications and additions of a matrix product, or of the two products in fused attention."""
    if node.primitive == FUSED:
        (_, query), (_, key) = tensors(node.inputs)[:2]
        return 4 * math.prod(query) * key[1]  # (batch, tokens, ...) both
    if node.primitive not in PRODUCTS:
        return 0
    (_, left), (_, output) = tensors(node.inputs)[0], tensors(node.outputs)[0]
    # the summed axis is in the left factor and not in the product
    return 2 * math.prod(output) * math.prod(left) // math.prod(output[:-1])


def moved(node: Node) -> int:
    """Bytes read and written."""
    if node.primitive in FREE:
        return 0
    return sum(SIZES[name] * math.prod(shape) for text in (node.inputs, node.outputs) for name, shape in tensors(text))


@dataclass
class Compiled:
    """A compiled call.

    Attributes:
        step: the nodes of a step.
        once: the nodes of the context, which is computed once for all steps.
        parameters: the number of weights.
        stored: bytes of those weights that a step takes in another form than the checkpoint has.
        modulations: bytes of the norms' modulations at all timesteps.
    """

    step: list[Node]
    once: list[Node]
    parameters: int
    stored: int
    modulations: int


def compiled(layers: int, fused: bool) -> Compiled:
    """A guided call of a pipeline of ``layers`` layers, for an NPU with or without a fused attention kernel."""
    with built_for_ascend(fused):
        pipe = text_pipeline(
            vq_model(num_vq_embeddings=CLASSES - 1),
            LENGTH,
            TEXT_WIDTH,
            num_layers=layers,
            num_attention_heads=HEADS,
            attention_head_dim=HEAD_WIDTH,
            sample_size=math.isqrt(PIXELS),
            num_vector_embeds=CLASSES,
            num_embeds_ada_norm=TIMESTEPS,
        ).to(ms.float16)
        once, step = compiled_graphs(lambda: text_step(pipe, 1, guidance_scale=5.0, truncation_rate=0.86))
        prepared = PreparedNetwork(pipe.transformer)
        stored = sum(each.nbytes for each in prepared.get_parameters() if "prepared" in each.name)
    return Compiled(step, once, pipe.transformer.num_parameters(), stored, prepared.modulations.nbytes)


def text_encoder_parameters() -> int:
    """The number of weights of CLIP's text encoder."""
    sizes = dict(hidden_size=TEXT_WIDTH, intermediate_size=4 * TEXT_WIDTH, num_attention_heads=8)
    one, two = (CLIPTextModel(num_hidden_layers=n, **sizes).num_parameters() for n in (1, 2))
    return one + (TEXT_LAYERS - 1) * (two - one)


def totals(nodes: Iterable[Node]) -> np.ndarray:
    """Operations, bytes, kernels, and kernels without an aclnn class in MindSpore's library, of all nodes."""
    return sum((np.array(_counts(node)) for node in nodes), np.zeros(4))


def _counts(node: Node) -> tuple[int, int, bool, bool]:
    is_kernel = node.primitive not in FREE
    return operations(node), moved(node), is_kernel, is_kernel and support(node.primitive).kernel != "aclnn"


def of_all_layers(one: Iterable[Node], two: Iterable[Node]) -> np.ndarray:
    """``totals`` of a step, from its nodes with one and with two layers."""
    return totals(one) + (LAYERS - 1) * (totals(two) - totals(one))


def largest(nodes: Iterable[Node]) -> int:
    """Bytes of the largest output."""
    return max(SIZES[name] * math.prod(shape) for each in nodes for name, shape in tensors(each.outputs))


def times(values: np.ndarray) -> tuple[float, float, float, float]:
    """Milliseconds of ``totals``: of products, of bytes, and the least and the most of launching kernels."""
    operations, memory, kernels, _ = 1e3 * values
    return operations / PEAK_OPERATIONS, memory / PEAK_BYTES, kernels * LAUNCH[0], kernels * LAUNCH[1]


def bounds(values: np.ndarray) -> tuple[float, float]:
    """Milliseconds if products, bytes and launches overlap entirely, and if they do not."""
    products, memory, least, most = times(values)
    return max(products, memory, least), products + memory + most


def row(name: str, values: np.ndarray) -> str:
    counts = f"{values[0] / 1e12:.3f} | {values[1] / 1e9:.2f} | {values[2]:.0f} | {values[3]:.0f}"
    products, memory, least, most = times(values)
    return f"| {name} | {counts} | {products:.1f} | {memory:.1f} | {least:.1f} to {most:.1f} |"


def report_step(title: str, one: list[Node], two: list[Node]) -> None:
    """Prints the table of a step, from the nodes of a step with one and with two layers."""
    layer = totals(two) - totals(one)
    rest, step = totals(one) - layer, of_all_layers(one, two)
    columns = "products, 10^12 operations | bytes, GB | kernels | not aclnn | products, ms | bytes, ms | launches, ms"
    print(f"\n{title}\n\n| | {columns} |\n|---|---|---|---|---|---|---|---|")
    print(row("one layer", layer))
    print(row("embedding, logits, draw", rest))
    print(row("of that, tensors of all classes", totals(each for each in one if _has_all_classes(each))))
    print(row("**the step**", step))
    low, high = bounds(step)
    print(f"\na step: {low:.0f} to {high:.0f} ms; 100 steps: {low / 10:.1f} to {high / 10:.1f} s")
    print(f"largest tensor: {largest(one) / 1e9:.2f} GB")


def _has_all_classes(node: Node) -> bool:
    shapes = [shape for _, shape in tensors(node.inputs) + tensors(node.outputs)]
    return node.primitive not in PRODUCTS and any(shape[-1:] == (CLASSES - 1,) for shape in shapes)


def main() -> None:
    for title, fused in (("Fused attention:", True), ("Decomposed attention:", False)):
        one, two = compiled(1, fused), compiled(2, fused)
        report_step(title, one.step, two.step)
    weights = one.parameters + (LAYERS - 1) * (two.parameters - one.parameters)
    text = text_encoder_parameters()
    results = [pair for each in one.once if each.primitive == "Return" for pair in tensors(each.outputs)]
    kept = LAYERS * (sum(SIZES[name] * math.prod(shape) for name, shape in results) + one.modulations)
    print(f"\nOnce for a call:\n\n{row('keys, values', LAYERS * totals(one.once))}")
    print(f"\nthey stay, with the modulations: {kept / 1e9:.2f} GB")
    print(f"weights as a step takes them, beside the checkpoint's: {LAYERS * one.stored / 1e9:.2f} GB")
    print(f"weights of the denoiser: {weights / 1e9:.2f} x 10^9, {2 * weights / 1e9:.2f} GB")
    print(f"weights of the text encoder: {text / 1e9:.2f} x 10^9, {2 * text / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
