"""What the model card says about diffusers, done by diffusers."""

import re
import subprocess
import sys

import numpy as np

from tests.tiny_pipeline import random_pipeline


def test_the_second_block_loads_the_pipeline(tmp_path):
    pipe = random_pipeline(np.random.default_rng(0))
    pipe.save_pretrained(tmp_path / "saved")
    card = (tmp_path / "saved" / "README.md").read_text(encoding="utf-8")
    block = re.findall(r"^```python\n(.*?)^```", card, re.MULTILINE | re.DOTALL)[1]
    block = block.replace("path/to/this/folder", str(tmp_path / "saved"))
    weight = "pipe.transformer.transformer_blocks[0].attn1.to_q.weight.detach().numpy()"
    script = f"{block}\nimport numpy\nnumpy.save({str(tmp_path / 'weight.npy')!r}, {weight})\n"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path)
    ours = pipe.transformer.transformer_blocks[0].attn1.to_q.weight.asnumpy()
    assert np.array_equal(np.load(tmp_path / "weight.npy"), ours)
