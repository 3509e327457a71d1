"""The graphs of a pipeline: prompt to embeddings, one denoising step, codes to pictures (denoising.py has more).

Everything that changes from call to call is a tensor argument, so that only another shape, another network or
guidance switched on or off compiles again.
"""

import logging
import time
import weakref
from typing import Any, Optional

import mindspore as ms
from mindspore import Parameter, Tensor, nn, ops

from mindone_vq.diffusion.guidance import guide, probabilities, stays
from mindone_vq.models.denoiser import DiscreteDenoiser
from mindone_vq.models.vq_model import VQModel
from mindone_vq.nn.device import on_cpu
from mindone_vq.text.clip import CLIPTextModel

logger = logging.getLogger("mindone_vq")


class TextEncoding(nn.Cell):
    """Token ids -> the last hidden state, float32."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__(auto_prefix=False)
        self.text_encoder = text_encoder

    def construct(self, input_ids: Tensor) -> Tensor:
        """(batch, length) integers -> (batch, length, hidden_size)."""
        return self.text_encoder(input_ids)[0].astype(ms.float32)


class Finish(nn.Cell):
    """What the last block gives, and x_t -> x_s: last layer, guidance, truncation, posterior and draw.

    Guidance is linear in the logits, and the last layer in its input: guiding that takes half the work.

    Args:
        transformer: the denoiser.
        sampler_cell: of a ``Sampler``.
        conditions: each picture has so many, the null condition among them; 1: no guidance.
    """

    def __init__(self, transformer: DiscreteDenoiser, sampler_cell: type[nn.Cell], conditions: int) -> None:
        super().__init__(auto_prefix=False)
        self.norm_out, self.out, self.conditions = transformer.norm_out, transformer.out, conditions
        self.draw = Draw(sampler_cell(transformer.num_vector_embeds - 1, transformer.num_latent_pixels))

    def construct(
        self,
        hidden_states: Tensor,
        x_t: Tensor,
        jump: Tensor,
        guidance_scale: Tensor,
        truncation_rate: Tensor,
        uniforms: Tensor,
    ) -> Tensor:
        """The end of a step.

        Args:
            hidden_states: (conditions * batch, pixels, dim), those of the null condition first.
            x_t: (batch, pixels) int32.
            jump: the sampler's numbers for this step.
            guidance_scale: (conditions - 1,) float32; (1,) and not looked at without guidance.
            truncation_rate: (1,) float32, as ``stays`` takes it.
            uniforms: as the sampler takes them.

        Returns:
            (batch, pixels) int32.
        """
        normalized = self.norm_out(hidden_states)
        if self.conditions > 1:
            parts = ops.chunk(normalized.astype(ms.float32), self.conditions, axis=0)
            normalized = guide(parts[0], parts[1:], guidance_scale).astype(hidden_states.dtype)
        return self.draw(self.out(normalized).astype(ms.float32), x_t, jump, truncation_rate, uniforms)


class Draw(nn.Cell):
    """Truncation, and the sampler's step."""

    def __init__(self, step: nn.Cell) -> None:
        super().__init__(auto_prefix=False)
        self.step = step

    def construct(self, logits: Tensor, x_t: Tensor, jump: Tensor, truncation_rate: Tensor, uniforms: Tensor) -> Tensor:
        """logits: (batch, pixels, classes) float32; the others, and what it returns, as in ``Finish``."""
        p_x_0 = probabilities(logits)
        p_x_0 = p_x_0 * stays(p_x_0, truncation_rate).astype(ms.float32)
        return self.step(p_x_0, x_t, jump, uniforms)


class DenoisingStep(nn.Cell):
    """x_t -> x_s for any denoiser, as one graph."""

    def __init__(self, transformer: DiscreteDenoiser, sampler_cell: type[nn.Cell], conditions: int) -> None:
        super().__init__(auto_prefix=False)
        self.transformer, self.conditions = transformer, conditions
        self.finish = Finish(transformer, sampler_cell, conditions)

    def construct(
        self,
        x_t: Tensor,
        timestep: Tensor,
        condition: Tensor,
        jump: Tensor,
        guidance_scale: Tensor,
        truncation_rate: Tensor,
        uniforms: Tensor,
    ) -> Tensor:
        """One step.

        Args:
            x_t: (batch, pixels) int32.
            timestep: (1,) int32.
            condition: text embeddings (batch, length, dim), or classes (batch,), or any tensor for a denoiser that
                takes none; for every condition one after the other, the null condition first.
            jump, guidance_scale, truncation_rate, uniforms: as ``Finish`` takes them.

        Returns:
            (batch, pixels) int32.
        """
        network_input = ops.tile(x_t, (self.conditions, 1))
        timesteps = timestep.broadcast_to((network_input.shape[0],))
        hidden_states = self.transformer.hidden_states(network_input, condition, timesteps)
        return self.finish(hidden_states, x_t, jump, guidance_scale, truncation_rate, uniforms)


class CodeDecoding(nn.Cell):
    """Codes -> pictures."""

    def __init__(self, vqvae: VQModel, height: int, width: int) -> None:
        super().__init__(auto_prefix=False)
        self.vqvae, self.height, self.width = vqvae, height, width

    def construct(self, codes: Tensor) -> Tensor:
        """(batch, pixels) int32 -> (batch, H, W, channels) float32 in [0, 1]."""
        grid = codes.reshape(-1, self.height, self.width)
        return self.vqvae.decode_codes(grid).transpose(0, 2, 3, 1)


