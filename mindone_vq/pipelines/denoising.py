"""One denoising step of text to image, as one graph or layer by layer, and what is done once for all steps."""

from typing import Callable

import mindspore as ms
import numpy as np
from mindspore import Tensor, nn, ops

from mindone_vq.diffusion.scheduler import VQDiffusionScheduler
from mindone_vq.models.denoiser import DiscreteDenoiser
from mindone_vq.models.transformer import Transformer2DModel
from mindone_vq.nn.device import groups_of_heads, layer_by_layer
from mindone_vq.nn.stateless import LayerConditioning, StatelessBlock, block_weights, conditioning_weights
from mindone_vq.pipelines.graphs import DenoisingStep, Finish, GraphCache

# (x_t, timestep, *settings of ``Finish``) -> x_s
Step = Callable[..., Tensor]


class TextDenoisingStep(nn.Cell):
    """x_t -> x_s, as one graph."""

    def __init__(self, transformer: Transformer2DModel, scheduler: VQDiffusionScheduler, guided: bool) -> None:
        super().__init__(auto_prefix=False)
        self.embed, self.finish = Embed(transformer, guided), Finish(transformer, scheduler, guided)
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
            keys, values: (layers, batch, length, dim); guided: twice the batch, the null text first.
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
    """x_t -> what the first layer takes; guided: twice."""

    def __init__(self, transformer: Transformer2DModel, guided: bool) -> None:
        super().__init__(auto_prefix=False)
        self.embedding, self.guided = transformer.latent_image_embedding, guided

    def construct(self, x_t: Tensor) -> Tensor:
        """(batch, pixels) int32 -> (batch, pixels, dim), or (2 * batch, pixels, dim)."""
        hidden_states = self.embedding(x_t)
        return ops.concat((hidden_states, hidden_states), 0) if self.guided else hidden_states


def make_step(
    graphs: GraphCache,
    transformer: DiscreteDenoiser,
    scheduler: VQDiffusionScheduler,
    guided: bool,
    condition: Tensor,
) -> Step:
    """The step for one call of a pipeline.

    Args:
        graphs: where compiled graphs are kept.
        transformer, scheduler: the network and the chain.
        guided: whether ``condition`` has the null condition before the condition.
        condition: as ``DenoisingStep`` takes it.

    Returns:
        A function of x_t, the timestep, and what ``Finish`` takes after x_t; it gives x_s.
    """
    if not (isinstance(transformer, Transformer2DModel) and transformer.config.cross_attention_dim is not None):
        step = graphs.get(DenoisingStep, transformer, scheduler, guided, name="denoising step")
        return lambda x_t, t, *settings: step(x_t, Tensor([t], ms.int32), condition, *settings)
    timesteps = Tensor(np.arange(scheduler.num_train_timesteps), ms.int32)
    conditioning = graphs.get(LayerConditioning, name="conditioning")
    layers = [
        conditioning(condition, timesteps, *as_arguments(conditioning_weights(block)))
        for block in transformer.transformer_blocks
    ]
    if layer_by_layer(sum(parameter.nbytes for parameter in transformer.get_parameters())):
        return _layer_by_layer(graphs, transformer, scheduler, guided, layers)
    step = graphs.get(TextDenoisingStep, transformer, scheduler, guided, name="denoising step")
    stacked = [ops.stack(each) for each in zip(*layers)]
    return lambda x_t, t, *settings: step(x_t, Tensor([t], ms.int32), *stacked, *settings)


def _layer_by_layer(
    graphs: GraphCache,
    transformer: Transformer2DModel,
    scheduler: VQDiffusionScheduler,
    guided: bool,
    layers: list[tuple[Tensor, ...]],
) -> Step:
    blocks = transformer.transformer_blocks
    batch = layers[0][0].shape[0]
    groups = groups_of_heads(blocks[0].attn1.attend.heads, batch * transformer.num_latent_pixels**2)
    if groups == 1:
        run_layer = graphs.get(StatelessBlock, blocks[0], name="layer")
    else:
        run_layer = StatelessBlock(blocks[0], groups, graphs.get).construct
    embed = graphs.get(Embed, transformer, guided, name="embedding")
    finish = graphs.get(Finish, transformer, scheduler, guided, name="draw")
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
