"""The parts that every denoiser of discrete codes has."""

from typing import NamedTuple, Optional, Union

import mindspore as ms
from mindspore import Tensor, nn, ops

from mindone_vq.nn.embeddings import ImagePositionalEmbeddings
from mindone_vq.nn.normalization import LayerNorm
from mindone_vq.outputs import output
from mindone_vq.weights.pretrained import PretrainedCell


@output
class Transformer2DModelOutput(NamedTuple):
    """sample: log p(x_0), (batch, classes, pixels)."""

    sample: Tensor


class DiscreteDenoiser(PretrainedCell):
    """Codes -> embeddings -> transformer blocks -> log p(x_0). A subclass makes the blocks.

    Attributes:
        height, width, num_latent_pixels: the grid of codes.
        num_vector_embeds: classes including the mask, which is the last.
        num_timesteps: timesteps the network was trained for; None: it takes none.
    """

    output_class = Transformer2DModelOutput

    def _build(
        self,
        blocks: list[nn.Cell],
        inner_dim: int,
        sample_size: int,
        num_vector_embeds: int,
        num_timesteps: Optional[int],
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
        """The output of the last block.

        Args:
            x_t: (batch, pixels) integers; the mask is class ``num_vector_embeds - 1``.
            condition: text embeddings (batch, length, dim), or classes (batch,); None for an unconditional model.
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
        self, x_t: Tensor, condition: Optional[Tensor], timestep: Union[Tensor, int, None]
    ) -> Transformer2DModelOutput:
        """``log_p_x_0`` in diffusers' axis order, (batch, classes, pixels); one timestep, or one for each image.

        Raises:
            ValueError: the codes are not of this network's grid, or the timestep is missing or one too many.
        """
        if x_t.ndim != 2 or x_t.shape[1] > self.num_latent_pixels:
            raise ValueError(
                f"hidden_states has shape {x_t.shape}; it must be (batch, pixels), at most {self.num_latent_pixels} "
                f"codes of a grid of {self.height} x {self.width} (sample_size)."
            )
        if self.num_timesteps is not None:
            if timestep is None:
                raise ValueError("timestep is missing: give one for the batch, or one for each image, (batch,).")
            if isinstance(timestep, int):
                timestep = Tensor(timestep, ms.int32)
            timestep = timestep.reshape(-1)
            if timestep.shape[0] not in (1, x_t.shape[0]):
                raise ValueError(
                    f"{timestep.shape[0]} timesteps given for {x_t.shape[0]} images: give one, or as many."
                )
            timestep = timestep.broadcast_to((x_t.shape[0],))
        return (self.log_p_x_0(x_t, condition, timestep).transpose(0, 2, 1),)

    def checkpointed_blocks(self) -> list[nn.Cell]:
        return list(self.transformer_blocks)
