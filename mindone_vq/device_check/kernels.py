"""How many kernels a step launches; MindSpore's log of these calls says which (kernel_log.py)."""

import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mindspore as ms

from mindone_vq.device_check import model
from mindone_vq.findings import ERROR_ADVICE, Checks, Finding

# "  %3(CNode_7) = PrimFunc_MatMul(...", in the text of a graph after all passes of the device
NODE = re.compile(r"^  %\d+\([^)]*\) = (?:PrimFunc_)?([A-Za-z]\w*)\(", re.MULTILINE)
NOTATION = {"MakeTuple", "TupleGetItem", "Depend", "UpdateState", "Load", "Return", "Partial", "Switch", "Call"}
LAST_GRAPHS = "graph_build_*.ir"


def checks(device: str) -> Checks:
    """A call and a training step, while MindSpore logs what it selects."""
    dtype = "float32" if device == "CPU" else "float16"
    result = {f"denoising {dtype}": (partial(kernels_of_a_step, dtype), ERROR_ADVICE)}
    if device != "CPU":
        result["training"] = (partial(model.training, "text to image", "float32"), ERROR_ADVICE)
    return result


def kernels_of_a_step(dtype: str) -> Iterator[Finding]:
    """The number of kernels in the graph of the denoising step, the largest of a call."""
    pipe, before = model.load(dtype), ms.get_context("save_graphs")
    with tempfile.TemporaryDirectory() as folder:
        ms.set_context(save_graphs=1, save_graphs_path=folder)
        try:
            pipe(model.PROMPTS[0], num_inference_steps=1, generator=0, output_type="latent")
        finally:
            ms.set_context(save_graphs=before, save_graphs_path=".")
        counts = [count_kernels(path.read_text()) for path in Path(folder).rglob(LAST_GRAPHS)]
    if not counts:
        raise RuntimeError(f"MindSpore {ms.__version__} saved no {LAST_GRAPHS}")
    yield Finding("kernels of a step", f"{max(counts)}, {dtype}", numbers={"kernels": max(counts)})


def count_kernels(text: str) -> int:
    """Nodes of a graph that are kernels."""
    return sum(name not in NOTATION for name in NODE.findall(text))
