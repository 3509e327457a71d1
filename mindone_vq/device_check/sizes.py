"""The sizes at which kernels are compared."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """Of the published ITHQ model, guided: two conditions of one picture."""

    batch: int = 2
    pixels: int = 1024
    heads: int = 16
    head_dim: int = 88
    classes: int = 4096
    tokens: int = 77
    channels: int = 128  # of the decoder's last layers
    picture: int = 256
    deep_channels: int = 512  # of its first layers
    grid: int = 32
    groups: int = 32  # of its norms

    @property
    def width(self) -> int:
        return self.heads * self.head_dim

    @property
    def hidden(self) -> tuple[int, int, int]:
        """Shape of the hidden states."""
        return self.batch, self.pixels, self.width

    @property
    def rows(self) -> int:
        return self.batch * self.pixels
