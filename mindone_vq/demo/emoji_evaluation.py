"""How much a generated emoji resembles the true picture of its cell, among the true pictures of all cells.

A picture is compared with each of them, and the nearest one says which role, gender and tone it shows. No other model
judges. Two distances are used, both the root of a mean squared difference: ``pixels``, in levels, to what the VQ-VAE
makes of the true pictures, because every generated picture has its blur too; and ``features``, the encoder's output
before the codebook, of true pictures as they are.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Optional

import numpy as np
from mindspore import Tensor, nn
from PIL import Image

from mindone_vq.demo.emoji import Cell, Emoji
from mindone_vq.demo.share import Share
from mindone_vq.models.vq_model import VQModel
from mindone_vq.pictures import to_model_range, to_uint8
from mindone_vq.pipelines.compilation import CompiledGraph
from mindone_vq.pipelines.graphs import CodeDecoding, PictureEncoding

PROPERTIES = ("exact", "role", "gender", "tone")
PIXELS, FEATURES = "pixels", "features"
SAMPLES, RECONSTRUCTIONS, COPIES = "samples", "reconstructions of the true pictures", "nearest training captions"
BATCH = 64


@dataclass(frozen=True)
class Retrieval:
    """Shares of pictures whose nearest true picture is of the right cell, or of one with the right attribute."""

    exact: Share
    role: Share
    gender: Share
    tone: Share

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name).to_dict() for name in PROPERTIES}

    def __str__(self) -> str:
        return ", ".join(f"{name} {getattr(self, name).value:.1%}" for name in PROPERTIES)


@dataclass(frozen=True)
class Memorisation:
    """Distances in levels of a pixel; medians over pictures.

    Attributes:
        to_truth: from a sample to the true picture of its cell, as the VQ-VAE shows it.
        to_training: from a sample to the nearest picture of the training data, as the VQ-VAE shows it.
        truth_to_training: from the true picture to the nearest picture of the training data, both as the VQ-VAE shows
            them: what a perfect sample would have.
        nearer_to_truth: samples that are nearer to their true picture than to any picture of the training data; None
            where the true picture is one of them.
    """

    to_truth: float
    to_training: float
    truth_to_training: float
    nearer_to_truth: Optional[Share]

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "nearer_to_truth": self.nearer_to_truth and self.nearer_to_truth.to_dict()}


@dataclass(frozen=True)
class GroupScores:
    """Scores of pictures of cells held out of training, or of cells that were not.

    Attributes:
        retrieval: by distance, then for the samples, for what the VQ-VAE makes of the true pictures, and for copies of
            the training pictures whose captions share most words with the prompts.
    """

    retrieval: dict[str, dict[str, Retrieval]]
    memorisation: Memorisation

    def to_dict(self) -> dict[str, Any]:
        retrieval = {
            distance: {whose: each.to_dict() for whose, each in rows.items()}
            for distance, rows in self.retrieval.items()
        }
        return {"retrieval": retrieval, "memorisation": self.memorisation.to_dict()}


@dataclass(frozen=True)
class EmojiScores:
    """Scores of all pictures; ``str`` gives a summary, ``to_dict`` the numbers for JSON.

    Attributes:
        found: the cell that each picture shows, by features.
        right: whether it is the cell of the prompt.
        groups: "held out" and "trained", where there are such prompts.
        chance: what guessing would give, by property.
    """

    found: tuple[Cell, ...]
    right: tuple[bool, ...]
    groups: dict[str, GroupScores]
    chance: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        return {"chance": self.chance, **{name: group.to_dict() for name, group in self.groups.items()}}

    def __str__(self) -> str:
        lines = []
        for name, group in self.groups.items():
            for distance, rows in group.retrieval.items():
                lines += [f"{name}, by {distance}: {whose}: {each}" for whose, each in rows.items()]
            near = group.memorisation
            lines.append(
                f"{name}, levels of a pixel: {near.to_truth:.1f} to the true picture, {near.to_training:.1f} to the "
                f"nearest training picture (true picture: {near.truth_to_training:.1f})"
            )
            if near.nearer_to_truth:
                lines.append(f"{name}: nearer to the true picture in {near.nearer_to_truth.value:.1%}")
        lines.append("chance: " + ", ".join(f"{name} {value:.1%}" for name, value in self.chance.items()))
        return "\n".join(lines)


class Encoding(nn.Cell):
    """Pictures -> the encoder's output."""

    def __init__(self, vqvae: VQModel) -> None:
        super().__init__(auto_prefix=False)
        self.vqvae = vqvae

    def construct(self, pictures: Tensor) -> Tensor:
        """(batch, 3, H, W) uint8 -> (batch, channels, h, w) float32."""
        return self.vqvae.encode(to_model_range(pictures))[0]


