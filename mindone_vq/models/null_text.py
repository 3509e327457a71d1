"""The learned null text of classifier-free guidance."""

from typing import Optional

import numpy as np
from mindspore import Parameter
from mindspore.common.initializer import initializer

from mindone_vq.weights.config import register_to_config
from mindone_vq.weights.lazy import LazyTensor
from mindone_vq.weights.pretrained import PretrainedCell


class LearnedClassifierFreeSamplingEmbeddings(PretrainedCell):
    """The learned null-text embedding (Improved VQ-Diffusion, arXiv 2205.16007, section 3.1).

    Args:
        learnable: whether the embedding was learned; if not, guidance uses the encoding of the empty prompt.
        hidden_size: size of a token embedding.
        length: tokens in a prompt.

    Attributes:
        embeddings: (length, hidden_size), or None.
    """

    @register_to_config
    def __init__(self, learnable: bool, hidden_size: Optional[int] = None, length: Optional[int] = None) -> None:
        super().__init__()
        self.learnable = learnable
        self.embeddings = None
        if learnable:
            if hidden_size is None or length is None:
                raise ValueError(
                    "learnable=True needs hidden_size and length (the size of a token embedding and the tokens in "
                    f"a prompt), given hidden_size={hidden_size}, length={length}."
                )
            self.embeddings = Parameter(initializer("zeros", (length, hidden_size)), name="embeddings")

    def extra_tensors(self) -> dict[str, LazyTensor]:
        """diffusers saves an empty tensor where nothing was learned, and needs it for loading."""
        return {} if self.learnable else {"embeddings": LazyTensor.of(np.zeros((0,), np.float32))}
