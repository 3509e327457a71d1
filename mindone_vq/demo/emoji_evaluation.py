"""How much a generated emoji resembles the true picture of its cell, among the true pictures of all cells.

A picture is compared with each of them, and the nearest one says which role, gender and tone it shows. No other model
judges.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from mindspore import Tensor

from mindone_vq.demo.emoji import Cell
from mindone_vq.demo.evaluation import Share
from mindone_vq.models.vq_model import VQModel
from mindone_vq.pictures import to_model_range, to_uint8

ATTRIBUTES = ("role", "gender", "tone")
BATCH = 64


@dataclass(frozen=True)
class Retrieval:
    """Shares of pictures whose nearest true picture is of the right cell, or of one with the right attribute."""

    exact: Share
    role: Share
    gender: Share
    tone: Share

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).to_dict() for name in ("exact", *ATTRIBUTES)}

    def __str__(self) -> str:
        return ", ".join(f"{name} {getattr(self, name).value:.1%}" for name in ("exact", *ATTRIBUTES))


def retrieve(distances: np.ndarray, cells: Sequence[Cell], wanted: Sequence[Cell]) -> Retrieval:
    """What the nearest true pictures show.

    Args:
        distances: of each picture to the true picture of each cell, (pictures, cells).
        cells: of the columns.
        wanted: the cell of each picture.
    """
    nearest = [cells[i] for i in distances.argmin(1)]
    pairs = list(zip(nearest, wanted))
    shares = [
        Share(sum(getattr(found, name) == getattr(cell, name) for found, cell in pairs), len(pairs))
        for name in ATTRIBUTES
    ]
    return Retrieval(Share(sum(found == cell for found, cell in pairs), len(pairs)), *shares)


def pixel_distances(pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Root of the mean squared difference, in levels: (n, H, W, 3) and (m, H, W, 3) uint8 -> (n, m)."""
    return euclidean(pictures.astype(np.float64), others.astype(np.float64))


def feature_distances(vqvae: VQModel, pictures: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The same of what the encoder makes of them, before the codebook; others are often all true pictures."""
    return euclidean(features(vqvae, pictures), features(vqvae, others))


def features(vqvae: VQModel, pictures: np.ndarray) -> np.ndarray:
    """(n, H, W, 3) uint8 -> the encoder's output, (n, channels, h, w)."""
    return _in_batches(vqvae.encode, pictures).astype(np.float64)


def reconstructions(vqvae: VQModel, pictures: np.ndarray) -> np.ndarray:
    """What the VQ-VAE makes of pictures: the blur of every generated one, and the ceiling. uint8, the same shape."""
    decoded = _in_batches(vqvae, pictures).transpose(0, 2, 3, 1)
    return to_uint8((decoded.clip(-1, 1) + 1) / 2)


def _in_batches(function: Callable[[Tensor], tuple[Tensor, ...]], pictures: np.ndarray) -> np.ndarray:
    """The first output of ``function`` for pictures (n, H, W, 3) uint8, which it takes as the VQ-VAE does."""
    batches = np.split(pictures.transpose(0, 3, 1, 2), range(BATCH, len(pictures), BATCH))
    return np.concatenate([function(Tensor(to_model_range(batch)))[0].asnumpy() for batch in batches])


def euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root of the mean squared difference of rows: (n, ...) and (m, ...) -> (n, m)."""
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    squares = (a**2).sum(1)[:, None] + (b**2).sum(1) - 2 * a @ b.T
    return np.sqrt(squares.clip(0) / a.shape[1])


def nearest_by_words(caption: str, captions: Sequence[str]) -> int:
    """The index of the caption that shares most words with ``caption``, as a share of the words of both.

    What a model could do that only copies pictures it was trained on.
    """
    words = set(caption.replace(",", "").lower().split())

    def shared(other: str) -> float:
        others = set(other.replace(",", "").lower().split())
        return len(words & others) / len(words | others)

    return max(range(len(captions)), key=lambda i: shared(captions[i]))
