"""What the model card says about diffusers, done by diffusers."""

import subprocess
import sys

import numpy as np

from tests.markdown import python_blocks
from tests.tiny_pipeline import random_pipeline


def test_the_second_block_loads_the_pipeline(tmp_path):
    pipe = random_pipeline(np.random.default_rng(0))
    pipe.save_pretrained(tmp_path / "saved")
    block = python_blocks(tmp_path / "saved" / "README.md")[1].replace("path/to/this/folder", str(tmp_path / "saved"))
    weight = "pipe.transformer.transformer_blocks[0].attn1.to_q.weight.detach().numpy()"
    script = f"{block}\nimport numpy\nnumpy.save({str(tmp_path / 'weight.npy')!r}, {weight})\n"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    ours = pipe.transformer.transformer_blocks[0].attn1.to_q.weight.asnumpy()
    assert np.array_equal(np.load(tmp_path / "weight.npy"), ours)
