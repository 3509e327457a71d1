"""Writes what the model of shapes computes on a CPU in float32, for ``python -m mindone_vq.doctor --check``.

    python tools/write_device_reference.py

Run it again after the model of shapes has changed, or what ``mindone_vq/device_check/model.py`` computes.
"""

import io

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindone_vq import VQDiffusionImg2ImgPipeline
from mindone_vq.device_check import model
from mindone_vq.device_check.model import PROMPTS, REFERENCE, SEED, STEPS
from mindone_vq.pictures import to_uint8
from mindone_vq.weights.files import write_atomically


def write(arrays: dict[str, np.ndarray]) -> None:
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_atomically(REFERENCE, file.getvalue())


def main() -> None:
    ms.set_device("CPU")
    pipe = model.load("float32")
    codes = [np.full((len(PROMPTS), pipe.transformer.num_latent_pixels), pipe.scheduler.mask_class)]

    def keep(i: int, timestep: int, latents: Tensor) -> None:
        codes.append(latents.asnumpy())

    pipe(PROMPTS, num_inference_steps=STEPS, generator=SEED, output_type="latent", callback=keep)
    pictures = pipe.decode_latents(Tensor(codes[-1], ms.int32), "np").astype(np.float16)
    encoded = VQDiffusionImg2ImgPipeline.from_pipe(pipe).encode_pictures(to_uint8(pictures))
    arrays = {"codes": np.stack(codes).astype(np.int16), "pictures": pictures, "encoded": encoded.astype(np.int16)}
    write(arrays)  # the training steps read them
    for name in ("text to image", "VQ-VAE"):
        loss, gradients = model.loss_and_gradients(name, "float32")
        arrays |= {f"{name} loss": np.asarray(loss), f"{name} gradients": gradients}
    write(arrays)
    print(f"{REFERENCE}: {REFERENCE.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
