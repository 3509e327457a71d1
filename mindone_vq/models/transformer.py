"""Transformer2DModel: from noisy codes, the timestep and the text to log p(x_0 | x_t, text)."""

from typing import Any, Optional, Union

from mindspore import Tensor

from mindone_vq.models.denoiser import DiscreteDenoiser, Transformer2DModelOutput
from mindone_vq.nn.feed_forward import FeedForward
from mindone_vq.nn.transformer_block import BasicTransformerBlock
from mindone_vq.weights.config import register_to_config

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
UNUSED_IN_A_CALL = (
    "added_cond_kwargs",
    "class_labels",
    "cross_attention_kwargs",
    "attention_mask",
    "encoder_attention_mask",
)


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
        num_embeds_ada_norm: timesteps the model was trained for; None: it takes none.
        norm_type: "ada_norm", or "layer_norm" for a model without timesteps. Where ``num_embeds_ada_norm`` is given it
            is "ada_norm" whatever this says, as in diffusers and as the published config means.
        norm_elementwise_affine, norm_eps: of the norms that the timestep does not modulate.
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
        norm_type: str = "layer_norm",
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
        self.norm_type = "layer_norm" if num_embeds_ada_norm is None else "ada_norm"
        inner_dim = num_attention_heads * attention_head_dim
        blocks = [
            BasicTransformerBlock(
                inner_dim,
                num_attention_heads,
                attention_head_dim,
                FeedForward(inner_dim, activation_fn, dropout),
                num_embeds_ada_norm,
                cross_attention_dim,
                attention_bias=attention_bias,
                dropout=dropout,
                norm_elementwise_affine=norm_elementwise_affine,
                norm_eps=norm_eps,
            )
            for _ in range(num_layers)
        ]
        self.cross_attention_dim = cross_attention_dim
        self._build(blocks, inner_dim, sample_size, num_vector_embeds, num_embeds_ada_norm)

    def construct(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Optional[Tensor] = None,
        timestep: Union[Tensor, int, None] = None,
        added_cond_kwargs: Any = None,
        class_labels: Any = None,
        cross_attention_kwargs: Any = None,
        attention_mask: Any = None,
        encoder_attention_mask: Any = None,
        return_dict: bool = True,
    ) -> Transformer2DModelOutput:
        """Log probabilities of the clean codes, in diffusers' axis order.

        Args:
            hidden_states: x_t, (batch, pixels) integers.
            encoder_hidden_states: (batch, length, cross_attention_dim), any float type.
            timestep: one for the batch (scalar), or one for each image, (batch,); None where the model takes none.
            added_cond_kwargs, class_labels, cross_attention_kwargs, attention_mask, encoder_attention_mask: in their
                places, for code written for diffusers; they must be None.
            return_dict: accepted, and changes nothing: see ``mindone_vq.outputs``.

        Returns:
            (batch, classes, pixels), float32; ``classes`` does not include the mask.

        Raises:
            ValueError: text or timestep is missing or of the wrong shape, or an argument that must be None is given.
        """
        unused = (added_cond_kwargs, class_labels, cross_attention_kwargs, attention_mask, encoder_attention_mask)
        for name, value in zip(UNUSED_IN_A_CALL, unused):
            if value is not None:
                raise ValueError(f"{name} has no effect in the discrete transformer of VQ-Diffusion: leave it out.")
        size = self.cross_attention_dim
        if size is None:
            return self.classes_first(hidden_states, None, timestep)
        if encoder_hidden_states is None:
            raise ValueError(f"encoder_hidden_states is missing: this model takes text, (batch, length, {size}).")
        shape = encoder_hidden_states.shape
        if len(shape) != 3 or shape[0] != hidden_states.shape[0] or shape[2] != size:
            expected = (hidden_states.shape[0], "length", size)
            raise ValueError(f"encoder_hidden_states has shape {shape}; it must be {expected}.")
        return self.classes_first(hidden_states, encoder_hidden_states.astype(self.dtype), timestep)

    def config_to_save(self) -> dict[str, Any]:
        return {**self.config, "norm_type": self.norm_type}


def _refuse_other_kinds(given, norm_type, sample_size, num_vector_embeds, num_embeds_ada_norm) -> None:
    wrong = {name: value for name, value in given.items() if value != UNUSED[name]}
    if wrong:
        raise ValueError(
            f"Transformer2DModel takes discrete codes only (VQ-Diffusion); {wrong} belongs to another kind of "
            "input. Load such a model with mindone.diffusers."
        )
    required = dict(sample_size=sample_size, num_vector_embeds=num_vector_embeds)
    missing = [name for name, value in required.items() if value is None]
    if missing:
        raise ValueError(f"Transformer2DModel needs {', '.join(missing)}: the denoiser of VQ-Diffusion has them all.")
    if not isinstance(sample_size, int):
        raise ValueError(f"sample_size is {sample_size!r}; the grid of codes is square, so give one integer.")
    if norm_type not in ("ada_norm", "layer_norm"):
        raise ValueError(f"norm_type is {norm_type!r}; the denoiser of VQ-Diffusion has 'ada_norm' or 'layer_norm'.")
    if norm_type == "ada_norm" and num_embeds_ada_norm is None:
        raise ValueError("norm_type 'ada_norm' needs num_embeds_ada_norm, the timesteps the model was trained for.")
