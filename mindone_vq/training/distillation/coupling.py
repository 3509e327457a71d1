"""Which x_T a picture is learned from: optimal transport between a few of both (arXiv 2302.00482, 2304.14772).

One step of a factorised model draws all codes independently, so what they have in common has to be in x_T, a part of
which are random codes. The pictures of a prompt are assigned to as many draws of x_T such that the sum of the scalar
products of their codes' vectors is largest. Each picture still has the distribution that the teacher gives it, since
every one of them is assigned to one x_T; but which one is near x_T can be seen from it, and a student learns to.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from mindone_vq.models.vq_model import VQModel


def code_vectors(vqvae: VQModel) -> np.ndarray:
    """The codebook without its mean, and zeros for the mask: (classes + 1, channels) float32."""
    codebook = vqvae.quantize.embedding.embedding_table.asnumpy().astype(np.float32)
    return np.concatenate([codebook - codebook.mean(0), np.zeros_like(codebook[:1])])


def assigned_starts(x_0: np.ndarray, x_T: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """The rows of x_T in the order of the x_0 to which they are assigned.

    Args:
        x_0: (pictures, pixels) integers.
        x_T: the same shape; masks are the last class.
        vectors: of every class, (classes + 1, channels).
    """
    products = vectors[x_0].reshape(len(x_0), -1) @ vectors[x_T].reshape(len(x_T), -1).T
    return x_T[linear_sum_assignment(products, maximize=True)[1]]
