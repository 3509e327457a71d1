"""The model of shapes on the device, beside what it computed on a CPU in float32: codes, pictures, training steps.

``reference.npz`` was written by ``python tools/write_device_reference.py``.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import mindspore as ms
import numpy as np
from mindspore import Parameter, Tensor, nn

from mindone_vq import VQDiffusionImg2ImgPipeline, VQDiffusionPipeline
from mindone_vq.demo import SHAPES_MODEL
from mindone_vq.device_check.comparison import ADVICE, has, relative_error
from mindone_vq.findings import Checks, Finding
from mindone_vq.nn.configuration import jit
from mindone_vq.pictures import to_uint8
from mindone_vq.training.text_to_image.loss import TextToImageLoss, VariationalLoss
from mindone_vq.training.vqvae.loss import VQVAELoss
from mindone_vq.weights.pretrained import FLOAT_TYPES

REFERENCE = Path(__file__).with_name("reference.npz")
PROMPTS = [
    "a large red circle on a white background",
    "a small blue square above a large yellow ring on a black background",
    "a large green triangle to the left of a small purple cross on a gray background",
    "a small cyan diamond on a white background",
]
STEPS, SEED = 20, 0
# Chosen before any NPU ran it. Codes equal to the reference after one step from the reference's codes; the
# largest difference of a picture in [0, 1], in float32 half a level of 255; losses and gradients (rounding can change
# codes of the VQ-VAE and thereby its gradient: in float16 on a CPU by 0.02).
EQUAL = {"float32": 0.999, "float16": 0.99, "bfloat16": 0.95}
PICTURES = {"float32": 0.5 / 255, "float16": 4 / 255, "bfloat16": 16 / 255}
LOSSES = {"float32": 1e-3, "float16": 5e-2}
LOSS_SCALE = 1024.0  # so that small gradients survive float16


def checks(device: str) -> Checks:
    """Of all types that the device has."""
    result: dict[str, Any] = {}
    for dtype in (each for each in FLOAT_TYPES if has(device, each)):
        result[f"codes {dtype}"] = partial(codes, dtype)
        result[f"pictures {dtype}"] = partial(pictures, dtype)
    result["encoder float32"] = encoder
    for dtype in LOSSES:
        result[f"training step of text to image {dtype}"] = partial(training, "text to image", dtype)
        result[f"training step of the VQ-VAE {dtype}"] = partial(training, "VQ-VAE", dtype)
    return {name: (check, ADVICE) for name, check in result.items()}


def load(dtype: str) -> VQDiffusionPipeline:
    pipe = VQDiffusionPipeline.from_pretrained(SHAPES_MODEL, mindspore_dtype=FLOAT_TYPES[dtype])
    pipe.set_progress_bar_config(disable=True)
    return pipe


def codes(dtype: str) -> Iterator[Finding]:
    """Each step begins at the codes of the reference, so that one difference does not lead to others."""
    expected = stored("codes")  # (steps + 1, batch, pixels)
    shares = []

    def compare(pipe: Any, i: int, timestep: int, values: dict[str, Tensor]) -> dict[str, Tensor]:
        shares.append((values["latents"].asnumpy() == expected[i + 1]).mean())
        return {"latents": Tensor(expected[i + 1], ms.int32)}

    call = dict(num_inference_steps=STEPS, generator=SEED, output_type="latent")
    load(dtype)(PROMPTS, latents=Tensor(expected[0], ms.int32), callback_on_step_end=compare, **call)
    share, limit = float(np.mean(shares)), EQUAL[dtype]
    value = f"{share:.2%} of the codes of {len(shares)} steps are equal, at least {limit:.1%}; worst {min(shares):.2%}"
    wrong = share < limit or len(shares) != STEPS
    numbers = {"equal": share, "worst": float(min(shares)), "limit": limit}
    yield Finding(f"codes {dtype}", value, ADVICE if wrong else "", numbers)


def pictures(dtype: str) -> Iterator[Finding]:
    """Of the reference's codes."""
    images = load(dtype).decode_latents(Tensor(stored("codes")[-1], ms.int32), "np")
    error, limit = float(np.abs(images - stored("pictures")).max()), PICTURES[dtype]
    value = f"differ by at most {255 * error:.2f} levels of 255, allowed {255 * limit:.1f}"
    yield Finding(f"pictures {dtype}", value, "" if error <= limit else ADVICE, {"error": error, "limit": limit})


