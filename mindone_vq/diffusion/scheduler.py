"""VQDiffusionScheduler: the timesteps of the reverse process, and one step of it."""

from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, Union

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindone_vq.diffusion.posterior import by_state, log_posterior
from mindone_vq.diffusion.samplers import Ancestral, Sampler, make_sampler
from mindone_vq.diffusion.sampling import KEPT, Generators, draw_changes, draw_uniforms, make_generators
from mindone_vq.diffusion.schedule import CLEAN, ONE_HOT_FLOOR, TransitionSchedule
from mindone_vq.diffusion.steps import Step, custom_steps, inference_steps
from mindone_vq.outputs import output
from mindone_vq.weights.config import register_to_config
from mindone_vq.weights.pretrained import PretrainedConfig


@output
class VQDiffusionSchedulerOutput(NamedTuple):
    """prev_sample: x_s, (batch, pixels) int32."""

    prev_sample: Tensor


class VQDiffusionScheduler(nn.Cell, PretrainedConfig):
    """The reverse process of VQ-Diffusion (arXiv 2111.14822, section 4.1).

    Fewer steps than the model was trained with are spread over the whole range of timesteps, and every step t -> s uses
    its exact posterior (docs/math.md); as many steps as timesteps give the published process. As part of a graph the
    scheduler is the step of the sampler "ancestral".

    Args:
        num_vec_classes: classes including the mask, which is the last.
        num_train_timesteps: T.
        alpha_cum_start, alpha_cum_end: A_t at t = 0 and t = T - 1.
        gamma_cum_start, gamma_cum_end: C_t at t = 0 and t = T - 1.
        num_start_codes: above 0 in students of a few steps: so many random codes, repeated over the latent pixels, are
            what the network reads at the last timestep in the place of masks. They say which of a prompt's pictures
            to draw, as the latent variable of Di4C does (arXiv 2410.08709).

    Attributes:
        timesteps: (num_inference_steps,) int32, descending; the whole range until ``set_timesteps`` is called.
        init_noise_sigma: 1.0, as every scheduler of diffusers has it; codes are not scaled.
    """

    config_name = "scheduler_config.json"
    order = 1
    init_noise_sigma = 1.0

    @register_to_config
    def __init__(
        self,
        num_vec_classes: int,
        num_train_timesteps: int = 100,
        alpha_cum_start: float = 0.99999,
        alpha_cum_end: float = 0.000009,
        gamma_cum_start: float = 0.000009,
        gamma_cum_end: float = 0.99999,
        num_start_codes: int = 0,
    ) -> None:
        super().__init__()
        if num_start_codes < 0:
            raise ValueError(f"num_start_codes is {num_start_codes}; it must be at least 0.")
        self.num_start_codes = num_start_codes
        if num_vec_classes < 2 or num_train_timesteps < 2:
            raise ValueError(
                "A scheduler needs at least one class beside the mask and two timesteps, given "
                f"num_vec_classes={num_vec_classes}, num_train_timesteps={num_train_timesteps}."
            )
        self.num_embed = num_vec_classes
        self.mask_class = num_vec_classes - 1
        self.num_train_timesteps = num_train_timesteps
        self.schedule = TransitionSchedule.linear(
            self.mask_class, num_train_timesteps, alpha_cum_start, alpha_cum_end, gamma_cum_start, gamma_cum_end
        )
        self.ancestral_step = Ancestral.cell(self.mask_class, pixels=0)
        self.num_inference_steps: Optional[int] = None
        self.sampler: Sampler = Ancestral()
        self._steps = self.steps(num_train_timesteps)
        self._reached: Optional[float] = None  # where the last step ended; see ``_check_order``

    @property
    def compatibles(self) -> list[type]:
        """The classes that take this scheduler's config: as in diffusers, no other."""
        return [VQDiffusionScheduler]

    @property
    def timesteps(self) -> Tensor:
        return Tensor([step.t for step in self._steps], ms.int32)

    def steps(
        self, num_inference_steps: int, sampler: Union[str, Sampler] = "ancestral", spacing: str = "uniform"
    ) -> list[Step]:
        """The steps of a reverse process, the noisiest first; the scheduler does not change.

        Args:
            num_inference_steps: at least 1; more than the timesteps of training only where the sampler is a heuristic.
            sampler: one of ``SAMPLERS`` by name, or a ``Sampler`` with settings of its own.
            spacing: one of ``SPACINGS``.

        Raises:
            TypeError: not an integer; not a sampler.
            ValueError: out of range, or an unknown name.
        """
        return inference_steps(self.schedule, num_inference_steps, make_sampler(sampler), spacing)

    @property
    def start_timestep(self) -> Optional[int]:
        """The timestep at which x_t is start codes, and every pixel counts as masked; None: there is none."""
        return self.num_train_timesteps - 1 if self.num_start_codes else None

    def initial_codes(self, batch: int, pixels: int, generator: Generators = None) -> Tensor:
        """What the network reads first: (batch, pixels) int32, all masked or start codes.

        ``generator`` is what ``add_noise`` takes; it is not used where all are masked.
        """
        if not self.num_start_codes:
            return Tensor(np.full((batch, pixels), self.mask_class, np.int32))
        uniforms = draw_uniforms(make_generators(generator, batch), batch, self.num_start_codes)
        codes = np.floor(uniforms * self.mask_class).astype(np.int32)
        return Tensor(repeated(codes, pixels))

    def set_timesteps(
        self,
        num_inference_steps: Optional[int] = None,
        device: Optional[str] = None,
        timesteps: Optional[Sequence[int]] = None,
        *,
        sampler: Union[str, Sampler] = "ancestral",
        spacing: str = "uniform",
    ) -> None:
        """Chooses the timesteps of ``step``, the last of training first, and how a step is drawn.

        Args:
            num_inference_steps, sampler, spacing: as ``steps`` takes them.
            device: in its place, for code written for diffusers; it must be None.
            timesteps: the timesteps themselves, descending, instead of ``num_inference_steps`` and ``spacing``; the
                last step goes from the last of them to the clean picture.

        Raises:
            TypeError, ValueError: an argument is not what it must be; the message names it.
        """
        if device is not None:
            raise TypeError(
                f"set_timesteps was given device={device!r}: leave it out; the device is chosen with "
                "mindspore.set_device."
            )
        sampler = make_sampler(sampler)
        if timesteps is None:
            steps = self.steps(num_inference_steps, sampler, spacing)
        elif num_inference_steps is not None:
            raise ValueError("give num_inference_steps or timesteps, not both.")
        else:
            steps = custom_steps(self.schedule, timesteps, sampler)
        self.num_inference_steps, self.sampler, self._steps = len(steps), sampler, steps

    def previous_timestep(self, timestep: float) -> float:
        """The timestep after ``timestep`` in the order of ``step``; -1, the clean picture, after the last."""
        return self._step_from(timestep).s

    def _step_from(self, timestep: Union[float, Tensor]) -> Step:
        """The step that begins at a timestep, or at one that is the same for the network."""
        value = float(timestep)
        found = [step for step in self._steps if value in (step.t, step.timestep)]
        if len(found) != 1:
            raise ValueError(
                f"timestep {timestep} is {'not' if not found else 'more than once'} among the timesteps "
                f"{[step.t for step in self._steps]}: see set_timesteps."
            )
        return found[0]

    def construct(self, p_x_0: Tensor, x_t: Tensor, coefficients: Tensor, uniforms: Tensor) -> Tensor:
        """One step of the sampler "ancestral" as part of a graph; what changes from step to step is a tensor.

        Args:
            p_x_0: (batch, pixels, classes) float32, classes last, of any sum.
            x_t: (batch, pixels) int32.
            coefficients: (9,) float32, ``schedule.transition_coefficients(t, s)``.
            uniforms: (batch, pixels) float32 in [0, 1).

        Returns:
            x_s: (batch, pixels) int32.
        """
        return self.ancestral_step(p_x_0, x_t, coefficients, uniforms.expand_dims(0), None)

    def step(
        self,
        model_output: Tensor,
        timestep: Union[int, Tensor],
        sample: Tensor,
        generator: Generators = None,
        return_dict: bool = True,
    ) -> VQDiffusionSchedulerOutput:
        """Draws x_s as the sampler does, s being the next timestep.

        Args:
            model_output: log p(x_0), (batch, classes, pixels).
            timestep: t.
            sample: x_t, (batch, pixels) integers; at the first step what ``initial_codes`` gave.
            generator: numpy generator, seed, or a list of one for each image.
            return_dict: accepted, and changes nothing: see ``mindone_vq.outputs``.

        Raises:
            ValueError: ``timestep`` is not one of ``timesteps``, or some of these were left out.
        """
        step = self._step_from(timestep)
        self._check_order(step)
        batch, pixels = sample.shape
        uniforms = Tensor(self.sampler.draw_uniforms(make_generators(generator, batch), batch, pixels))
        p_x_0 = ops.exp(model_output.astype(ms.float32).transpose(0, 2, 1))  # (batch, pixels, classes)
        cell = self.sampler.cell(self.mask_class, pixels)
        nothing_known, x_t = ops.zeros((batch, pixels), ms.bool_), sample.astype(ms.int32)
        if step.timestep == self.start_timestep:
            x_t = ops.full_like(x_t, self.mask_class)
        prev_sample = cell(p_x_0, x_t, Tensor(step.parameters), uniforms, nothing_known)
        return VQDiffusionSchedulerOutput(prev_sample)

    def _check_order(self, step: Step) -> None:
        """Without ``set_timesteps`` every step goes one timestep back: a caller who leaves some out keeps masks."""
        if self.num_inference_steps is None and self._reached is not None and step.t < self._reached:
            raise ValueError(
                f"this step begins at timestep {step.t}, the one before ended at {self._reached}. To leave timesteps "
                "out, say so first: set_timesteps(num_inference_steps), or set_timesteps(timesteps=[...])."
            )
        self._reached = step.s

    def q_posterior(self, log_p_x_0: Tensor, x_t: Tensor, t: Union[int, Tensor], s: Optional[int] = None) -> Tensor:
        """log p(x_s | x_t) (equation 11).

        Args:
            log_p_x_0: (batch, classes, pixels).
            x_t: (batch, pixels) integers.
            t: timestep of x_t.
            s: an earlier timestep; None: t - 1; -1: x_0 itself.

        Returns:
            (batch, classes + 1, pixels) float32.
        """
        t = self._check_timestep(t)
        s = t - 1 if s is None else int(s)
        if not CLEAN <= s < t:
            raise ValueError(f"s is {s}; it must be between -1 (the clean picture) and t - 1 = {t - 1}.")
        coefficients = Tensor(self.schedule.transition_coefficients(t, s))
        log_p = log_posterior(log_p_x_0.astype(ms.float32).transpose(0, 2, 1), x_t.astype(ms.int32), coefficients)
        return log_p.transpose(0, 2, 1)

    def log_Q_t_transitioning_to_known_class(
        self, *, t: Union[int, Tensor], x_t: Tensor, log_onehot_x_t: Optional[Tensor] = None, cumulative: bool
    ) -> Tensor:
        """Log of the row of the transition matrix that leads to each pixel of x_t (equation 7).

        Args:
            t: timestep.
            x_t: (batch, pixels) integers.
            log_onehot_x_t: accepted, and not used: ``x_t`` has it all.
            cumulative: from x_0 (True) or from x_{t-1} (False).

        Returns:
            log q(x_t | x_0 = k), (batch, classes, pixels), or log q(x_t | x_{t-1} = k) with the mask as k too,
            (batch, classes + 1, pixels).
        """
        t = self._check_timestep(t)
        x_t = x_t.astype(ms.int32)
        values = Tensor(self.schedule.log_rows(t, CLEAN if cumulative else t - 1))
        rows = by_state(x_t, self.mask_class, values[0], values[1], values[2])
        if not cumulative:
            from_mask = ops.where(x_t == self.mask_class, 0.0, float(np.log(ONE_HOT_FLOOR)))
            rows = ops.concat((rows, from_mask.expand_dims(-1)), -1)
        return rows.transpose(0, 2, 1)

    def add_noise(self, x_0: Tensor, t: Union[int, Tensor, np.ndarray], generator: Generators = None) -> Tensor:
        """Draws x_t from q(x_t | x_0) (equation 8).

        Args:
            x_0: (batch, pixels) integers without masks.
            t: one timestep, or one for each image, (batch,).
            generator: numpy generator, seed, or a list of one for each image.

        Returns:
            (batch, pixels) int32.
        """
        codes = x_0.asnumpy() if isinstance(x_0, Tensor) else np.asarray(x_0)
        if codes.ndim != 2 or codes.min(initial=0) < 0 or codes.max(initial=0) >= self.mask_class:
            raise ValueError(
                f"x_0 must be (batch, pixels) of codes 0 to {self.mask_class - 1}; it is {codes.shape}, "
                f"{codes.min(initial=0)} to {codes.max(initial=0)}."
            )
        batch = len(codes)
        t = np.broadcast_to(np.asarray(t.asnumpy() if isinstance(t, Tensor) else t), (batch,))
        if t.min() < 0 or t.max() >= self.num_train_timesteps:
            raise ValueError(f"timesteps go from 0 to {self.num_train_timesteps - 1}, given {t.tolist()}.")
        changes = self._changes(codes.shape, self.schedule.keep[t][:, None], self.schedule.mask[t][:, None], generator)
        return Tensor(np.where(changes == KEPT, codes, changes).astype(np.int32))

    def forward_jump(self, x_s: Tensor, s: float, t: float, generator: Generators = None) -> Tensor:
        """Draws x_t from q(x_t | x_s): back to the noise of an earlier step (equation 7).

        Args:
            x_s: (batch, pixels) integers; masks are kept.
            s, t: timesteps, rounded to whole ones; where these are equal nothing changes. s may be -1.
            generator: as ``add_noise`` takes it.

        Returns:
            (batch, pixels) int32.
        """
        s, t = round(s), round(t)
        if s >= t:
            return x_s
        keep, _, mask = self.schedule.between(t, s)
        changes = Tensor(self._changes(x_s.shape, keep, mask, generator))
        x_s = x_s.astype(ms.int32)
        stays = ops.logical_or(changes == KEPT, x_s == self.mask_class)  # on the device: x_s is not waited for
        return ops.where(stays, x_s, changes)

    def _changes(self, shape: tuple[int, int], keep: Any, mask: Any, generator: Generators) -> np.ndarray:
        return draw_changes(make_generators(generator, shape[0]), *shape, keep, mask, self.mask_class)

    def _check_timestep(self, t: Union[int, Tensor]) -> int:
        t = int(t)
        if not 0 <= t < self.num_train_timesteps:
            raise ValueError(f"timesteps go from 0 to {self.num_train_timesteps - 1}, given {t}.")
        return t


def repeated(codes: np.ndarray, pixels: int) -> np.ndarray:
    """Start codes over a picture, pixel i the (i mod n)th of n: (batch, n) -> (batch, pixels)."""
    return codes[:, np.arange(pixels) % codes.shape[1]]
