"""Pairs of where a student starts and where its teacher ends (ReDi, arXiv 2507.15897).

One step of a factorised model draws all codes independently, so what they have in common has to be in x_T, a part of
which are random codes. The teacher draws with random numbers that follow these: code k of K at a pixel stands for a
uniform number between k / K and (k + 1) / K. So its result is a function of x_T wherever x_T has a code, results of
random x_T have the teacher's own distribution, and a student can learn the function.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
from tqdm.auto import tqdm

from mindone_vq.diffusion.samplers import Confidence
from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.training.data.dataset import Problems
from mindone_vq.training.devices import Devices
from mindone_vq.weights.files import atomic_file

HALF = 0.5


@dataclass(frozen=True, eq=False)
class Coupled(Confidence):
    """Confidence sampling whose codes are drawn with given numbers, and whose order has no noise.

    Args:
        uniforms: of each pixel, for the step at which it gets its code: (batch, pixels) float32 in [0, 1).
    """

    temperature: float = 0.0
    uniforms: Optional[np.ndarray] = None

    def draw_uniforms(self, generators: Sequence[np.random.Generator], batch: int, pixels: int) -> np.ndarray:
        return np.stack([self.uniforms, np.full((batch, pixels), HALF, np.float32)])


def coupled_uniforms(x_T: np.ndarray, classes: int, rng: np.random.Generator) -> np.ndarray:
    """Uniform numbers that follow the codes of x_T, and are free where it is masked.

    Args:
        x_T: (batch, pixels) integers, ``classes`` is the mask.
        classes: K, without the mask.
        rng: the random numbers of what x_T leaves open.

    Returns:
        (batch, pixels) float32 in [0, 1).
    """
    free = rng.random(x_T.shape)
    uniforms = np.where(x_T == classes, free, (x_T + free) / classes)
    return np.minimum(uniforms.astype(np.float32), np.nextafter(np.float32(1), np.float32(0)))


@dataclass
class Pairs:
    """What a student is trained on.

    Attributes:
        prompts: one for each pair.
        starts, ends: x_T and x_0, (pairs, pixels).
        key: of the files that they are in.
    """

    prompts: list[str]
    starts: np.ndarray
    ends: np.ndarray
    key: str
    problems: Problems = field(default_factory=Problems)

    def fingerprint(self) -> str:
        """Differs for other pairs."""
        return self.key


def drawn_pairs(
    teacher: VQDiffusionPipeline,
    scheduler: VQDiffusionScheduler,
    prompts: Sequence[str],
    count: int,
    batch_size: int,
    settings: dict[str, Any],
    seed: int,
    weights: str,
    folder: Path,
    devices: Devices,
) -> Pairs:
    """Pairs by the teacher, from ``folder`` as far as they were drawn before: a run that was cut off goes on.

    Args:
        teacher: draws.
        scheduler: of the student, which says what x_T is.
        prompts: are gone through from the beginning, as often as it takes.
        count: of pairs.
        batch_size: pictures that the teacher draws at a time.
        settings: of its calls, without a sampler.
        seed: of the random numbers.
        weights: the fingerprint of the teacher's: pictures of another one are never taken.
        folder: for the files, a batch in each.
        devices: the first one draws, the others read the files.
    """
    classes, pixels = scheduler.mask_class, teacher.transformer.num_latent_pixels
    wanted = [prompts[i % len(prompts)] for i in range(-(-count // batch_size) * batch_size)]
    about = f"{wanted} {sorted(settings.items())} {seed} {batch_size} {scheduler.config} {weights}"
    key = hashlib.sha256(about.encode()).hexdigest()[:16]
    paths = [folder / f"pairs-{key}" / f"{i:06d}.npz" for i in range(len(wanted) // batch_size)]

    def draw(i: int) -> None:
        rng = np.random.default_rng((seed, i, 3))
        x_T = scheduler.initial_codes(batch_size, pixels, rng).asnumpy()
        sampler = Coupled(uniforms=coupled_uniforms(x_T, classes, rng))
        batch = wanted[i * batch_size : (i + 1) * batch_size]
        x_0 = teacher(batch, sampler=sampler, output_type="latent", generator=rng, **settings)[0].asnumpy()
        with atomic_file(paths[i]) as file:
            np.savez(file, starts=x_T.astype(np.uint16), ends=x_0.astype(np.uint16))

    def draw_missing() -> None:
        missing = [i for i, path in enumerate(paths) if not path.is_file()]
        for i in tqdm(missing, desc="The teacher draws", unit="batch", disable=not missing):
            draw(i)

    devices.on_first(draw_missing)
    rows = []
    for path in paths:
        with np.load(path) as held:
            rows.append(np.stack([held["starts"], held["ends"]]))
    starts, ends = np.concatenate(rows, 1)[:, :count].astype(np.int32)
    return Pairs(wanted[:count], starts, ends, key)
