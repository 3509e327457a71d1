"""Convolutional blocks of the VQ-VAE, (batch, channels, height, width) in and out."""

from typing import Optional

from mindspore import Tensor, nn

from mindone_vq.nn.activations import RESNET, get_activation
from mindone_vq.nn.attention import SpatialAttention
from mindone_vq.nn.normalization import GroupNorm, SpatialNorm


def conv3x3(in_channels: int, out_channels: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, pad_mode="pad", padding=1, has_bias=True)


class ResnetBlock2D(nn.Cell):
    """Norm, activation, convolution, twice, with a residual.

    ``norm_latent_channels`` makes the norms read the quantised latents (MoVQ); None: plain group norms.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        act_fn: str = "silu",
        norm_latent_channels: Optional[int] = None,
    ) -> None:
        super().__init__()
        self.modulated = norm_latent_channels is not None
        if self.modulated:
            self.norm1 = SpatialNorm(in_channels, norm_latent_channels)
            self.norm2 = SpatialNorm(out_channels, norm_latent_channels)
        else:
            self.norm1 = GroupNorm(groups, in_channels)
            self.norm2 = GroupNorm(groups, out_channels)
        self.conv1 = conv3x3(in_channels, out_channels)
        self.conv2 = conv3x3(out_channels, out_channels)
        self.nonlinearity = get_activation(RESNET, act_fn, "act_fn")()
        self.changes_channels = in_channels != out_channels
        if self.changes_channels:
            self.conv_shortcut = nn.Conv2d(in_channels, out_channels, 1, has_bias=True)

    def construct(self, x: Tensor, latents: Optional[Tensor] = None) -> Tensor:
        hidden = self.norm1(x, latents) if self.modulated else self.norm1(x)
        hidden = self.conv1(self.nonlinearity(hidden))
        hidden = self.norm2(hidden, latents) if self.modulated else self.norm2(hidden)
        hidden = self.conv2(self.nonlinearity(hidden))
        shortcut = self.conv_shortcut(x) if self.changes_channels else x
        return shortcut + hidden


class Downsample2D(nn.Cell):
    """Half the height and width by a strided convolution, padded below and to the right by one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, pad_mode="pad", padding=(0, 1, 0, 1), has_bias=True)

    def construct(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Upsample2D(nn.Cell):
    """Twice the height and width by repeating pixels, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv3x3(channels, channels)

    def construct(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.reshape(batch, channels, height, 1, width, 1)
        x = x.broadcast_to((batch, channels, height, 2, width, 2))
        return self.conv(x.reshape(batch, channels, 2 * height, 2 * width))


class ResolutionBlock(nn.Cell):
    """The resnets of one resolution, each followed by attention where ``attention`` says so.

    ``downsample`` or ``upsample`` adds the change of resolution at the end. One class serves the encoder and the
    decoder, and every block type that a config can name (models/autoencoder.py).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        num_layers: int,
        groups: int,
        act_fn: str,
        attention: bool,
        downsample: bool = False,
        upsample: bool = False,
        norm_latent_channels: Optional[int] = None,
    ) -> None:
        super().__init__()
        self.has_attention, self.num_layers = attention, num_layers
        self.has_downsample, self.has_upsample = downsample, upsample
        widths = [in_channels] + [out_channels] * num_layers
        self.resnets = nn.CellList(
            [ResnetBlock2D(widths[i], widths[i + 1], groups, act_fn, norm_latent_channels) for i in range(num_layers)]
        )
        if attention:
            self.attentions = nn.CellList(
                [SpatialAttention(out_channels, groups, norm_latent_channels) for _ in range(num_layers)]
            )
        if downsample:
            self.downsamplers = nn.CellList([Downsample2D(out_channels)])
        if upsample:
            self.upsamplers = nn.CellList([Upsample2D(out_channels)])

    def construct(self, x: Tensor, latents: Optional[Tensor] = None) -> Tensor:
        for i in range(self.num_layers):
            x = self.resnets[i](x, latents)
            if self.has_attention:
                x = self.attentions[i](x, latents)
        if self.has_downsample:
            x = self.downsamplers[0](x)
        if self.has_upsample:
            x = self.upsamplers[0](x)
        return x


class MidBlock2D(nn.Cell):
    """Resnet, attention (unless switched off), resnet, at the lowest resolution."""

    def __init__(
        self,
        channels: int,
        groups: int,
        act_fn: str,
        add_attention: bool = True,
        norm_latent_channels: Optional[int] = None,
    ) -> None:
        super().__init__()
        self.resnets = nn.CellList(
            [ResnetBlock2D(channels, channels, groups, act_fn, norm_latent_channels) for _ in range(2)]
        )
        self.has_attention = add_attention
        if add_attention:
            self.attentions = nn.CellList([SpatialAttention(channels, groups, norm_latent_channels)])

    def construct(self, x: Tensor, latents: Optional[Tensor] = None) -> Tensor:
        x = self.resnets[0](x, latents)
        if self.has_attention:
            x = self.attentions[0](x, latents)
        return self.resnets[1](x, latents)
