"""Microsoft's denoisers without text: class-conditional (ImageNet) and unconditional (FFHQ).

Their blocks have self-attention and convolutions; see VQ-Diffusion, arXiv 2111.14822, section 5.1.
"""

from typing import Optional, Union

from mindspore import Tensor

from mindone_vq.models.denoiser import DiscreteDenoiser, Transformer2DModelOutput
from mindone_vq.nn.feed_forward import ConvFeedForward
from mindone_vq.nn.transformer_block import BasicTransformerBlock
from mindone_vq.weights.config import register_to_config


class ConvolutionalDenoiser(DiscreteDenoiser):
    """The layers of both models."""

    def _build_convolutional(
        self,
        heads: int,
        head_dim: int,
        num_layers: int,
        sample_size: int,
        num_vector_embeds: int,
        num_timesteps: int,
        ff_mult: int,
        position_table_size: Optional[int],
        dropout: float,
        num_class_embeds: Optional[int] = None,
    ) -> None:
        dim = heads * head_dim
        blocks = [
            BasicTransformerBlock(
                dim,
                heads,
                head_dim,
                ConvFeedForward(dim, ff_mult * dim, sample_size, dropout),
                num_timesteps,
                num_class_embeds=num_class_embeds,
                attention_bias=True,
                dropout=dropout,
            )
            for _ in range(num_layers)
        ]
        self._build(blocks, dim, sample_size, num_vector_embeds, num_timesteps, position_table_size)


class UnconditionalTransformer2DModel(ConvolutionalDenoiser):
    """A denoiser without a condition.

    Args:
        num_attention_heads, attention_head_dim: their product is the width of the network.
        num_layers: blocks.
        sample_size: height and width of the grid of codes.
        num_vector_embeds: classes of codes including the mask, which is the last.
        num_embeds_ada_norm: timesteps the model was trained for.
        ff_mult: channels between the convolutions, as a multiple of the width.
        position_table_size: rows of the position tables; see ``ImagePositionalEmbeddings``. None: ``sample_size``.
        dropout: in training.
    """

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int,
        attention_head_dim: int,
        num_layers: int,
        sample_size: int,
        num_vector_embeds: int,
        num_embeds_ada_norm: int,
        ff_mult: int = 4,
        position_table_size: Optional[int] = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self._build_convolutional(
            num_attention_heads,
            attention_head_dim,
            num_layers,
            sample_size,
            num_vector_embeds,
            num_embeds_ada_norm,
            ff_mult,
            position_table_size,
            dropout,
        )

    def construct(
        self, hidden_states: Tensor, timestep: Union[Tensor, int], return_dict: bool = True
    ) -> Transformer2DModelOutput:
        """x_t (batch, pixels) integers -> log p(x_0) (batch, classes, pixels) float32."""
        return self.classes_first(hidden_states, None, timestep)


class ClassTransformer2DModel(ConvolutionalDenoiser):
    """A denoiser conditioned on the class of the picture.

    Args:
        num_class_embeds: classes of pictures and, as the last one, the null class of guidance.
        the others: as of ``UnconditionalTransformer2DModel``.
    """

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int,
        attention_head_dim: int,
        num_layers: int,
        sample_size: int,
        num_vector_embeds: int,
        num_embeds_ada_norm: int,
        num_class_embeds: int,
        ff_mult: int = 4,
        position_table_size: Optional[int] = None,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_class_embeds = num_class_embeds
        self._build_convolutional(
            num_attention_heads,
            attention_head_dim,
            num_layers,
            sample_size,
            num_vector_embeds,
            num_embeds_ada_norm,
            ff_mult,
            position_table_size,
            dropout,
            num_class_embeds,
        )

    def construct(
        self, hidden_states: Tensor, class_labels: Tensor, timestep: Union[Tensor, int], return_dict: bool = True
    ) -> Transformer2DModelOutput:
        """x_t (batch, pixels) and class_labels (batch,) integers -> log p(x_0) (batch, classes, pixels) float32."""
        return self.classes_first(hidden_states, class_labels, timestep)
