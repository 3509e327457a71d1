"""The cells that a pipeline compiles beside the denoising step: prompt to embeddings, codes to pictures and back."""

from mindspore import Tensor, nn

from mindone_vq.models.vq_model import VQModel
from mindone_vq.nn.normalization import unit_length
from mindone_vq.pictures import to_model_range
from mindone_vq.text.clip import CLIPTextModel


class TextEncoding(nn.Cell):
    """Token ids -> text embeddings: the last hidden state, every token scaled to length 1, float32."""

    def __init__(self, text_encoder: CLIPTextModel) -> None:
        super().__init__(auto_prefix=False)
        self.text_encoder = text_encoder

    def construct(self, input_ids: Tensor) -> Tensor:
        """(batch, length) integers -> (batch, length, hidden_size)."""
        return unit_length(self.text_encoder(input_ids)[0])


class CodeDecoding(nn.Cell):
    """Codes -> pictures."""

    def __init__(self, vqvae: VQModel, height: int, width: int) -> None:
        super().__init__(auto_prefix=False)
        self.vqvae, self.height, self.width = vqvae, height, width

    def construct(self, codes: Tensor) -> Tensor:
        """(batch, pixels) int32 -> (batch, H, W, channels) float32 in [0, 1]."""
        grid = codes.reshape(-1, self.height, self.width)
        return self.vqvae.decode_codes(grid).transpose(0, 2, 3, 1)


class PictureEncoding(nn.Cell):
    """Pictures -> codes."""

    def __init__(self, vqvae: VQModel) -> None:
        super().__init__(auto_prefix=False)
        self.vqvae = vqvae

    def construct(self, pictures: Tensor) -> Tensor:
        """(batch, 3, H, W) uint8 -> (batch, pixels) int32."""
        latents = self.vqvae.encode(to_model_range(pictures))[0]
        codes = self.vqvae.quantize.nearest(latents.transpose(0, 2, 3, 1))  # (batch, h, w)
        return codes.reshape(codes.shape[0], -1)