class PictureEncoding(nn.Cell):
    """Pictures -> codes."""

    def __init__(self, vqvae: VQModel) -> None:
        super().__init__(auto_prefix=False)
        self.vqvae = vqvae

    def construct(self, pictures: Tensor) -> Tensor:
        """(batch, 3, H, W) uint8 -> (batch, pixels) int32."""
        latents = self.vqvae.encode(pictures.astype(ms.float32) / 127.5 - 1.0)[0]
        codes = self.vqvae.quantize.nearest(latents.transpose(0, 2, 3, 1))  # (batch, h, w)
        return codes.reshape(codes.shape[0], -1)


class ParameterMemory:
    """Where graphs read each parameter: the memory that it had when a graph first ran with it.

    A compiled graph does not notice that ``Parameter.set_data`` or ``load_param_into_net`` gave a parameter other
    memory; so values that lie elsewhere are copied to where graphs read them.
    """

    def __init__(self) -> None:
        self._held: dict[int, tuple[weakref.ref, Tensor]] = {}

    def of(self, parameter: Parameter) -> Optional[Tensor]:
        """A tensor in that memory; None where no graph has read the parameter as it is, with its type and shape."""
        reference, memory = self._held.get(id(parameter), (lambda: None, None))
        fits = reference() is parameter and (memory.dtype, memory.shape) == (parameter.dtype, parameter.shape)
        return memory if fits else None

    def after_running(self, parameter: Parameter) -> Tensor:
        """``of``, now that a graph ran with ``parameter``."""
        if self.of(parameter) is None:
            key = id(parameter)
            reference = weakref.ref(parameter, lambda _: self._held.pop(key, None))
            self._held[key] = reference, Tensor(parameter)  # which shares the parameter's memory
        return self._held[id(parameter)][1]

    def before_running(self, parameter: Parameter) -> None:
        """Brings the values of ``parameter`` to where graphs read it."""
        memory = self.of(parameter)
        if memory is not None and memory.data_ptr() != parameter.data_ptr():
            memory.copy_(parameter)
            parameter.set_data(memory)


MEMORY = ParameterMemory()


class CompiledGraph:
    """A cell compiled whole, which says so when it has to compile.

    Args:
        cell: its construct takes tensors only.
        name: for the message.
    """

    def __init__(self, cell: nn.Cell, name: str) -> None:
        if on_cpu() and any(p.dtype == ms.bfloat16 for p in cell.get_parameters()):
            raise ValueError(f"The {name} has bfloat16 weights, which MindSpore cannot run on a CPU: use float32.")
        self.cell, self.name = cell.set_train(False), name
        self._run = ms.jit(cell, fullgraph=True)
        self._known: set[Any] = set()
        self._read: list[tuple[Parameter, Tensor]] = []  # the parameters, and the memory in which it reads them
        # On a CPU a thread that calls the next graph before this one has ended spins until then, on a core that this
        # one needs, which then takes up to twice as long.
        self._waits = on_cpu()

    def __call__(self, *tensors: Tensor) -> Any:
        signature = tuple((tensor.shape, tensor.dtype) for tensor in tensors)
        if signature in self._known:
            output = self._run(*tensors)
            if self._waits:
                _wait_for(output)
            return output
        logger.info("Compiling the %s for batch %d ...", self.name, tensors[0].shape[0])
        start = time.perf_counter()
        output = self._run(*tensors)
        _wait_for(output)
        self._known.add(signature)
        self._read = [(parameter, MEMORY.after_running(parameter)) for parameter in self.cell.get_parameters()]
        logger.info("Compiled the %s and ran it once in %.1f s.", self.name, time.perf_counter() - start)
        return output

    def is_outdated(self) -> bool:
        """Whether the cell has other parameters now, or of other types and shapes; their values may have changed."""
        if not self._known:
            return False
        now = list(self.cell.get_parameters())
        return len(now) != len(self._read) or any(
            parameter is not before or MEMORY.of(parameter) is not memory
            for parameter, (before, memory) in zip(now, self._read)
        )


def _wait_for(output: Any) -> None:
    (output if isinstance(output, Tensor) else output[0]).asnumpy()


class GraphCache:
    """The graphs of a pipeline, made when first needed, and again when a component or a parameter was exchanged."""

    def __init__(self) -> None:
        self._graphs: dict[Any, tuple[tuple, CompiledGraph]] = {}

    def get(self, kind: type, *arguments: Any, name: str) -> CompiledGraph:
        """The compiled ``kind(*arguments)``.

        It is the same one as long as the arguments are the same objects, and their parameters are the same objects of
        the same types and shapes; the values of these may change.
        """
        key = (kind, *(argument for argument in arguments if isinstance(argument, (int, type))))
        held: Optional[tuple[tuple, CompiledGraph]] = self._graphs.get(key)
        if held is None or not _same(held[0], arguments) or held[1].is_outdated():
            held = (arguments, CompiledGraph(kind(*arguments), name))
            self._graphs[key] = held
        for parameter in held[1].cell.get_parameters():
            MEMORY.before_running(parameter)
        return held[1]


def _same(before: tuple, now: tuple) -> bool:
    return all(a is b for a, b in zip(before, now) if not isinstance(a, (int, type)))
