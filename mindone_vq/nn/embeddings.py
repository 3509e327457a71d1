"""Embeddings of the latent pixels."""

from typing import Optional

import mindspore as ms
from mindspore import Tensor, nn, ops


class ImagePositionalEmbeddings(nn.Cell):
    """Code embedding + row embedding + column embedding (VQ-Diffusion section 4.2; DALL-E figure 10).

    These embeddings belong to the transformer; the codebook of the VQ-VAE is another table.

    Args:
        num_embed: classes including the mask.
        sample_size: height and width of the grid of codes.
        embed_dim: size of an embedding.
        table_size: rows of the row and of the column table; None: ``sample_size``. Where it is larger, pixel i has
            row i // table_size and column i % table_size, as if the picture's pixels filled the first rows of a
            grid that wide: so Microsoft's ImageNet and FFHQ models were trained.
    """

    def __init__(self, num_embed: int, sample_size: int, embed_dim: int, table_size: Optional[int] = None) -> None:
        super().__init__()
        self.table_size = table_size or sample_size
        self.embed_dim = embed_dim
        if sample_size > self.table_size:
            raise ValueError(
                f"a table of {self.table_size} rows has no place for a grid of {sample_size} x {sample_size}."
            )
        self.emb = nn.Embedding(num_embed, embed_dim)
        self.height_emb = nn.Embedding(self.table_size, embed_dim)
        self.width_emb = nn.Embedding(self.table_size, embed_dim)

    def construct(self, codes: Tensor, dtype: Optional[ms.Type] = None) -> Tensor:
        """Code, row and column embeddings, added.

        Args:
            codes: (batch, pixels) integers, the first of the grid or all.
            dtype: of the result; None: that of the tables.

        Returns:
            (batch, pixels, embed_dim).
        """
        dtype, pixels = dtype or self.emb.embedding_table.dtype, codes.shape[1]
        rows = self.height_emb.embedding_table.astype(dtype).expand_dims(1)  # (table_size, 1, embed_dim)
        columns = self.width_emb.embedding_table.astype(dtype).expand_dims(0)  # (1, table_size, embed_dim)
        positions = ops.reshape(rows + columns, (self.table_size * self.table_size, self.embed_dim))
        if pixels < positions.shape[0]:
            positions = positions[:pixels]
        embeddings = self.emb(codes).astype(dtype).reshape(-1, pixels * self.embed_dim)
        return ops.BiasAdd()(embeddings, positions.reshape(-1)).reshape(-1, pixels, self.embed_dim)
