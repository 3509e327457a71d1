"""One denoising step of text to image, as one graph or layer by layer, and what is done once for all steps."""

from typing import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindone_vq.models.denoiser import DiscreteDenoiser
from mindone_vq.models.transformer import Transformer2DModel
from mindone_vq.nn.device import groups_of_heads, layer_by_layer
from mindone_vq.nn.stateless import LayerConditioning, StatelessBlock, block_weights, conditioning_weights
from mindone_vq.pipelines.graphs import DenoisingStep, Finish, GraphCache

# (x_t, timestep, *settings of ``Finish``) -> x_s
Step = Callable[..., Tensor]


class TextDenoisingStep(nn.Cell):
    """x_t -> x_s, as one graph."""

    def __init__(self, transformer: Transformer2DModel, sampler_cell: type[nn.Cell], conditions: int) -> None:
        super().__init__(auto_prefix=False)
        self.embed, self.finish = Embed(transformer, conditions), Finish(transformer, sampler_cell, conditions)
        self.blocks = transformer.transformer_blocks
        self.block = StatelessBlock(self.blocks[0])
        self.weights = tuple(block_weights(block) for block in self.blocks)

    def construct(
        self,
        x_t: Tensor,
        timestep: Tensor,
        keys: Tensor,
        values: Tensor,
        first: Tensor,
        second: Tensor,
        *settings: Tensor,
    ) -> Tensor:
        """One step.

        Args:
            x_t: (batch, pixels) int32.
            timestep: (1,) int32.
            keys, values: (layers, conditions * batch, length, dim), those of the null text first.
            first, second: what modulates the norms, (layers, T, 2, dim).
            settings: as ``Finish`` takes them after x_t.

        Returns:
            (batch, pixels) int32.
        """
        hidden_states = self.embed(x_t)
        for i in range(len(self.weights)):
            said = (keys[i], values[i], first[i], second[i])
            hidden_states = self.block(hidden_states, timestep, *said, *self.weights[i])
        return self.finish(hidden_states, x_t, *settings)


class Embed(nn.Cell):
    """x_t -> what the first layer takes, for every condition."""

    def __init__(self, transformer: Transformer2DModel, conditions: int) -> None:
        super().__init__(auto_prefix=False)
        self.embedding, self.conditions = transformer.latent_image_embedding, conditions

    def construct(self, x_t: Tensor) -> Tensor:
        """(batch, pixels) int32 -> (conditions * batch, pixels, dim)."""
        hidden_states = self.embedding(x_t)
        return ops.concat([hidden_states] * self.conditions, 0) if self.conditions > 1 else hidden_states


def make_step(
    graphs: GraphCache,
    transformer: DiscreteDenoiser,
    sampler_cell: type[nn.Cell],
    conditions: int,
    condition: Tensor,
) -> Step:
    """The step for one call of a pipeline.

    Args:
        graphs: where compiled graphs are kept.
        transformer: the network.
        sampler_cell: of the sampler.
        conditions: how many each picture has, the null condition among them; 1: no guidance.
        condition: as ``DenoisingStep`` takes it.

    Returns:
        A function of x_t, the timestep, and what ``Finish`` takes after x_t; it gives x_s.
    """
    if not (isinstance(transformer, Transformer2DModel) and transformer.config.cross_attention_dim is not None):
        step = graphs.get(DenoisingStep, transformer, sampler_cell, conditions, name="denoising step")
        return lambda x_t, t, *settings: step(x_t, Tensor([t], ms.int32), condition, *settings)
    timesteps = Tensor(np.arange(transformer.num_timesteps), ms.int32)
    conditioning = graphs.get(LayerConditioning, name="conditioning")
    layers = [
        conditioning(condition, timesteps, *as_arguments(conditioning_weights(block)))
        for block in transformer.transformer_blocks
    ]
    if layer_by_layer(sum(parameter.nbytes for parameter in transformer.get_parameters())):
        return _layer_by_layer(graphs, transformer, sampler_cell, conditions, layers)
    step = graphs.get(TextDenoisingStep, transformer, sampler_cell, conditions, name="denoising step")
    stacked = [ops.stack(each) for each in zip(*layers)]
    return lambda x_t, t, *settings: step(x_t, Tensor([t], ms.int32), *stacked, *settings)


def _layer_by_layer(
    graphs: GraphCache,
    transformer: Transformer2DModel,
    sampler_cell: type[nn.Cell],
    conditions: int,
    layers: list[tuple[Tensor, ...]],
) -> Step:
    blocks = transformer.transformer_blocks
    batch = layers[0][0].shape[0]
    groups = groups_of_heads(blocks[0].attn1.attend.heads, batch * transformer.num_latent_pixels**2)
    if groups == 1:
        run_layer = graphs.get(StatelessBlock, blocks[0], name="layer")
    else:
        run_layer = StatelessBlock(blocks[0], groups, graphs.get).construct
    embed = graphs.get(Embed, transformer, conditions, name="embedding")
    finish = graphs.get(Finish, transformer, sampler_cell, conditions, name="draw")
    weights = [as_arguments(block_weights(block)) for block in blocks]

    def step(x_t: Tensor, t: int, *settings: Tensor) -> Tensor:
        hidden_states, timestep = embed(x_t), Tensor([t], ms.int32)
        for said, own in zip(layers, weights):
            hidden_states = run_layer(hidden_states, timestep, *said, *own)
        return finish(hidden_states, x_t, *settings)

    return step


def as_arguments(weights: tuple) -> list[Tensor]:
    """Tensors that share the memory of parameters: a graph takes those as arguments, and a Parameter as a constant."""
    return [Tensor(weight) for weight in weights]
