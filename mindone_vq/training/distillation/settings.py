"""Settings of a distillation."""

import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mindone_vq.diffusion.spacing import SPACINGS
from mindone_vq.training.run_settings import RunSettings
from mindone_vq.training.settings import REQUIRED, option


@dataclass(frozen=True)
class DistillationSettings(RunSettings):
    """Settings of ``DistillationTraining``."""

    data: str = option(REQUIRED, "the teacher: a pipeline folder or hub id")
    output: Path = option(Path("outputs/student"), "the folder of the run, and of the student it makes")
    prompts: str = option("", "a file of prompts, one a line or .jsonl, that the teacher draws")
    student_steps: int = option(4, "steps that the student needs", minimum=1)
    student_spacing: Literal[tuple(SPACINGS)] = option("uniform", "of the student's timesteps")
    initial_masked_share: float = option(
        0.6,
        "of the student's x_T; the rest are random codes, by which pictures of a prompt differ",
        minimum=0,
        maximum=1,
    )
    student_truncation_rate: float = option(
        1.0, "of the student: below 1 it keeps to likely codes, and its pictures differ by x_T", above=0, maximum=1
    )
    pictures_per_prompt: int = option(
        128, "that the teacher draws; the more there are, the better x_T tells which one to draw", minimum=1
    )
    teacher_batch_size: int = option(64, "pictures that it draws at a time", minimum=1)
    teacher_steps: int = option(25, "steps that it takes", minimum=1)
    teacher_spacing: Literal[tuple(SPACINGS)] = option("square", "of its timesteps")
    accept: str = option(
        "",
        "package.module:function, which is given prompts and their pictures, and says of each picture whether the "
        "student may see it; empty: all",
    )
    train_text_encoder: bool = option(True, "train the text encoder, too")
    recompute: bool = option(False, "gradient checkpointing: less memory, more time")
    preview_prompts: tuple[str, ...] = option((), "prompts of the previews; none: the first of the file")
    learning_rate: float = option(2e-4, "after the warm-up", above=0)
    ema_decay: float = option(0.999, "of averaged weights, which are the result; 0: no average", minimum=0, maximum=1)

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.prompts:
            found.append("prompts is not given: name a file with a prompt on each line, of the kind the teacher knows.")
        if self.accept:
            try:
                pkgutil.resolve_name(self.accept)
            except (ImportError, AttributeError, ValueError) as error:
                found.append(f"accept is {self.accept!r}: {error}.")
        return found
