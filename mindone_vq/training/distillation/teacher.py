"""Pictures that a teacher draws, some of every prompt."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.training.data.dataset import Problems
from mindone_vq.training.devices import Devices
from mindone_vq.weights.files import atomic_file

Accept = Callable[[Sequence[str], Sequence[Image.Image]], Sequence[bool]]
"""Which of the teacher's pictures, each with its prompt, a student may see."""


@dataclass
class TeacherPictures:
    """What a student is trained on.

    Attributes:
        prompts: one for each picture; those of one prompt follow each other.
        codes: x_0, (pictures, pixels) int32.
        groups: for each picture, which ones are of its prompt.
        key: of the files that they are in.
    """

    prompts: list[str]
    codes: np.ndarray
    groups: list[np.ndarray]
    key: str
    problems: Problems = field(default_factory=Problems)

    def fingerprint(self) -> str:
        """Differs for other pictures."""
        return self.key


def drawn_pictures(
    teacher: VQDiffusionPipeline,
    prompts: Sequence[str],
    per_prompt: int,
    batch_size: int,
    settings: dict[str, Any],
    seed: int,
    weights: str,
    folder: Path,
    devices: Devices,
    accept: Optional[Accept] = None,
) -> TeacherPictures:
    """Pictures by the teacher, from ``folder`` as far as they were drawn before: a run that was cut off goes on.

    Args:
        teacher: draws.
        prompts: of the pictures.
        per_prompt: pictures of each.
        batch_size: pictures drawn at a time.
        settings: of the teacher's calls.
        seed: of the random numbers.
        weights: the fingerprint of the teacher's: pictures of another one are never taken.
        folder: for the files, a batch in each.
        devices: the first one draws, the others read the files.
        accept: leaves pictures out; a prompt of which none is left is left out, too.

    Raises:
        ValueError: no picture is left.
    """
    wanted = np.repeat(np.arange(len(prompts)), per_prompt)
    about = f"{prompts} {per_prompt} {batch_size} {sorted(settings.items())} {seed} {weights}"
    about += f" {accept.__module__}.{accept.__qualname__}" if accept else ""
    key = hashlib.sha256(about.encode()).hexdigest()[:16]
    paths = [folder / f"teacher-{key}" / f"{i:06d}.npz" for i in range(-(-len(wanted) // batch_size))]

    def draw(i: int) -> None:
        batch = [prompts[j] for j in wanted[i * batch_size : (i + 1) * batch_size]]
        filled = [*batch, *batch[:1] * (batch_size - len(batch))]  # no other batch size is compiled
        rng = np.random.default_rng((seed, i, 3))
        codes = teacher(filled, output_type="latent", generator=rng, **settings)[0]
        accepted = accept(filled, teacher.decode_latents(codes)) if accept else np.ones(len(filled), bool)
        with atomic_file(paths[i]) as file:
            kept = slice(len(batch))
            np.savez(file, codes=codes.asnumpy()[kept].astype(np.uint16), accepted=np.array(accepted)[kept])

    def draw_missing() -> None:
        missing = [i for i, path in enumerate(paths) if not path.is_file()]
        for i in tqdm(missing, desc="The teacher draws", unit="batch", disable=not missing):
            draw(i)

    devices.on_first(draw_missing)
    codes, accepted = [], []
    for path in paths:
        with np.load(path) as held:
            codes.append(held["codes"])
            accepted.append(held["accepted"])
    accepted = np.concatenate(accepted)
    if not accepted.any():
        raise ValueError("none of the teacher's pictures was accepted: there is nothing to learn from.")
    codes, wanted = np.concatenate(codes)[accepted].astype(np.int32), wanted[accepted]
    members = {j: np.flatnonzero(wanted == j) for j in np.unique(wanted)}
    return TeacherPictures([prompts[j] for j in wanted], codes, [members[j] for j in wanted], key)
