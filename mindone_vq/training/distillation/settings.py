"""Settings of a distillation."""

import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mindone_vq.diffusion.options import SamplingOptions
from mindone_vq.diffusion.samplers import SAMPLERS
from mindone_vq.diffusion.spacing import SPACINGS
from mindone_vq.training.run_settings import RunSettings
from mindone_vq.training.settings import REQUIRED, option

TEACHER_CALL = {"num_inference_steps": 25, "spacing": "square"}


@dataclass(frozen=True)
class DistillationSettings(RunSettings):
    """Settings of ``DistillationTraining``."""

    data: str = option(REQUIRED, "the teacher: a pipeline folder or hub id")
    output: Path = option(Path("outputs/student"), "the folder of the run, and of the student it makes")
    prompts: str = option("", "a file of prompts, one a line or .jsonl, that the teacher draws")
    student_steps: int = option(4, "steps of the student's calls", minimum=1)
    student_sampler: Literal[tuple(SAMPLERS)] = option("confidence", "of the student's calls")
    student_spacing: Literal[tuple(SPACINGS)] = option("masked", "of their timesteps")
    student_truncation_rate: float = option(1.0, "of the student's calls", above=0, maximum=1)
    start_codes: int = option(
        1, "random codes that the student starts from; more of them tell more pictures of a prompt apart", minimum=1
    )
    start_share: float = option(0.5, "of a batch: pictures to be drawn from start codes", above=0, maximum=1)
    assign_every: int = option(
        20, "steps after which the pictures of the next prompts are assigned to start codes", minimum=1
    )
    assignment_balance: float = option(
        20.0, "nats: the more, the more equally often the pictures of a prompt are assigned to starts", above=0
    )
    pictures_per_prompt: int = option(
        64, "that the teacher draws; all of a prompt are assigned together, in a batch of as many", minimum=1
    )
    teacher_batch_size: int = option(64, "pictures that it draws at a time", minimum=1)
    teacher_call: dict[str, Any] = option(
        TEACHER_CALL, "arguments of the teacher's calls; others as its model has them"
    )
    accept: str = option(
        "",
        "package.module:function, which is given prompts and their pictures, and says of each picture whether the "
        "student may see it; empty: all",
    )
    train_text_encoder: bool = option(True, "train the text encoder, too")
    recompute: bool = option(False, "gradient checkpointing: less memory, more time")
    preview_prompts: tuple[str, ...] = option((), "prompts of the previews; none: the first of the file")
    learning_rate: float = option(2e-4, "after the warm-up", above=0)
    ema_decay: float = option(0.99, "of averaged weights, which are the result; 0: no average", minimum=0, maximum=1)

    def problems(self) -> list[str]:
        found = super().problems()
        if not self.prompts:
            found.append("prompts is not given: name a file with a prompt on each line, of the kind the teacher knows.")
        if self.accept:
            try:
                pkgutil.resolve_name(self.accept)
            except (ImportError, AttributeError, ValueError) as error:
                found.append(f"accept is {self.accept!r}: {error}.")
        try:
            SamplingOptions(**self.teacher_call)
        except (TypeError, ValueError) as error:
            found.append(f"teacher_call is {self.teacher_call}: {error}")
        return found
