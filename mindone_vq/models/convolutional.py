"""Microsoft's denoisers without text: of classes (ImageNet), and of nothing (FFHQ).

Their blocks have self-attention and convolutions; see VQ-Diffusion, arXiv 2111.14822, section 5.1.
"""

from typing import Optional, Union

from mindspore import Tensor, nn

from mindone_vq.models.denoiser import DiscreteDenoiser, Transformer2DModelOutput
from mindone_vq.nn.attention import Attention
from mindone_vq.nn.feed_forward import ConvFeedForward
from mindone_vq.nn.normalization import AdaLayerNorm, LayerNorm
from mindone_vq.weights.config import register_to_config


class ConvolutionalBlock(nn.Cell):
    """Self-attention and convolutions, each after its norm, each with a residual.

    Args:
        num_class_embeds: rows of the table by which a class modulates the second norm; None: a plain norm.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        num_timesteps: int,
        inner_dim: int,
        sample_size: int,
        dropout: float,
        num_class_embeds: Optional[int] = None,
    ) -> None:
        super().__init__()
        self.norm1 = AdaLayerNorm(dim, num_timesteps)
        self.attn1 = Attention(dim, heads, dim // heads, bias=True, dropout=dropout)
        self.has_class = num_class_embeds is not None
        self.norm3 = AdaLayerNorm(dim, num_class_embeds) if self.has_class else LayerNorm(dim)
        self.ff = ConvFeedForward(dim, inner_dim, sample_size, dropout)

    def construct(self, hidden_states: Tensor, class_labels: Optional[Tensor], timestep: Tensor) -> Tensor:
        """hidden_states: (batch, tokens, dim); class_labels, timestep: (batch,) integers."""
        hidden_states = hidden_states + self.attn1(self.norm1(hidden_states, timestep))
        if self.has_class:
            normalized = self.norm3(hidden_states, class_labels)
        else:
            normalized = self.norm3(hidden_states)
        return hidden_states + self.ff(normalized)


class UnconditionalTransformer2DModel(DiscreteDenoiser):
    """A denoiser that is told nothing but the codes and the timestep.

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
        dim = num_attention_heads * attention_head_dim
        blocks = [
            ConvolutionalBlock(dim, num_attention_heads, num_embeds_ada_norm, ff_mult * dim, sample_size, dropout)
            for _ in range(num_layers)
        ]
        self._build(blocks, dim, sample_size, num_vector_embeds, num_embeds_ada_norm, position_table_size)

    def construct(
        self, hidden_states: Tensor, timestep: Union[Tensor, int], return_dict: bool = True
    ) -> Transformer2DModelOutput:
        """x_t (batch, pixels) integers -> log p(x_0) (batch, classes, pixels) float32."""
        return self.classes_first(hidden_states, None, timestep)


class ClassTransformer2DModel(DiscreteDenoiser):
    """A denoiser that is told the class of the picture.

    Args:
        num_class_embeds: classes of pictures and, as the last one, the null class that guidance steers away from.
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
        dim = num_attention_heads * attention_head_dim
        self.num_class_embeds = num_class_embeds
        blocks = [
            ConvolutionalBlock(
                dim, num_attention_heads, num_embeds_ada_norm, ff_mult * dim, sample_size, dropout, num_class_embeds
            )
            for _ in range(num_layers)
        ]
        self._build(blocks, dim, sample_size, num_vector_embeds, num_embeds_ada_norm, position_table_size)

    def construct(
        self, hidden_states: Tensor, class_labels: Tensor, timestep: Union[Tensor, int], return_dict: bool = True
    ) -> Transformer2DModelOutput:
        """x_t (batch, pixels) and class_labels (batch,) integers -> log p(x_0) (batch, classes, pixels) float32."""
        return self.classes_first(hidden_states, class_labels, timestep)
