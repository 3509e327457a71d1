"""Transformer2DModel: from noisy codes, the timestep and the text to log p(x_0 | x_t, text)."""

from typing import Optional, Union

from mindspore import Tensor

from mindone_vq.models.denoiser import DiscreteDenoiser, Transformer2DModelOutput
from mindone_vq.nn.attention import BasicTransformerBlock
from mindone_vq.weights.pretrained import register_to_config

# Arguments of diffusers' class that belong to its other kinds of input -> the value that means "not used".
UNUSED = {
    "in_channels": None,
    "patch_size": None,
    "out_channels": None,
    "only_cross_attention": False,
    "double_self_attention": False,
    "attention_type": "default",
    "caption_channels": None,
    "interpolation_scale": None,
}


class Transformer2DModel(DiscreteDenoiser):
    """The denoiser of VQ-Diffusion (arXiv 2111.14822, section 4.2), for discrete input only.

    Args:
        num_attention_heads, attention_head_dim: their product is the width of the network.
        num_layers: transformer blocks.
        dropout: in training, after attention and inside the feed-forward layers.
        cross_attention_dim: size of the text embeddings; None: an unconditional model.
        attention_bias: whether query, key and value projections have a bias.
        sample_size: height and width of the grid of codes.
        num_vector_embeds: classes including the mask, which is the last.
        activation_fn: "geglu", "gelu", "gelu-approximate" or "geglu-approximate".
        num_embeds_ada_norm: timesteps the model was trained for.
        norm_type: "ada_norm"; also when absent, as in the published config.
        norm_elementwise_affine, norm_eps: of the norm before the feed-forward layer.
        in_channels, out_channels, patch_size, only_cross_attention, double_self_attention, attention_type,
        caption_channels, interpolation_scale: other kinds of input; anything but the default is refused.
        norm_num_groups, use_linear_projection, upcast_attention, use_additional_conditions: kept for the
            config; they have no effect on discrete input (the softmax is always taken in float32).

    Raises:
        ValueError: the config describes a model for another kind of input, or is incomplete.
    """

    @register_to_config
    def __init__(
        self,
        num_attention_heads: int = 16,
        attention_head_dim: int = 88,
        in_channels: Optional[int] = None,
        out_channels: Optional[int] = None,
        num_layers: int = 1,
        dropout: float = 0.0,
        norm_num_groups: int = 32,
        cross_attention_dim: Optional[int] = None,
        attention_bias: bool = False,
        sample_size: Optional[int] = None,
        num_vector_embeds: Optional[int] = None,
        patch_size: Optional[int] = None,
        activation_fn: str = "geglu",
        num_embeds_ada_norm: Optional[int] = None,
        use_linear_projection: bool = False,
        only_cross_attention: bool = False,
        double_self_attention: bool = False,
        upcast_attention: bool = False,
        norm_type: str = "ada_norm",
        norm_elementwise_affine: bool = True,
        norm_eps: float = 1e-5,
        attention_type: str = "default",
        caption_channels: Optional[int] = None,
        interpolation_scale: Optional[float] = None,
        use_additional_conditions: Optional[bool] = None,
    ) -> None:
        super().__init__()
        given = dict(
            in_channels=in_channels,
            patch_size=patch_size,
            out_channels=out_channels,
            only_cross_attention=only_cross_attention,
            double_self_attention=double_self_attention,
            attention_type=attention_type,
            caption_channels=caption_channels,
            interpolation_scale=interpolation_scale,
        )
        _refuse_other_kinds(given, norm_type, sample_size, num_vector_embeds, num_embeds_ada_norm)
        inner_dim = num_attention_heads * attention_head_dim
        blocks = [
            BasicTransformerBlock(
                inner_dim,
                num_attention_heads,
                attention_head_dim,
                num_embeds_ada_norm,
                cross_attention_dim,
                activation_fn,
                attention_bias,
                dropout,
                norm_elementwise_affine,
                norm_eps,
            )
            for _ in range(num_layers)
        ]
        self._build(blocks, inner_dim, sample_size, num_vector_embeds, num_embeds_ada_norm)

    def construct(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Optional[Tensor] = None,
        timestep: Union[Tensor, int, None] = None,
        return_dict: bool = False,
    ) -> Union[Transformer2DModelOutput, tuple[Tensor]]:
        """Log probabilities of the clean codes, in diffusers' axis order.

        Args:
            hidden_states: x_t, (batch, pixels) integers.
            encoder_hidden_states: (batch, length, cross_attention_dim), any float type.
            timestep: one for the batch (scalar), or one for each image, (batch,).
            return_dict: a ``Transformer2DModelOutput`` instead of a tuple.

        Returns:
            (batch, classes, pixels), float32; ``classes`` does not include the mask.
        """
        if encoder_hidden_states is not None:
            encoder_hidden_states = encoder_hidden_states.astype(self.dtype)
        return self.classes_first(hidden_states, encoder_hidden_states, timestep, return_dict)


def _refuse_other_kinds(given, norm_type, sample_size, num_vector_embeds, num_embeds_ada_norm) -> None:
    wrong = {name: value for name, value in given.items() if value != UNUSED[name]}
    if wrong:
        raise ValueError(
            f"Transformer2DModel takes discrete codes only (VQ-Diffusion); {wrong} belongs to another kind of "
            "input. Load such a model with mindone.diffusers."
        )
    required = dict(
        sample_size=sample_size, num_vector_embeds=num_vector_embeds, num_embeds_ada_norm=num_embeds_ada_norm
    )
    missing = [name for name, value in required.items() if value is None]
    if missing:
        raise ValueError(f"Transformer2DModel needs {', '.join(missing)}: the denoiser of VQ-Diffusion has them all.")
    if not isinstance(sample_size, int):
        raise ValueError(f"sample_size is {sample_size!r}; the grid of codes is square, so give one integer.")
    # "layer_norm" with num_embeds_ada_norm is how configs older than the argument read today.
    if norm_type not in ("ada_norm", "layer_norm"):
        raise ValueError(f"norm_type is {norm_type!r}; the denoiser of VQ-Diffusion has 'ada_norm'.")
