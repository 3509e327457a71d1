"""How a picture is sampled: the arguments of a call that belong to the diffusion, as one checked object."""

import math
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np

from mindone_vq.diffusion.guidance import GuidanceSchedule, guidance_scale_at
from mindone_vq.diffusion.samplers import Sampler, make_sampler
from mindone_vq.diffusion.spacing import check_spacing


@dataclass(frozen=True)
class SamplingOptions:
    """The fields are documented in ``VQDiffusionPipeline.__call__``.

    Raises:
        TypeError, ValueError: a field is not what it must be; the message names it.
    """

    num_inference_steps: int = 100
    guidance_scale: float = 5.0
    truncation_rate: float = 1.0
    top_k: Optional[int] = None
    sampler: Union[str, Sampler] = "ancestral"
    spacing: str = "uniform"
    guidance_schedule: GuidanceSchedule = "constant"

    def __post_init__(self) -> None:
        check_number(self.guidance_scale, "guidance_scale")
        if self.guidance_scale < 0:
            raise ValueError(f"guidance_scale is {self.guidance_scale}; it must be at least 0. Guidance is on above 1.")
        check_number(self.truncation_rate, "truncation_rate")
        if not 0 < self.truncation_rate <= 1:
            raise ValueError(
                f"truncation_rate is {self.truncation_rate}; it must be above 0 and at most 1 (which keeps all)."
            )
        if self.top_k is not None:
            check_positive_integer(self.top_k, "top_k")
        check_spacing(self.spacing)
        self.guidance_scale_at(1.0)
        object.__setattr__(self, "sampler", make_sampler(self.sampler))

    @property
    def is_guided(self) -> bool:
        return self.guidance_scale > 1

    def guidance_scale_at(self, time: float) -> float:
        """The guidance scale at a step, by its t / T."""
        return guidance_scale_at(self.guidance_schedule, self.guidance_scale, time)

    @property
    def truncation(self) -> Optional[str]:
        """Which of ``truncation.TRUNCATIONS``; None: every class is kept."""
        if self.top_k is not None:
            return "top_k"
        return "rate" if self.truncation_rate < 1 else None

    @property
    def truncation_amount(self) -> float:
        """How much that keeps: the rate, or k."""
        return float(self.truncation_rate if self.top_k is None else self.top_k)


def check_number(value: Any, name: str) -> None:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} is a number, given {value!r}.")
    if not math.isfinite(value):
        raise ValueError(f"{name} is {value}; it must be finite.")


def check_positive_integer(value: Any, name: str) -> None:
    """A count."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} is an integer, given {value!r}.")
    if value < 1:
        raise ValueError(f"{name} is {value}; it must be at least 1.")
