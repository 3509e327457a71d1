"""The checked arguments of a call, its callbacks, and the codes that inpainting holds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
from mindspore import Tensor

from mindone_vq.diffusion.options import SamplingOptions, check_positive_integer
from mindone_vq.diffusion.sampling import Generators
from mindone_vq.diffusion.schedule import CLEAN
from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.diffusion.steps import Step

# (x_t, steps, is_known) -> x_s
Denoise = Callable[[Tensor, Sequence[Step], np.ndarray], Tensor]


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
        return self.generators[0] if len(self.generators) == 1 else self.generators


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

    def apply_known(self, x_s: Tensor, s: float, scheduler: VQDiffusionScheduler, generator: Generators) -> Tensor:
        """x_s with the known codes in their places, as the forward process makes them at timestep s."""
        if not self.is_known.any():
            return x_s
        noisy = self.codes if s == CLEAN else scheduler.add_noise(self.codes, max(round(s), 0), generator).asnumpy()
        return Tensor(np.where(self.is_known, noisy, x_s.asnumpy()).astype(np.int32))

    def around(self, denoise: Denoise, scheduler: VQDiffusionScheduler, generator: Generators) -> Denoise:
        """``denoise`` of one step at a time that holds the known codes, and resamples."""

        def step_with_known(x_t: Tensor, steps: Sequence[Step], is_known: np.ndarray) -> Tensor:
            (step,) = steps
            for left in reversed(range(self.resample)):
                x_s = self.apply_known(denoise(x_t, steps, self.is_known), step.s, scheduler, generator)
                if left:
                    x_t = scheduler.forward_jump(x_s, step.s, step.t, generator)
            return x_s

        return step_with_known
