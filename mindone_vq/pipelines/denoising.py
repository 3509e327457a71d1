"""The denoising step x_t -> x_s, compiled as one graph or layer by layer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

import mindspore as ms
import numpy as np
from mindspore import Tensor, mutable, nn, ops

from mindone_vq.diffusion.guidance import guidance_scale_at, guide
from mindone_vq.diffusion.options import SamplingOptions
from mindone_vq.diffusion.sample_step import SampleStep
from mindone_vq.diffusion.steps import Step
from mindone_vq.models.denoiser import DiscreteDenoiser
from mindone_vq.nn.device import groups_of_heads, layer_by_layer
from mindone_vq.nn.linear import Weights
from mindone_vq.nn.transformer_block import BasicTransformerBlock, HeadGroup
from mindone_vq.pipelines.compilation import GraphCache

Tensors = tuple[Tensor, ...]
LayerInputs = tuple[Tensors, Tensors]  # what ``modulations`` of a block, at every timestep, and its ``context`` give


@dataclass(frozen=True)
class Conditioning:
    """What the network reads at every step of a call, computed once.

    Attributes:
        layers: one for each block.
        weights: of the conditions in guidance; empty where there is no guidance. With guidance the null condition comes
            first in ``layers``.
    """

    layers: tuple[LayerInputs, ...]
    weights: tuple[float, ...]

    @property
    def conditions(self) -> int:
        """How many each picture has, the null condition among them."""
        return len(self.weights) + 1


class LayerConditioning(nn.Cell):
    """What the timesteps and the condition contribute to one block."""

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__(auto_prefix=False)
        self.block = block

    def construct(self, condition: Tensor, timesteps: Tensor, weights: Weights) -> LayerInputs:
        """condition: as ``context`` of the block takes it; timesteps: (T,); weights: of any block of the network."""
        return self.block.modulations(timesteps, weights), self.block.context(condition, weights)


class Embedding(nn.Cell):
    """x_t -> the input of the first block, for every condition."""

    def __init__(self, transformer: DiscreteDenoiser, conditions: int) -> None:
        super().__init__(auto_prefix=False)
        self.embedding, self.conditions = transformer.latent_image_embedding, conditions

    def construct(self, x_t: Tensor) -> Tensor:
        """(batch, pixels) int32 -> (conditions * batch, pixels, dim)."""
        hidden_states = self.embedding(x_t)
        return ops.concat([hidden_states] * self.conditions, 0) if self.conditions > 1 else hidden_states


class OutputHead(nn.Cell):
    """The output of the last block -> guided logits.

    Guidance is linear in the logits, and the last layer in its input: guiding that takes half the work.
    """

    def __init__(self, transformer: DiscreteDenoiser, conditions: int) -> None:
        super().__init__(auto_prefix=False)
        self.norm_out, self.out, self.conditions = transformer.norm_out, transformer.out, conditions

    def construct(self, hidden_states: Tensor, guidance_scales: Tensor) -> Tensor:
        """Guidance, and the last layer.

        Args:
            hidden_states: (conditions * batch, pixels, dim), those of the null condition first.
            guidance_scales: (conditions - 1,) float32; not used without guidance.

        Returns:
            (batch, pixels, classes) float32.
        """
        normalized = self.norm_out(hidden_states)
        if self.conditions > 1:
            parts = ops.chunk(normalized.astype(ms.float32), self.conditions, axis=0)
            normalized = guide(parts[0], parts[1:], guidance_scales).astype(hidden_states.dtype)
        return self.out(normalized).astype(ms.float32)


def sample_step(transformer: DiscreteDenoiser, sampler_cell: type[nn.Cell], truncation: Optional[str]) -> SampleStep:
    """The ``SampleStep`` for the codes of a network."""
    return SampleStep(sampler_cell, truncation, transformer.num_vector_embeds - 1, transformer.num_latent_pixels)


class DenoisingStep(nn.Cell):
    """x_t -> x_s as one graph."""

    def __init__(
        self, transformer: DiscreteDenoiser, conditions: int, sampler_cell: type[nn.Cell], truncation: Optional[str]
    ) -> None:
        super().__init__(auto_prefix=False)
        self.embedding, self.head = Embedding(transformer, conditions), OutputHead(transformer, conditions)
        self.blocks, self.sample = transformer.transformer_blocks, sample_step(transformer, sampler_cell, truncation)

    def construct(
        self,
        x_t: Tensor,
        timestep: Tensor,
        layers: tuple[LayerInputs, ...],
        guidance_scales: Tensor,
        truncation_amount: Tensor,
        parameters: Tensor,
        uniforms: Tensor,
        is_known: Tensor,
    ) -> Tensor:
        """One step.

        Args:
            x_t: (batch, pixels) int32.
            timestep: (1,) int32.
            layers: as in ``Conditioning``.
            guidance_scales: as ``OutputHead`` takes them.
            truncation_amount, parameters, uniforms, is_known: as ``SampleStep`` takes them.

        Returns:
            (batch, pixels) int32.
        """
        hidden_states = self.embedding(x_t)
        for i, block in enumerate(self.blocks):
            modulations, context = layers[i]
            hidden_states = block.conditioned(hidden_states, at_timestep(modulations, timestep), context)
        logits = self.head(hidden_states, guidance_scales)
        return self.sample(logits, x_t, truncation_amount, parameters, uniforms, is_known)


def at_timestep(modulations: Tensors, timestep: Tensor) -> Tensors:
    """The rows of one timestep: (T, 2 * dim) each -> (1, 2 * dim) each."""
    rows = ()
    for each in modulations:
        rows += (ops.gather(each, timestep, 0),)
    return rows


class Layer(nn.Cell):
    """One block with the weights of any block of the network."""

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__(auto_prefix=False)
        self.block = block

    def construct(self, x: Tensor, timestep: Tensor, inputs: LayerInputs, weights: Weights) -> Tensor:
        """x: (batch, tokens, dim); timestep: (1,) int32 -> as x."""
        modulations, context = inputs
        return self.block.conditioned(x, at_timestep(modulations, timestep), context, weights)


class AttentionInputs(nn.Cell):
    """``Layer`` up to its self-attention."""

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__(auto_prefix=False)
        self.block = block

    def construct(self, x: Tensor, timestep: Tensor, inputs: LayerInputs, weights: Weights) -> Tensors:
        return self.block.attention_inputs(x, at_timestep(inputs[0], timestep), weights)


class AfterAttention(nn.Cell):
    """``Layer`` after its self-attention; ``attended``: (batch, tokens, dim / groups) of each group of heads."""

    def __init__(self, block: BasicTransformerBlock) -> None:
        super().__init__(auto_prefix=False)
        self.block = block

    def construct(
        self, x: Tensor, attended: Tensors, timestep: Tensor, inputs: LayerInputs, weights: Weights
    ) -> Tensor:
        modulations, context = inputs
        modulations = at_timestep(modulations, timestep)
        return self.block.after_attention(x, ops.concat(attended, -1), modulations, context, weights)


class Denoiser:
    """The network as a pipeline runs it.

    One graph holds the whole step. On a CPU a large network is run layer by layer instead: one compiled block serves
    every layer, which saves compilation, and memory, because there every matrix product of a graph keeps work buffers
    as large as its inputs for as long as the graph lives.
    """

    def __init__(self, transformer: DiscreteDenoiser, graphs: GraphCache) -> None:
        self.transformer, self.graphs = transformer, graphs
        self.blocks = transformer.transformer_blocks

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
        dtype = ms.int32 if conditions.dtype.kind in "iu" else self.transformer.dtype
        rows = Tensor(conditions.reshape(-1, *conditions.shape[2:]), dtype)  # (conditions * batch, ...)
        timesteps = Tensor(np.arange(self.transformer.num_timesteps or 1), ms.int32)
        graph = self.graphs.get(LayerConditioning, self.blocks[0], name="conditioning")
        layers = tuple(mutable(graph(rows, timesteps, as_inputs(block.weights()))) for block in self.blocks)
        return Conditioning(mutable(layers), tuple(weights))

    def step(self, conditioning: Conditioning, options: SamplingOptions) -> Callable[..., Tensor]:
        """The denoising step of one call.

        Returns:
            A function of x_t (batch, pixels), the ``Step``, uniforms (num_uniforms, batch, pixels), and which pixels
            are known, (batch, pixels); it returns x_s.
        """
        run = self._layer_by_layer if self._is_large() else self._whole
        network = run(conditioning, options)
        amount = Tensor([options.truncation_amount], ms.float32)

        def denoise(x_t: Tensor, step: Step, uniforms: np.ndarray, is_known: np.ndarray) -> Tensor:
            scale = guidance_scale_at(options.guidance_schedule, options.guidance_scale, step.time)
            scales = Tensor([scale * weight for weight in conditioning.weights] or [scale], ms.float32)
            timestep = Tensor([step.timestep], ms.int32)
            sampling = (amount, Tensor(step.parameters), Tensor(uniforms), Tensor(is_known))
            return network(x_t, timestep, scales, sampling)

        return denoise

    def _is_large(self) -> bool:
        return layer_by_layer(sum(parameter.nbytes for parameter in self.transformer.get_parameters()))

    def _whole(self, conditioning: Conditioning, options: SamplingOptions) -> Callable[..., Tensor]:
        kind = (conditioning.conditions, options.sampler.cell, options.truncation)
        step = self.graphs.get(DenoisingStep, self.transformer, *kind, name="denoising step")
        return lambda x_t, timestep, scales, sampling: step(x_t, timestep, conditioning.layers, scales, *sampling)

    def _layer_by_layer(self, conditioning: Conditioning, options: SamplingOptions) -> Callable[..., Tensor]:
        embedding = self.graphs.get(Embedding, self.transformer, conditioning.conditions, name="embedding")
        head = self.graphs.get(OutputHead, self.transformer, conditioning.conditions, name="output head")
        sample = self.graphs.get(sample_step, self.transformer, options.sampler.cell, options.truncation, name="draw")
        weights = [as_inputs(block.weights()) for block in self.blocks]

        def network(x_t: Tensor, timestep: Tensor, scales: Tensor, sampling: Tensors) -> Tensor:
            x = embedding(x_t)
            layer = self._layer(x)
            for inputs, own in zip(conditioning.layers, weights):
                x = layer(x, timestep, inputs, own)
            return sample(head(x, scales), x_t, *sampling)

        return network

    def _layer(self, x: Tensor) -> Callable[..., Tensor]:
        """The compiled block; three graphs where the scores of all heads together would take too much memory."""
        heads = self.blocks[0].attn1.attend.heads
        groups = groups_of_heads(heads, x.shape[0] * x.shape[1] ** 2)
        if groups == 1:
            return self.graphs.get(Layer, self.blocks[0], name="layer")
        queries_keys_values = self.graphs.get(AttentionInputs, self.blocks[0], name="queries, keys and values")
        attention = self.graphs.get(HeadGroup, heads, groups, name="attention")
        rest = self.graphs.get(AfterAttention, self.blocks[0], name="rest of a layer")

        def layer(x: Tensor, timestep: Tensor, inputs: LayerInputs, weights: Weights) -> Tensor:
            qkv = queries_keys_values(x, timestep, inputs, weights)
            attended = tuple(attention(*qkv, Tensor([group], ms.int32)) for group in range(groups))
            return rest(x, mutable(attended), timestep, inputs, weights)

        return layer


def as_inputs(weights: Weights) -> Weights:
    """Tensors that share the memory of parameters: a graph takes those as inputs, and a Parameter as a constant."""

    def tensors(value: Any) -> Any:
        return {k: tensors(v) for k, v in value.items()} if isinstance(value, dict) else Tensor(value)

    return mutable(tensors(weights))
