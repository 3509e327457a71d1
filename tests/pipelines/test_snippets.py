"""Code written for diffusers, for mindone, and by hand over the parts: it runs with its import changed.

Each snippet is what their documentation shows. What PyTorch is told and MindSpore is not - the type of the weights, the
device, the generator - is answered by a message; the snippet with what the message says then runs.
"""

import sys
import types

import numpy as np
import pytest

from tests.tiny_pipeline import random_pipeline

DIFFUSERS = """
from {package} import DiffusionPipeline, VQDiffusionPipeline

pipeline = VQDiffusionPipeline.from_pretrained(folder, {dtype})
pipeline{device}
pipeline.set_progress_bar_config(disable=True)
pipeline.enable_attention_slicing()
generator = {generator}
output = pipeline(
    "teddy bear",
    truncation_rate=0.86,
    guidance_scale=3.0,
    num_inference_steps=10,
    generator=generator,
    output_type="np",
)
image = output.images[0]
pipeline.numpy_to_pil(image)[0].save("teddy_bear.png")
again = DiffusionPipeline.from_pretrained(folder)
assert type(again) is VQDiffusionPipeline and again.config._class_name == "VQDiffusionPipeline"
pipeline.save_pretrained("saved", safe_serialization=True, max_shard_size="2GB")
"""

MINDONE = """
import mindspore as ms
import numpy as np
from {package} import Transformer2DModel, VQDiffusionPipeline, VQDiffusionScheduler, VQModel

vae = VQModel.from_pretrained(folder, subfolder="vqvae", mindspore_dtype=ms.float32, use_safetensors=True)
transformer, info = Transformer2DModel.from_pretrained(folder, subfolder="transformer", output_loading_info=True)
assert not info["missing_keys"] and not info["unexpected_keys"]
scheduler = VQDiffusionScheduler.from_config(VQDiffusionScheduler.load_config(folder, subfolder="scheduler"))
pipe = VQDiffusionPipeline.from_pretrained(folder, vqvae=vae, transformer=transformer, scheduler=scheduler)
pipe.set_progress_bar_config(disable=True)
image = pipe(["teddy bear"], num_inference_steps=10, generator=np.random.Generator(np.random.PCG64(0)))[0][0]
image.save("teddy_bear.png")
latents = vae.encode(ms.Tensor(np.zeros((1, 3, 12, 12), np.float32)))[0]
decoded = vae.decode(latents)[0]
"""

BY_HAND = """
import mindspore as ms
import numpy as np
from mindspore import ops
from {package} import Transformer2DModel, VQDiffusionScheduler, VQModel

transformer = Transformer2DModel.from_pretrained(folder, subfolder="transformer")
scheduler = VQDiffusionScheduler.from_pretrained(folder, subfolder="scheduler")
vqvae = VQModel.from_pretrained(folder, subfolder="vqvae")

text = ms.Tensor(np.random.default_rng(0).normal(size=(2, 12, 24)).astype(np.float32))
mask_class = transformer.num_vector_embeds - 1
sample = ops.full((1, transformer.num_latent_pixels), mask_class, dtype=ms.int64)
scheduler.set_timesteps(10{device})
for i, t in enumerate(scheduler.timesteps):
    latent_model_input = ops.cat([sample] * 2)
    model_output = transformer(latent_model_input, encoder_hidden_states=text, timestep=t).sample
    null, conditional = model_output.chunk(2)
    model_output = null + 3.0 * (conditional - null)
    model_output -= ops.logsumexp(model_output, 1, True)
    sample = scheduler.step(model_output, timestep=t, sample=sample, generator={generator}).prev_sample
embedding_channels = vqvae.config.vq_embed_dim
shape = (1, transformer.height, transformer.width, embedding_channels)
embeddings = vqvae.quantize.get_codebook_entry(sample, shape=shape)
image = (vqvae.decode(embeddings, force_not_quantize=True).sample / 2 + 0.5).clamp(0, 1)
assert (sample != mask_class).all() and image.shape == (1, 3, 12, 12)
"""

PYTORCH = dict(dtype="torch_dtype='float16'", device='.to("cuda")', generator="torch.Generator('cuda').manual_seed(0)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "tiny"
    random_pipeline(np.random.default_rng(0), layers=1).save_pretrained(path)
    return str(path)


def run(snippet, folder, **spelled):
    space = {"folder": folder}
    exec(snippet.format(package="mindone_vq", **spelled), space)
    return space


class Generator:
    """torch.Generator, as far as a snippet sees it."""

    __module__ = "torch"

    def __init__(self, device):
        pass

    def manual_seed(self, seed):
        return self


def test_a_snippet_of_diffusers(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(Generator=Generator))
    spelled = dict(PYTORCH, generator="__import__('torch').Generator('cuda').manual_seed(0)")
    for place, message, instead in (
        ("dtype", "the type of the weights is mindspore_dtype=mindspore.float16", "mindspore_dtype=None"),
        ("device", r"mindspore\\.set_device", ""),
        ("generator", "Give its seed", "0"),
    ):
        with pytest.raises(TypeError, match=message.replace("\\\\", "\\")):
            run(DIFFUSERS, folder, **spelled)
        spelled[place] = instead
    space = run(DIFFUSERS, folder, **spelled)
    assert space["image"].shape == (12, 12, 3) and space["image"].std() > 0


def test_a_snippet_of_mindone(folder):
    space = run(MINDONE, folder)
    assert space["image"].size == (12, 12) and space["decoded"].shape == (1, 3, 12, 12)


def test_a_loop_by_hand(folder):
    with pytest.raises(TypeError, match="leave it out"):
        run(BY_HAND, folder, device=', device="cuda"', generator="0")
    space = run(BY_HAND, folder, device="", generator="np.random.default_rng(1)")
    codes = space["sample"].asnumpy()
    assert codes.shape == (1, 36) and len(np.unique(codes)) > 1