def encoder() -> Iterator[Finding]:
    """Of the reference's pictures."""
    pipe = VQDiffusionImg2ImgPipeline.from_pipe(load("float32"))
    share = float((pipe.encode_pictures(to_uint8(stored("pictures"))) == stored("encoded")).mean())
    limit = EQUAL["float32"]
    value = f"{share:.2%} of the codes of pictures are equal, at least {limit:.1%}"
    yield Finding("encoder float32", value, "" if share >= limit else ADVICE, {"equal": share, "limit": limit})


def training(model: str, dtype: str) -> Iterator[Finding]:
    """The loss, and the gradient by every parameter."""
    loss, gradients = loss_and_gradients(model, dtype)
    errors = {
        "loss": relative_error(np.asarray(loss), stored(f"{model} loss")),
        "gradients": relative_error(gradients, stored(f"{model} gradients")),
    }
    limit = LOSSES[dtype]
    wrong = not max(errors.values()) <= limit
    value = ", ".join(f"{name}: error {error:.1e}" for name, error in errors.items()) + f", at most {limit:.0e}"
    yield Finding(f"training step of {model} {dtype}", value, ADVICE if wrong else "", {**errors, "limit": limit})


def loss_and_gradients(model: str, dtype: str) -> tuple[float, np.ndarray]:
    """The loss of a batch; and of every parameter's gradient its norm, and its sum with random signs."""
    make = {"text to image": text_to_image_step, "VQ-VAE": vqvae_step}[model]
    loss, parameters, batch = make(load("float32"))
    loss.set_train(True)
    scale = 1.0
    if dtype != "float32":
        ms.amp.auto_mixed_precision(loss, "auto", FLOAT_TYPES[dtype])
        scale = LOSS_SCALE
    run = jit(ms.value_and_grad(ScaledLoss(loss, scale), None, ms.ParameterTuple(parameters)))
    value, gradients = run(*(Tensor(each) for each in batch))
    rng, numbers = np.random.default_rng(SEED), []
    for gradient in gradients:
        array = gradient.astype(ms.float32).asnumpy().astype(np.float64) / scale
        numbers.append((np.linalg.norm(array), (array * rng.choice([-1.0, 1.0], array.shape)).sum()))
    return float(value.asnumpy()) / scale, np.array(numbers)


class ScaledLoss(nn.Cell):
    """The loss alone, without what it reports."""

    def __init__(self, loss: nn.Cell, scale: float) -> None:
        super().__init__(auto_prefix=False)
        self.loss, self.scale = loss, scale

    def construct(self, *batch):
        return self.loss(*batch)[0] * self.scale


def text_to_image_step(pipe: VQDiffusionPipeline) -> tuple[nn.Cell, Sequence[Parameter], Sequence[np.ndarray]]:
    """Loss, parameters and batch."""
    null_text = pipe.learned_classifier_free_sampling_embeddings
    loss = VariationalLoss(pipe.scheduler.schedule)
    cell = TextToImageLoss(pipe.text_encoder, null_text, pipe.transformer, loss, train_text_encoder=True)
    x_0, timesteps = stored("codes")[-1].astype(np.int32), np.array([0, 20, 60, 95], np.int32)
    x_t = pipe.scheduler.add_noise(x_0, timesteps, np.random.default_rng(SEED)).asnumpy()
    probabilities, dropped = np.full(len(x_0), 0.01, np.float32), np.array([False, False, True, False])
    batch = x_0, x_t, timesteps, probabilities, pipe.tokenize(PROMPTS).astype(np.int32), dropped
    parameters = [p for part in (pipe.transformer, null_text, pipe.text_encoder) for p in part.trainable_params()]
    return cell, parameters, batch


def vqvae_step(pipe: VQDiffusionPipeline) -> tuple[nn.Cell, Sequence[Parameter], Sequence[np.ndarray]]:
    """As ``text_to_image_step``. The codebook follows its loss."""
    batch = to_uint8(stored("pictures")).transpose(0, 3, 1, 2), np.float32(1.0)
    return VQVAELoss(pipe.vqvae), pipe.vqvae.trainable_params(), batch


def stored(name: str) -> np.ndarray:
    """An array of the reference."""
    with np.load(REFERENCE) as arrays:
        return arrays[name]
