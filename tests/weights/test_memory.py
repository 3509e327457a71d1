"""How much memory loading takes, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOAD = """
import re
import sys
from pathlib import Path

from mindone_vq import Transformer2DModel

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

Transformer2DModel(2, 4, num_layers=1, sample_size=2, num_vector_embeds=5, num_embeds_ada_norm=3, cross_attention_dim=4)
before = peak()
network = Transformer2DModel.from_pretrained(sys.argv[1])
print((peak() - before) / sum(parameter.nbytes for parameter in network.get_parameters()))
"""


@pytest.mark.parametrize("pickled", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["safetensors", "bin"])
def test_loading_takes_little_more_memory_than_the_weights(pickled, tmp_path):
    torch, diffusers = pytest.importorskip("torch"), pytest.importorskip("diffusers")
    sizes = dict(num_attention_heads=8, attention_head_dim=128, num_layers=6, sample_size=4, num_embeds_ada_norm=10)
    sizes |= dict(num_vector_embeds=50, cross_attention_dim=64, activation_fn="geglu-approximate")
    with torch.no_grad():
        diffusers.Transformer2DModel(**sizes).save_pretrained(tmp_path, safe_serialization=not pickled)
    command, environment = [sys.executable, "-c", LOAD, str(tmp_path)], {**os.environ, "PYTHONPATH": str(ROOT)}
    output = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    assert 0.95 <= float(output.split()[-1]) <= 1.1