class Codec:
    """A VQ-VAE on any number of pictures.

    Args:
        vqvae: the VQ-VAE.
        height, width: of the pictures.
    """

    def __init__(self, vqvae: VQModel, height: int, width: int) -> None:
        factor = vqvae.downscale
        self._encode = CompiledGraph(Encoding(vqvae), "encoder")
        self._to_codes = CompiledGraph(PictureEncoding(vqvae), "encoder to codes")
        self._decode = CompiledGraph(CodeDecoding(vqvae, height // factor, width // factor), "decoder")

    def features(self, pictures: np.ndarray) -> np.ndarray:
        """(n, H, W, 3) uint8 -> the encoder's output, (n, channels, h, w)."""
        return _in_batches(self._encode, pictures)

    def reconstructions(self, pictures: np.ndarray) -> np.ndarray:
        """What the VQ-VAE makes of pictures, the blur of every generated one: uint8, the same shape."""
        return to_uint8(_in_batches(lambda batch: self._decode(self._to_codes(batch)), pictures))


def _in_batches(function: Callable[[Tensor], Tensor], pictures: np.ndarray) -> np.ndarray:
    """``function`` of pictures (n, H, W, 3), which it takes as (``BATCH``, 3, H, W): the last ones are filled up."""
    filled = np.concatenate([pictures, np.repeat(pictures[:1], -len(pictures) % BATCH, 0)]).transpose(0, 3, 1, 2)
    batches = np.split(filled, len(filled) // BATCH)
    return np.concatenate([function(Tensor(np.ascontiguousarray(each))).asnumpy() for each in batches])[: len(pictures)]


class TruePictures:
    """The true pictures of all emoji, beside which a VQ-VAE's samples are judged.

    Args:
        emoji: all of them, as ``read`` gives them.
        vqvae: of the model that made the samples.
    """

    def __init__(self, emoji: Sequence[Emoji], vqvae: VQModel) -> None:
        pixels = np.stack([np.asarray(each.picture()) for each in emoji])
        self.codec = Codec(vqvae, *pixels.shape[1:3])
        self.emoji, self.shown = list(emoji), self.codec.reconstructions(pixels)
        self._training = np.flatnonzero([not each.is_held_out for each in emoji])
        self._captions = [each.captions[0] for each in emoji]
        self._in_cells = [i for i, each in enumerate(emoji) if each.cell]
        self._cells = [emoji[i].cell for i in self._in_cells]
        self._pixels, self._features = _rows(self.shown), _rows(self.codec.features(pixels))

    def score(self, pictures: Sequence[Image.Image], wanted: Sequence[Emoji]) -> EmojiScores:
        """Compares pictures with the true ones.

        Args:
            pictures: one for each of ``wanted``.
            wanted: emoji with a cell, whose first captions were the prompts.

        Raises:
            ValueError: a picture has another size than the true ones.
        """
        samples = np.stack([np.asarray(each.convert("RGB")) for each in pictures])
        if samples.shape[1:] != self.shown.shape[1:]:
            raise ValueError(
                f"the pictures are {samples.shape[2]} x {samples.shape[1]} pixels, the true ones "
                f"{self.shown.shape[2]} x {self.shown.shape[1]}: evaluate a model that draws pictures of that size."
            )
        places = {id(each): i for i, each in enumerate(self.emoji)}
        at = np.array([places[id(each)] for each in wanted])
        features = self.codec.features(samples)
        groups = {}
        for name, trained in (("held out", False), ("trained", True)):
            chosen = np.flatnonzero(np.isin(at, self._training) == trained)
            if len(chosen):
                groups[name] = self._group(samples[chosen], features[chosen], at[chosen], trained)
        nearest = euclidean(_rows(features), self._features[self._in_cells]).argmin(1)
        found = tuple(self._cells[i] for i in nearest)
        return EmojiScores(found, tuple(a == b.cell for a, b in zip(found, wanted)), groups, self._chance())

    def _group(self, samples: np.ndarray, features: np.ndarray, at: np.ndarray, trained: bool) -> GroupScores:
        reconstructions, copies = self.shown[at], self.shown[[self._copied(i) for i in at]]
        compared = {
            SAMPLES: (samples, features),
            RECONSTRUCTIONS: (reconstructions, self.codec.features(reconstructions)),
            COPIES: (copies, self.codec.features(copies)),
        }
        retrieval: dict[str, dict[str, Retrieval]] = {PIXELS: {}, FEATURES: {}}
        for whose, (pictures, their_features) in compared.items():
            distances = {
                PIXELS: euclidean(_rows(pictures), self._pixels[self._in_cells]),
                FEATURES: euclidean(_rows(their_features), self._features[self._in_cells]),
            }
            for name, values in distances.items():
                retrieval[name][whose] = retrieve(values, self._cells, [self.emoji[i].cell for i in at])
        return GroupScores(retrieval, self._memorisation(_rows(samples), at, trained))

    def _memorisation(self, samples: np.ndarray, at: np.ndarray, trained: bool) -> Memorisation:
        to_truth = np.sqrt(((samples - self._pixels[at]) ** 2).mean(1))
        to_training = euclidean(samples, self._pixels[self._training]).min(1)
        others = euclidean(self._pixels[at], self._pixels[self._training])
        others[at[:, None] == self._training] = np.inf
        nearer = None if trained else Share(int((to_truth < to_training).sum()), len(at))
        return Memorisation(*(float(np.median(each)) for each in (to_truth, to_training, others.min(1))), nearer)

    def _copied(self, index: int) -> int:
        """The other picture of the training data with a caption that is nearest to this one's by words."""
        others = self._training[self._training != index]
        return others[nearest_by_words(self._captions[index], [self._captions[i] for i in others])]

    def _chance(self) -> dict[str, float]:
        counts = [len({getattr(cell, name) for cell in self._cells}) for name in PROPERTIES[1:]]
        return dict(zip(PROPERTIES, (1 / count for count in (len(self._cells), *counts))))


def retrieve(distances: np.ndarray, cells: Sequence[Cell], wanted: Sequence[Cell]) -> Retrieval:
    """What the nearest true pictures show.

    Args:
        distances: of each picture to the true picture of each cell, (pictures, cells).
        cells: of the columns.
        wanted: the cell of each picture.
    """
    pairs = [(cells[i], cell) for i, cell in zip(distances.argmin(1), wanted)]
    shares = [
        Share(sum(getattr(found, name) == getattr(cell, name) for found, cell in pairs), len(pairs))
        for name in PROPERTIES[1:]
    ]
    return Retrieval(Share(sum(found == cell for found, cell in pairs), len(pairs)), *shares)


def _rows(arrays: np.ndarray) -> np.ndarray:
    return arrays.reshape(len(arrays), -1).astype(np.float32)


def euclidean(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Root of the mean squared difference of rows: (n, d) and (m, d) -> (n, m)."""
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
