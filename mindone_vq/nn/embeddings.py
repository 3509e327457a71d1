"""Embeddings of the latent pixels."""

from mindspore import Tensor, nn, ops


class ImagePositionalEmbeddings(nn.Cell):
    """Code embedding + row embedding + column embedding (VQ-Diffusion section 4.2; DALL-E figure 10).

    These embeddings belong to the transformer; the codebook of the VQ-VAE is another table.
    """

    def __init__(self, num_embed: int, height: int, width: int, embed_dim: int) -> None:
        super().__init__()
        self.height, self.width, self.embed_dim = height, width, embed_dim
        self.emb = nn.Embedding(num_embed, embed_dim)
        self.height_emb = nn.Embedding(height, embed_dim)
        self.width_emb = nn.Embedding(width, embed_dim)

    def construct(self, codes: Tensor) -> Tensor:
        """codes: (batch, height * width) integers -> (batch, height * width, embed_dim)."""
        rows = self.height_emb.embedding_table.expand_dims(1)  # (height, 1, embed_dim)
        columns = self.width_emb.embedding_table.expand_dims(0)  # (1, width, embed_dim)
        positions = ops.reshape(rows + columns, (1, self.height * self.width, self.embed_dim))
        return self.emb(codes) + positions
