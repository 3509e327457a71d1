"""The denoising step x_t -> x_s, compiled as one graph or layer by layer."""

import functools
import itertools
from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, mutable, nn, ops

from mindone_vq.diffusion.guidance import guide
from mindone_vq.diffusion.options import SamplingOptions
from mindone_vq.diffusion.sample_step import SampleStep
from mindone_vq.diffusion.steps import Step
from mindone_vq.models.denoiser import DiscreteDenoiser
from mindone_vq.nn.device import centres_tokens, compute_dtype, layer_by_layer, steps_in_a_graph
from mindone_vq.nn.linear import Linear, layer_weights
from mindone_vq.nn.normalization import centred_tokens
from mindone_vq.pipelines.compilation import GraphCache
from mindone_vq.pipelines.conditioning import (
    Conditioning,
    Context,
    Contributions,
    LayerConditioning,
    at_timestep,
    unstacked,
)
from mindone_vq.pipelines.layers import Layers
from mindone_vq.pipelines.prepared import NOTHING, PreparedNetwork


class Embedding(nn.Cell):
    """x_t -> the input of the first block, for every condition."""

    def __init__(self, transformer: DiscreteDenoiser, conditions: int) -> None:
        super().__init__(auto_prefix=False)
        self.embedding, self.conditions = transformer.latent_image_embedding, conditions
        self.dtype, self.is_centred = compute_dtype(transformer.dtype), centres_tokens()

    def construct(self, x_t: Tensor) -> Tensor:
        """(batch, pixels) int32 -> (conditions * batch, pixels, dim)."""
        hidden_states = self.embedding(x_t, self.dtype)
        if self.is_centred:
            hidden_states = centred_tokens(hidden_states)
        return ops.concat([hidden_states] * self.conditions, 0) if self.conditions > 1 else hidden_states


class OutputHead(nn.Cell):
    """The output of the last block -> guided logits.

    Guidance is linear in the logits, and the last layer in its input: guiding that takes half the work.
    """

    def __init__(self, transformer: DiscreteDenoiser, conditions: int) -> None:
        super().__init__(auto_prefix=False)
        self.norm_out, self.out, self.conditions = transformer.norm_out, transformer.out, conditions
        self.product, self.is_centred = Linear(), centres_tokens()

    def construct(self, hidden_states: Tensor, guidance_scales: Tensor) -> Tensor:
        """Guidance, and the last layer.

        Args:
            hidden_states: (conditions * batch, pixels, dim), those of the null condition first.
            guidance_scales: (conditions - 1,) float32; not used without guidance.

        Returns:
            (batch, pixels, classes) float32.
        """
        normalized = self.norm_out(hidden_states, is_centred=self.is_centred)
        if self.conditions > 1:
            parts = ops.chunk(normalized.astype(ms.float32), self.conditions, axis=0)
            normalized = guide(parts[0], parts[1:], guidance_scales).astype(hidden_states.dtype)
        return self.product(normalized, layer_weights(self.out)).astype(ms.float32)


def sample_step(transformer: DiscreteDenoiser, sampler_cell: type[nn.Cell], truncation: Optional[str]) -> SampleStep:
    """The ``SampleStep`` for the codes of a network."""
    return SampleStep(sampler_cell, truncation, transformer.num_vector_embeds - 1, transformer.num_latent_pixels)


class DenoisingStep(nn.Cell):
    """x_t -> x_s as one graph."""

    def __init__(
        self,
        transformer: DiscreteDenoiser,
        prepared: PreparedNetwork,
        conditions: int,
        sampler_cell: type[nn.Cell],
        truncation: Optional[str],
        start_timestep: Optional[int] = None,
    ) -> None:
        super().__init__(auto_prefix=False)
        self.embedding, self.head = Embedding(transformer, conditions), OutputHead(transformer, conditions)
        self.blocks, self.layers, self.is_centred = prepared.blocks, prepared.layers, centres_tokens()
        self.sample = sample_step(transformer, sampler_cell, truncation)
        self.start_timestep, self.mask_class = start_timestep, transformer.num_vector_embeds - 1

    def construct(
        self,
        x_t: Tensor,
        timestep: Tensor,
        contributions: Contributions,
        guidance_scales: Tensor,
        truncation_amount: Tensor,
        parameters: Tensor,
        uniforms: Tensor,
        known: Tensor,
    ) -> Tensor:
        """One step.

        Args:
            x_t: (batch, pixels) int32.
            timestep: (1,) int32.
            contributions: the modulations from ``PreparedNetwork``, and from ``Context``.
            guidance_scales: as ``OutputHead`` takes them.
            truncation_amount, parameters, uniforms, known: as ``SampleStep`` takes them.

        Returns:
            (batch, pixels) int32.
        """
        x = self.embedding(x_t)
        modulations, context = at_timestep(contributions[0], timestep, x.shape[-1]), unstacked(contributions[1])
        of_a_layer, keys = len(modulations) // len(self.blocks), len(context) // len(self.blocks)
        for i, block in enumerate(self.blocks):
            own = modulations[i * of_a_layer : (i + 1) * of_a_layer], context[i * keys : (i + 1) * keys]
            x = block.conditioned(x, *own, self.layers[i].weights(), self.is_centred)
        logits = self.head(x, guidance_scales)
        if self.start_timestep is not None:
            x_t = ops.where(timestep == self.start_timestep, ops.full_like(x_t, self.mask_class), x_t)
        return self.sample(logits, x_t, truncation_amount, parameters, uniforms, known)


