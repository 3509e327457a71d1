"""What every denoiser of discrete codes shares."""

from dataclasses import dataclass
from typing import Optional, Union

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindone_vq.nn.embeddings import ImagePositionalEmbeddings
from mindone_vq.nn.normalization import LayerNorm
from mindone_vq.outputs import Output
from mindone_vq.weights.pretrained import PretrainedCell


@dataclass
class Transformer2DModelOutput(Output):
    """sample: log p(x_0), (batch, classes, pixels)."""

    sample: Tensor


class DiscreteDenoiser(PretrainedCell):
    """Codes -> embeddings -> blocks -> log p(x_0). A subclass gives the blocks, and what they are conditioned on.

    Attributes:
        height, width, num_latent_pixels: the grid of codes.
        num_vector_embeds: classes including the mask, which is the last.
        num_timesteps: timesteps the network was trained for.
    """

    def _build(
        self,
        blocks: list[nn.Cell],
        inner_dim: int,
        sample_size: int,
        num_vector_embeds: int,
        num_timesteps: int,
        position_table_size: Optional[int] = None,
    ) -> None:
        """Makes the layers around ``blocks``; the arguments are as the subclasses document them."""
        self.height = self.width = sample_size
        self.num_latent_pixels = sample_size * sample_size
        self.num_vector_embeds, self.num_timesteps = num_vector_embeds, num_timesteps
        self.latent_image_embedding = ImagePositionalEmbeddings(
            num_vector_embeds, sample_size, inner_dim, position_table_size
        )
        self.transformer_blocks = nn.CellList(blocks)
        self.norm_out = LayerNorm(inner_dim)
        self.out = nn.Dense(inner_dim, num_vector_embeds - 1)

    def hidden_states(self, x_t: Tensor, condition: Optional[Tensor], timestep: Tensor) -> Tensor:
        """What the last block gives.

        Args:
            x_t: (batch, pixels) integers; the mask is class ``num_vector_embeds - 1``.
            condition: what the blocks take beside the codes.
            timestep: (batch,) integers.

        Returns:
            (batch, pixels, dim).
        """
        hidden_states = self.latent_image_embedding(x_t)
        for block in self.transformer_blocks:
            hidden_states = block(hidden_states, condition, timestep)
        return hidden_states

    def log_p_x_0(self, x_t: Tensor, condition: Optional[Tensor], timestep: Tensor) -> Tensor:
        """Log probabilities of the codes of the clean picture, classes last.

        Args:
            x_t, condition, timestep: as ``hidden_states`` takes them.

        Returns:
            (batch, pixels, classes), float32; ``classes`` does not include the mask.
        """
        logits = self.out(self.norm_out(self.hidden_states(x_t, condition, timestep)))
        return ops.log_softmax(logits.astype(ms.float32), axis=-1)

    def classes_first(
        self, x_t: Tensor, condition: Optional[Tensor], timestep: Union[Tensor, int], return_dict: bool
    ) -> Union[Transformer2DModelOutput, tuple[Tensor]]:
        """``log_p_x_0`` in diffusers' axis order, (batch, classes, pixels); one timestep, or one for each image."""
        if isinstance(timestep, int):
            timestep = Tensor(timestep, ms.int32)
        timestep = timestep.reshape(-1).broadcast_to((x_t.shape[0],))
        sample = self.log_p_x_0(x_t, condition, timestep).transpose(0, 2, 1)
        if not return_dict:
            return (sample,)
        return Transformer2DModelOutput(sample=sample)
