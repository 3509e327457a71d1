"""mindnlp's text encoder in our pipeline; in the environment of the extra [mindnlp]: pytest -m mindnlp."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import mindone_vq

pytestmark = pytest.mark.mindnlp

PROMPTS = ["a large red circle on a white background", "ring", ""]
COMPARE = f"""
import sys
import numpy as np
{{first}}
from mindone_vq import VQDiffusionPipeline
from tests.shapes32_model import MODEL, SETTINGS
from mindone_vq.text.foreign import MindNLPTextEncoder

ours = VQDiffusionPipeline.from_pretrained(MODEL)
settings = dict(num_inference_steps=20, generator=0, output_type="np", **SETTINGS)
expected = ours.encode_prompt({PROMPTS!r}, 1, False)[0].asnumpy()
picture = ours({PROMPTS[0]!r}, **settings)[0]
from mindnlp.transformers import CLIPTextModel
theirs = VQDiffusionPipeline.from_pretrained(MODEL, text_encoder=CLIPTextModel.from_pretrained(MODEL / "text_encoder"))
assert isinstance(theirs.text_encoder, MindNLPTextEncoder)
np.savez(sys.argv[1], ours=expected, theirs=theirs.encode_prompt({PROMPTS!r}, 1, False)[0].asnumpy(),
         our_picture=picture, their_picture=theirs({PROMPTS[0]!r}, **settings)[0],
         loaded=MindNLPTextEncoder.from_pretrained(MODEL / "text_encoder")(np.full((1, 12), 590)))
"""


@pytest.mark.parametrize("first", ["", "import mindnlp"], ids=["imported last", "imported first"])
def test_it_gives_the_same_embeddings_and_pictures(first, tmp_path):
    """In a process of its own: importing mindnlp changes torch and mindspore.Tensor for the whole process."""
    environment = {**os.environ, "PYTHONPATH": str(Path(mindone_vq.__file__).parents[1])}
    command = [sys.executable, "-c", COMPARE.format(first=first), str(tmp_path / "result.npz")]
    subprocess.run(command, env=environment, check=True, timeout=300)
    result = np.load(tmp_path / "result.npz")
    assert result["ours"].shape == (3, 12, 64)
    assert np.abs(result["ours"] - result["theirs"]).max() <= 1e-4
    assert np.abs(result["our_picture"] - result["their_picture"]).max() <= 2 / 255
    assert result["loaded"].shape == (1, 12, 64)