class DenoisingSteps(nn.Cell):
    """Several steps as one graph: MindSpore takes some milliseconds to begin and to end one."""

    def __init__(self, *arguments: object) -> None:
        super().__init__(auto_prefix=False)
        self.step = DenoisingStep(*arguments)

    def construct(
        self,
        x_t: Tensor,
        count: Tensor,
        timesteps: Tensor,
        contributions: Contributions,
        guidance_scales: Tensor,
        truncation_amount: Tensor,
        parameters: Tensor,
        uniforms: Tensor,
        known: Tensor,
    ) -> Tensor:
        """As ``DenoisingStep``.

        Args:
            count: how many steps to do, (1,) int32.
            timesteps, guidance_scales, parameters, uniforms, known: those of each step along a first axis, at least
                ``count``.
        """
        if timesteps.shape[0] == 1:
            own = parameters.reshape(-1), uniforms.reshape(uniforms.shape[1:]), known.reshape(known.shape[1:])
            return self.step(x_t, timesteps, contributions, guidance_scales.reshape(-1), truncation_amount, *own)
        i = ops.zeros((1,), ms.int32)
        while i < count:
            timestep, scales = ops.gather(timesteps, i, 0), ops.gather(guidance_scales, i, 0).reshape(-1)
            own = ops.gather(parameters, i, 0).reshape(-1), ops.gather(uniforms, i, 0).reshape(uniforms.shape[1:])
            codes = ops.gather(known, i, 0).reshape(known.shape[1:])
            x_t = self.step(x_t, timestep, contributions, scales, truncation_amount, *own, codes)
            i = i + 1
        return x_t


class StepInputs(NamedTuple):
    """What differs from step to step; the steps are the first axis of each. The fields are ``DenoisingStep``'s."""

    timesteps: np.ndarray
    guidance_scales: np.ndarray
    parameters: np.ndarray
    uniforms: np.ndarray
    known: np.ndarray


