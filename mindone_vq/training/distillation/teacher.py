"""Pictures that a teacher draws, some of every prompt."""

import hashlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from tqdm.auto import tqdm

from mindone_vq.pipelines.text_to_image import VQDiffusionPipeline
from mindone_vq.training.data.dataset import Problems
from mindone_vq.training.devices import Devices
from mindone_vq.training.distillation.settings import DistillationSettings
from mindone_vq.weights.files import atomic_file


@dataclass
class TeacherPictures:
    """What a student is trained on.

    Attributes:
        prompts: one for each picture.
        codes: x_0, (pictures, pixels) int32.
        groups: the indices of each prompt's pictures.
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
    teacher: VQDiffusionPipeline, prompts: Sequence[str], settings: DistillationSettings, weights: str, devices: Devices
) -> TeacherPictures:
    """Pictures by the teacher, from the run's cache as far as they were drawn before: a run that was cut off goes on.

    Pictures that ``settings.accept`` refuses are left out, and so are prompts of which none is left.

    Args:
        teacher: draws.
        prompts: of the pictures.
        settings: of the run.
        weights: the fingerprint of the teacher's: pictures of another one are never taken.
        devices: the first one draws, the others read the files.

    Raises:
        ValueError: no picture is left.
    """
    batch_size, seed = settings.teacher_batch_size, settings.seed
    accept = pkgutil.resolve_name(settings.accept) if settings.accept else None
    wanted = np.repeat(np.arange(len(prompts)), settings.pictures_per_prompt)
    about = prompts, settings.pictures_per_prompt, batch_size, settings.teacher_call, seed, weights, settings.accept
    key = hashlib.sha256(repr(about).encode()).hexdigest()[:16]
    folder = settings.output / "cache" / f"teacher-{key}"
    paths = [folder / f"{i:06d}.npz" for i in range(-(-len(wanted) // batch_size))]

    def draw(i: int) -> None:
        batch = [prompts[j] for j in wanted[i * batch_size : (i + 1) * batch_size]]
        filled = [*batch, *batch[:1] * (batch_size - len(batch))]  # no other batch size is compiled
        rng = np.random.default_rng((seed, i, 3))
        codes = teacher(filled, output_type="latent", generator=rng, **settings.teacher_call)[0]
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
    groups = [np.flatnonzero(wanted == j) for j in np.unique(wanted)]
    return TeacherPictures([prompts[j] for j in wanted], codes, groups, key)
