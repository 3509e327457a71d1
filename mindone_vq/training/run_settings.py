"""The settings that every training run has."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import ImageColor

from mindone_vq.training.settings import REQUIRED, option


@dataclass(frozen=True)
class RunSettings:
    """Settings of every training run; subclasses add their own.

    Raises:
        ValueError: what ``problems`` reports.
    """

    data: str = option(REQUIRED, "an image folder with metadata.jsonl (file_name, text), or MindRecord")
    background: str = option("white", "the colour on which transparent pictures are laid: a name or #rrggbb")
    output: Path = option(Path("outputs/training"), "the folder of the run: model, checkpoints, log, previews")
    steps: int = option(10000, "updates of the weights", minimum=1)
    batch_size: int = option(32, "pictures in an update, over all devices", minimum=1)
    accumulation: int = option(1, "parts an update's batch is cut into, to save memory", minimum=1)
    learning_rate: float = option(3e-4, "after the warm-up", above=0)
    warmup_steps: int = option(100, "steps over which the learning rate rises", minimum=0)
    schedule: Literal["cosine", "constant", "plateau"] = option("cosine", "of the learning rate after the warm-up")
    final_share: float = option(0.01, "least learning rate, relative to its peak", minimum=0, maximum=1)
    plateau_factor: float = option(0.5, "what a plateau multiplies the learning rate by", above=0, maximum=1)
    plateau_patience: int = option(10, "windows without a lower mean loss that make a plateau", minimum=1)
    plateau_window: int = option(100, "steps in such a window", minimum=1)
    beta1: float = option(0.9, "AdamW: decay of the mean gradient", above=0, maximum=0.999999)
    beta2: float = option(0.96, "AdamW: decay of the mean squared gradient", above=0, maximum=0.999999)
    weight_decay: float = option(0.0, "AdamW: decay of matrices", minimum=0)
    clip_norm: float = option(1.0, "largest norm of a gradient; 0: any", minimum=0)
    ema_decay: float = option(0.0, "of averaged weights, which are the result; 0: no average", minimum=0, maximum=1)
    ema_every: int = option(1, "steps between two updates of the average", minimum=1)
    precision: Literal["float32", "float16", "bfloat16"] = option(
        "float32", "of matrix products; float16 with dynamic loss scaling; weights are always float32"
    )
    seed: int = option(0, "of initial weights, order and noise", minimum=0)
    save_every: int = option(500, "steps between checkpoints", minimum=1)
    keep: int = option(3, "checkpoints that are kept", minimum=1)
    log_every: int = option(50, "steps between lines of the log, which hold means", minimum=1)
    preview_every: int = option(1000, "steps between previews, and savings of the model; 0: none", minimum=0)
    profile: str = option("", "folder for a trace, by mindspore.profiler, of the fourth to sixth step; empty: none")
    resume: bool = option(False, "continue the run in --output from its last checkpoint")
    device: Literal["auto", "CPU", "Ascend"] = option("auto", "where to train; auto: what MindSpore chooses")

    def __post_init__(self) -> None:
        problems = self.problems()
        if problems:
            raise ValueError(" ".join(problems))

    def problems(self) -> list[str]:
        """What does not fit together, a sentence each."""
        found = []
        if self.batch_size % self.accumulation:
            found.append(f"accumulation is {self.accumulation}: it must divide batch_size, {self.batch_size}.")
        if self.device == "CPU" and self.precision == "bfloat16":
            found.append("precision is bfloat16, which MindSpore cannot run on a CPU: choose float32.")
        if not _is_opaque(self.background):
            found.append(f"background is {self.background!r}: choose a colour's name or #rrggbb.")
        return found


def _is_opaque(colour: str) -> bool:
    try:
        return len(ImageColor.getrgb(colour)) == 3  # with transparency there are four
    except ValueError:
        return False