class Denoiser:
    """The network as a pipeline runs it.

    One graph holds the whole step. On a CPU a large network is run layer by layer instead: one compiled block serves
    every layer, which saves compilation, and memory, because there every matrix product of a graph keeps work buffers
    as large as its inputs for as long as the graph lives.

    Args:
        transformer: the network.
        graphs: the compiled graphs of the pipeline.
        start_timestep: ``VQDiffusionScheduler.start_timestep``.
    """

    def __init__(self, transformer: DiscreteDenoiser, graphs: GraphCache, start_timestep: Optional[int] = None) -> None:
        self.transformer, self.graphs, self.start_timestep = transformer, graphs, start_timestep
        self.blocks = transformer.transformer_blocks
        self.has_condition = self.blocks[0].has_text or self.blocks[0].has_class
        self.by_layer = layer_by_layer(sum(parameter.nbytes for parameter in transformer.get_parameters()))

    @property
    def steps_at_once(self) -> int:
        """How many steps one call of ``step`` does best."""
        return 1 if self.by_layer else steps_in_a_graph()

    def condition(
        self, condition: np.ndarray, null_condition: Optional[np.ndarray] = None, weights: Sequence[float] = ()
    ) -> Conditioning:
        """What the network reads at every step.

        Args:
            condition: text embeddings (batch, length, dim), or classes (batch,); anything (batch,) for a network that
                has no condition. With ``weights``, the first condition of every picture, then the second, ...
            null_condition: of the same shape; None: no guidance.
            weights: of several conditions of each picture.
        """
        count = len(weights) or 1
        conditions = condition.reshape(count, len(condition) // count, *condition.shape[1:])
        if null_condition is not None:
            conditions = np.concatenate((null_condition[None, : conditions.shape[1]], conditions))
            weights = weights or (1.0,)
        dtype = ms.int32 if conditions.dtype.kind in "iu" else compute_dtype(self.transformer.dtype)
        rows = Tensor(conditions.reshape(-1, *conditions.shape[2:]), dtype)  # (conditions * batch, ...)
        if self.by_layer:
            timesteps = Tensor(np.arange(self.transformer.num_timesteps or 1), ms.int32)
            graph, layers = self.graphs.get(LayerConditioning, self.blocks[0], name="conditioning"), self._layers()
            contributions = [graph(rows, timesteps, layers.weights(i)) for i in range(len(self.blocks))]
        else:
            prepared = self._prepared()
            prepared.refresh()
            context = self.graphs.get(Context, prepared, name="context")(rows) if self.has_condition else NOTHING
            contributions = [(prepared.modulations, context)]
        return Conditioning(tuple(mutable(each) for each in contributions), tuple(weights), conditions.shape[1])

    def step(self, conditioning: Conditioning, options: SamplingOptions) -> Callable[..., Tensor]:
        """The denoising step of one call.

        Returns:
            A function of x_t (batch, pixels), a list of ``Step``, at most ``steps_at_once``, the uniforms of each
            (steps, num_uniforms, batch, pixels), and the known codes of each (steps, batch, pixels); it returns x_s.
        """
        make = self._layer_by_layer if self.by_layer else self._whole
        amount = Tensor([options.truncation_amount], ms.float32)
        guided = make(conditioning, options)
        unguided = functools.cache(lambda: make(conditioning.unguided(), options))

        def null_is_unused(step: Step) -> bool:
            return conditioning.weights == (1.0,) and options.guidance_scale_at(step.time) == 1.0

        def denoise(x_t: Tensor, steps: Sequence[Step], uniforms: np.ndarray, known: np.ndarray) -> Tensor:
            for is_unguided, group in itertools.groupby(range(len(steps)), lambda i: null_is_unused(steps[i])):
                own = list(group)
                scales = np.outer(
                    [options.guidance_scale_at(steps[i].time) for i in own], conditioning.weights or (1.0,)
                )
                inputs = StepInputs(
                    np.array([steps[i].timestep for i in own], np.int32),
                    scales.astype(np.float32),
                    np.stack([steps[i].parameters for i in own]),
                    uniforms[own],
                    known[own],
                )
                x_t = (unguided() if is_unguided else guided)(x_t, inputs, amount)
            return x_t

        return denoise

    def _whole(self, conditioning: Conditioning, options: SamplingOptions) -> Callable[..., Tensor]:
        kind = (conditioning.conditions, options.sampler.cell, options.truncation, self.start_timestep)
        graph = self.graphs.get(DenoisingSteps, self.transformer, self._prepared(), *kind, name="denoising step")
        contributions = conditioning.contributions[0]

        def network(x_t: Tensor, steps: StepInputs, amount: Tensor) -> Tensor:
            count, size = Tensor([len(steps.timesteps)], ms.int32), self.steps_at_once
            # repeated up to that size: the graph does the first ``count``
            timesteps, scales, *own = [Tensor(np.resize(each, (size, *each.shape[1:]))) for each in steps]
            return graph(x_t, count, timesteps, contributions, scales, amount, *own)

        return network

    def _layer_by_layer(self, conditioning: Conditioning, options: SamplingOptions) -> Callable[..., Tensor]:
        embedding = self.graphs.get(Embedding, self.transformer, conditioning.conditions, name="embedding")
        head = self.graphs.get(OutputHead, self.transformer, conditioning.conditions, name="output head")
        sample = self.graphs.get(sample_step, self.transformer, options.sampler.cell, options.truncation, name="draw")
        layers = self._layers()

        def network(x_t: Tensor, steps: StepInputs, amount: Tensor) -> Tensor:
            for timestep, scales, *own in zip(*steps):
                x = layers(embedding(x_t), Tensor([timestep], ms.int32), conditioning.contributions)
                logits = head(x, Tensor(scales))
                if timestep == self.start_timestep:
                    x_t = ops.full_like(x_t, self.transformer.num_vector_embeds - 1)
                x_t = sample(logits, x_t, amount, *map(Tensor, own))
            return x_t

        return network

    def _layers(self) -> Layers:
        return Layers(self.blocks, self.transformer.dtype, self.graphs)

    def _prepared(self) -> PreparedNetwork:
        return self.graphs.hold(PreparedNetwork, self.transformer)
