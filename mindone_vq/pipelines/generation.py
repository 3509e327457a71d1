"""From noise to codes: the loop over the steps of a chain, the same for every pipeline."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor

from mindone_vq.diffusion.guidance import GuidanceSchedule, scale_at, top_k
from mindone_vq.diffusion.samplers import Sampler
from mindone_vq.diffusion.samplers.sampler import LEAVE
from mindone_vq.diffusion.sampling import Generators, make_generators
from mindone_vq.diffusion.schedule import CLEAN
from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.models.denoiser import DiscreteDenoiser
from mindone_vq.pipelines.checks import check_latents
from mindone_vq.pipelines.denoising import make_step
from mindone_vq.pipelines.graphs import GraphCache

Callback = Callable[[int, int, Tensor], None]


@dataclass(frozen=True)
class Condition:
    """What the denoiser is told.

    Attributes:
        told: (conditions, batch, ...): where there is guidance, the null condition first.
        weights: of the others in guidance.
        dtype: in the graph.
    """

    told: np.ndarray
    weights: tuple[float, ...]
    dtype: ms.Type

    @classmethod
    def of(
        cls, told: np.ndarray, null: Optional[np.ndarray], dtype: ms.Type, weights: Sequence[float] = ()
    ) -> "Condition":
        """One condition for each picture, or several for all.

        Args:
            told: (batch, ...); with ``weights``, those of the first condition for all pictures, then of the second, ...
            null: what guidance steers away from, of the same shape; None: no guidance.
            dtype: in the graph.
            weights: of several conditions.
        """
        count = len(weights) or 1
        told = told.reshape(count, len(told) // count, *told.shape[1:])
        if null is None:
            return cls(told, (), dtype)
        return cls(np.concatenate((null[None, : told.shape[1]], told)), tuple(weights) or (1.0,), dtype)


@dataclass(frozen=True)
class Call:
    """How a pipeline was asked to go through its chain; the fields are documented in ``VQDiffusionPipeline``."""

    num_inference_steps: int
    guidance_scale: float
    truncation_rate: float
    generator: Generators
    latents: Union[Tensor, np.ndarray, None]
    callback: Optional[Callback]
    callback_steps: int
    callback_on_step_end: Optional[Callable[..., Optional[dict]]]
    sampler: Union[str, Sampler] = "ancestral"
    spacing: str = "uniform"
    top_k: Optional[int] = None
    guidance_schedule: GuidanceSchedule = "constant"

    def start(
        self, scheduler: VQDiffusionScheduler, transformer: DiscreteDenoiser, batch: int
    ) -> tuple[list[np.random.Generator], Tensor]:
        """Checks everything and tells the scheduler its timesteps: to be called before any work.

        Returns:
            The generators, and x_T (batch, pixels) int32.

        Raises:
            TypeError, ValueError: an argument is not what it must be; the message names it.
        """
        scheduler.set_timesteps(self.num_inference_steps, sampler=self.sampler, spacing=self.spacing)
        scale_at(self.guidance_schedule, self.guidance_scale, 1.0)
        for name in ("callback", "callback_on_step_end"):
            if getattr(self, name) is not None and not callable(getattr(self, name)):
                raise TypeError(f"{name} is a function, given {getattr(self, name)!r}.")
        x_t = check_latents(self.latents, (batch, transformer.num_latent_pixels), transformer.num_vector_embeds)
        return make_generators(self.generator, batch), x_t


@dataclass(frozen=True)
class Edit:
    """What is kept of pictures that are there already.

    Attributes:
        codes: theirs, (batch, pixels).
        known: (batch, pixels) booleans: which of the codes stay.
        strength: which part of the chain is gone through; 1: all of it, from noise.
        resample: how often each step is done, with the forward process between (arXiv 2201.09865, section 4.2).
    """

    codes: np.ndarray
    known: np.ndarray
    strength: float = 1.0
    resample: int = 1

    def for_batch(self, batch: int) -> "Edit":
        """The same for ``batch`` pictures, where there is one of all or one of each."""
        codes, known = (np.broadcast_to(each, (batch, each.shape[1])) for each in (self.codes, self.known))
        return replace(self, codes=codes, known=known)

    def start(self, scheduler: VQDiffusionScheduler, chain: list, noise: Tensor, generator: Generators) -> Tensor:
        """x_t before the first step: noise, or the codes as noisy as the chain begins."""
        if self.strength == 1:
            return self.hold(scheduler, noise, scheduler.num_train_timesteps - 1, generator)
        if not chain:
            return Tensor(self.codes, ms.int32)
        return scheduler.add_noise(self.codes, chain[0][0], generator)

    def leave_known(self, uniforms: np.ndarray) -> np.ndarray:
        """What a sampler takes, so that one which counts pixels does not count the known ones."""
        if uniforms.ndim == 3:
            uniforms[0][self.known] = LEAVE
        return uniforms

    def hold(self, scheduler: VQDiffusionScheduler, x_s: Tensor, s: float, generator: Generators) -> Tensor:
        """x_s with the known codes in their places, as the forward process would have made them."""
        if not self.known.any():
            return x_s
        known = self.codes if s == CLEAN else scheduler.add_noise(self.codes, max(round(s), 0), generator).asnumpy()
        return Tensor(np.where(self.known, known, x_s.asnumpy()).astype(np.int32))


def generate_codes(
    pipe: Any,
    graphs: GraphCache,
    transformer: DiscreteDenoiser,
    scheduler: VQDiffusionScheduler,
    condition: Condition,
    call: Call,
    start: tuple[list[np.random.Generator], Tensor],
    progress: Callable[[Iterable], Iterable],
    edit: Optional[Edit] = None,
) -> Tensor:
    """The reverse process, from all masked, or from ``call.latents``, or from what ``edit`` says.

    Args:
        pipe: what callbacks get.
        graphs: where compiled graphs are kept.
        transformer, scheduler: the network and the chain.
        condition, call, edit: what is asked for.
        start: from ``call.start``.
        progress: goes through the steps, and shows it.

    Returns:
        (batch, pixels) int32.
    """
    conditions, batch = condition.told.shape[:2]
    shape, classes = (batch, transformer.num_latent_pixels), transformer.num_vector_embeds
    generators, x_t = start
    generator = generators[0] if len(generators) == 1 else generators  # for what is drawn outside of the sampler
    chain = list(scheduler.steps())
    if edit is not None:
        edit = edit.for_batch(batch)
        chain = chain[len(chain) - round(edit.strength * len(chain)) :]
        x_t = edit.start(scheduler, chain, x_t, generator)
    told = Tensor(condition.told.reshape(conditions * batch, *condition.told.shape[2:]), condition.dtype)
    step = make_step(graphs, transformer, scheduler.sampler.cell, conditions, told)
    kept = Tensor([call.truncation_rate if call.top_k is None else top_k(call.top_k)], ms.float32)
    for i, (t, s, numbers) in enumerate(progress(chain)):
        scale = scale_at(call.guidance_schedule, call.guidance_scale, t / scheduler.num_train_timesteps)
        scales = Tensor([scale * weight for weight in condition.weights] or [scale], ms.float32)
        for left in reversed(range(edit.resample if edit is not None else 1)):
            uniforms = scheduler.sampler.draw_uniforms(generators, *shape)
            if edit is not None:
                uniforms = edit.leave_known(uniforms)
            x_s = step(x_t, t, numbers, scales, kept, Tensor(uniforms))
            if edit is not None:
                x_s = edit.hold(scheduler, x_s, s, generator)
            if left:
                x_t = scheduler.renoise(x_s, s, t, generator)
        x_t = x_s
        if call.callback_on_step_end is not None:
            changed = call.callback_on_step_end(pipe, i, t, {"latents": x_t}) or {}
            if "latents" in changed:
                x_t = check_latents(changed["latents"], shape, classes)
        if call.callback is not None and i % call.callback_steps == 0:
            call.callback(i, t, x_t)
    return x_t
