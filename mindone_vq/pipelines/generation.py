"""The checked arguments of a call, its callbacks, and the codes that inpainting holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from mindspore import Tensor

from mindone_vq.diffusion.options import SamplingOptions, check_positive_integer
from mindone_vq.diffusion.sample_step import UNKNOWN
from mindone_vq.diffusion.sampling import Generators, as_argument
from mindone_vq.diffusion.schedule import CLEAN
from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.diffusion.steps import Step

# (x_t, steps) -> x_s
Denoise = Callable[[Tensor, Sequence[Step]], Tensor]


@dataclass(frozen=True)
class Callbacks:
    """What a call runs after each step; the fields are documented in ``VQDiffusionPipeline.__call__``."""

    callback: Optional[Callable[[int, int, Tensor], None]] = None
    callback_steps: int = 1
    callback_on_step_end: Optional[Callable[..., Optional[dict]]] = None

    def __post_init__(self) -> None:
        check_positive_integer(self.callback_steps, "callback_steps")
        for name in ("callback", "callback_on_step_end"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise TypeError(f"{name} is a function, given {getattr(self, name)!r}.")

    @property
    def are_given(self) -> bool:
        return self.callback is not None or self.callback_on_step_end is not None

    def replaced(self, pipe: Any, i: int, timestep: int, x_t: Tensor) -> Any:
        """The "latents" that ``callback_on_step_end`` returned; None where it returned none."""
        if self.callback_on_step_end is None:
            return None
        return (self.callback_on_step_end(pipe, i, timestep, {"latents": x_t}) or {}).get("latents")

    def notify(self, i: int, timestep: int, x_t: Tensor) -> None:
        if self.callback is not None and i % self.callback_steps == 0:
            self.callback(i, timestep, x_t)


@dataclass(frozen=True)
class Call:
    """The arguments that every pipeline has, checked before any work.

    Attributes:
        options: how to sample.
        steps: of the reverse process, the noisiest first.
        x_T: codes to start from, (batch, pixels) int32.
        generators: one for the batch, or one for each picture.
        callbacks: run after each step.
        output_type: "pil", "np" or "latent".
    """

    options: SamplingOptions
    steps: Sequence[Step]
    x_T: Tensor
    generators: list[np.random.Generator]
    callbacks: Callbacks
    output_type: str

    @property
    def batch(self) -> int:
        return self.x_T.shape[0]

    @property
    def generator(self) -> Generators:
        """The generators as the scheduler's methods take them."""
        return as_argument(self.generators)


@dataclass(frozen=True)
class KnownCodes:
    """Codes of a picture that are held in their places while the others are painted.

    Attributes:
        codes: (batch, pixels) integers.
        is_known: (batch, pixels) booleans: which of them are held.
        resample: how often each step is done, with the forward process between (arXiv 2201.09865, section 4.2).
    """

    codes: np.ndarray
    is_known: np.ndarray
    resample: int = 1

    @staticmethod
    def nothing(shape: tuple[int, ...]) -> "KnownCodes":
        """No code of (batch, pixels) is held."""
        return KnownCodes(np.zeros(shape, np.int32), np.zeros(shape, bool))

    def at(self, s: float, scheduler: VQDiffusionScheduler, generator: Generators) -> np.ndarray:
        """The held codes as the forward process makes them at timestep s, ``UNKNOWN`` elsewhere: (batch, pixels)."""
        codes = self.codes
        if s != CLEAN and self.is_known.any():
            codes = scheduler.add_noise(codes, max(round(s), 0), generator).asnumpy()
        return np.where(self.is_known, codes, UNKNOWN).astype(np.int32)

    def resampling(self, denoise: Denoise, scheduler: VQDiffusionScheduler, generator: Generators) -> Denoise:
        """``denoise``, one step at a time, each as often as ``resample`` says."""

        def denoise_again(x_t: Tensor, steps: Sequence[Step]) -> Tensor:
            (step,) = steps
            x_s = denoise(x_t, steps)
            for _ in range(self.resample - 1):
                x_s = denoise(scheduler.forward_jump(x_s, step.s, step.t, generator), steps)
            return x_s

        return denoise_again
