"""Encoder and decoder of the VQ-VAE."""

from collections.abc import Sequence
from typing import Optional

from mindspore import Tensor, nn

from mindone_vq.nn.normalization import GroupNorm, SpatialNorm
from mindone_vq.nn.resnet import MidBlock2D, ResolutionBlock, conv3x3

# block type in a config -> whether it has attention
DOWN_BLOCK_TYPES = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
UP_BLOCK_TYPES = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}


def _has_attention(block_type: str, known: dict[str, bool], argument: str) -> bool:
    if block_type not in known:
        raise ValueError(f"{argument} names {block_type!r}; it must be one of {sorted(known)}.")
    return known[block_type]


class Encoder(nn.Cell):
    """(batch, in_channels, height, width) -> (batch, out_channels, height / f, width / f), f = 2^(levels - 1)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        down_block_types: Sequence[str],
        block_out_channels: Sequence[int],
        layers_per_block: int,
        norm_num_groups: int,
        act_fn: str,
        mid_block_add_attention: bool,
    ) -> None:
        super().__init__()
        self.conv_in = conv3x3(in_channels, block_out_channels[0])
        widths = [block_out_channels[0], *block_out_channels]
        self.down_blocks = nn.CellList(
            [
                ResolutionBlock(
                    widths[i],
                    widths[i + 1],
                    layers_per_block,
                    norm_num_groups,
                    act_fn,
                    attention=_has_attention(block_type, DOWN_BLOCK_TYPES, "down_block_types"),
                    downsample=i + 1 < len(down_block_types),
                )
                for i, block_type in enumerate(down_block_types)
            ]
        )
        self.mid_block = MidBlock2D(widths[-1], norm_num_groups, act_fn, mid_block_add_attention)
        self.conv_norm_out = GroupNorm(norm_num_groups, widths[-1])
        self.conv_act = nn.SiLU()
        self.conv_out = conv3x3(widths[-1], out_channels)

    def construct(self, x: Tensor) -> Tensor:
        x = self.conv_in(x)
        for block in self.down_blocks:
            x = block(x)
        x = self.mid_block(x)
        return self.conv_out(self.conv_act(self.conv_norm_out(x)))


class Decoder(nn.Cell):
    """(batch, in_channels, h, w) -> (batch, out_channels, h * f, w * f), f = 2^(levels - 1).

    With ``spatial_norm`` every norm also reads the quantised latents, (batch, in_channels, h, w) (MoVQ).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        up_block_types: Sequence[str],
        block_out_channels: Sequence[int],
        layers_per_block: int,
        norm_num_groups: int,
        act_fn: str,
        mid_block_add_attention: bool,
        spatial_norm: bool,
    ) -> None:
        super().__init__()
        self.spatial_norm = spatial_norm
        latent_channels = in_channels if spatial_norm else None
        widths = [block_out_channels[-1], *reversed(block_out_channels)]
        self.conv_in = conv3x3(in_channels, widths[0])
        self.mid_block = MidBlock2D(widths[0], norm_num_groups, act_fn, mid_block_add_attention, latent_channels)
        self.up_blocks = nn.CellList(
            [
                ResolutionBlock(
                    widths[i],
                    widths[i + 1],
                    layers_per_block + 1,
                    norm_num_groups,
                    act_fn,
                    attention=_has_attention(block_type, UP_BLOCK_TYPES, "up_block_types"),
                    upsample=i + 1 < len(up_block_types),
                    norm_latent_channels=latent_channels,
                )
                for i, block_type in enumerate(up_block_types)
            ]
        )
        if spatial_norm:
            self.conv_norm_out = SpatialNorm(widths[-1], latent_channels)
        else:
            self.conv_norm_out = GroupNorm(norm_num_groups, widths[-1])
        self.conv_act = nn.SiLU()
        self.conv_out = conv3x3(widths[-1], out_channels)

    def construct(self, x: Tensor, latents: Optional[Tensor] = None) -> Tensor:
        x = self.mid_block(self.conv_in(x), latents)
        for block in self.up_blocks:
            x = block(x, latents)
        x = self.conv_norm_out(x, latents) if self.spatial_norm else self.conv_norm_out(x)
        return self.conv_out(self.conv_act(x))
