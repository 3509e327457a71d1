"""Batches of a dataset.

A batch is a function of the seed and the step, so that a run can be resumed at any step without replaying the others.
"""

import functools
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Optional

import numpy as np
from PIL import Image

from mindone_vq.pictures import to_rgb
from mindone_vq.training.data.dataset import CaptionedPictures, UnreadablePicture
from mindone_vq.training.devices import Devices

THREADS = 4  # that decode pictures


def to_pixels(
    picture: Image.Image,
    size: int,
    crop: str = "center",
    flip: bool = False,
    rng: Optional[np.random.Generator] = None,
) -> np.ndarray:
    """A square of a picture.

    Args:
        picture: it is scaled so that its shortest side is ``size``.
        size: the side of the square.
        crop: where the square is along the longer side: "center" or "random".
        flip: mirror left and right with probability one half.
        rng: the random numbers of a random crop and of ``flip``.

    Returns:
        (3, size, size) uint8.
    """
    picture = picture if picture.mode == "RGB" else to_rgb(picture)
    shortest = min(picture.size)
    if shortest != size:
        width, height = (round(side * size / shortest) for side in picture.size)
        picture = picture.resize((width, height), Image.LANCZOS)
    margin = np.array(picture.size) - size
    left, top = (int(x) for x in (margin // 2 if crop == "center" else rng.integers(0, margin + 1)))
    pixels = np.asarray(picture.crop((left, top, left + size, top + size))).transpose(2, 0, 1)  # HWC -> CHW
    return np.ascontiguousarray(_maybe_flipped(pixels, flip, rng))


def _maybe_flipped(pixels: np.ndarray, flip: bool, rng: Optional[np.random.Generator]) -> np.ndarray:
    return pixels[:, :, ::-1] if flip and rng.random() < 0.5 else pixels


@functools.lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


class Order:
    """Which items are in which batch: one epoch after the other, each a permutation, without a gap between them.

    A batch that an epoch does not fill continues with the next epoch, so that every item is used once in each.

    Args:
        count: items in the dataset; may be fewer than ``batch_size``.
        batch_size: items in a batch, over all devices.
        seed: of the permutations.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        self.count, self.batch_size, self.seed = count, batch_size, seed

    def batch(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """The items of batch ``step``, counted from 0, and the epoch of each: (batch_size,) int64 both."""
        epochs, within = np.divmod(step * self.batch_size + np.arange(self.batch_size), self.count)
        indices = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            indices[rows] = _permutation(self.count, self.seed, int(epoch))[within[rows]]
        return indices, epochs


class PixelBatches:
    """Batches of pixels: ``batch(step)`` depends on the arguments and the step alone, not on what was drawn before.

    The pictures of the next step are decoded in the background, until ``close``.

    Args:
        dataset: pictures that cannot be decoded are replaced by the next one that can.
        size, crop, flip: see ``to_pixels``.
        batch_size: pictures in a batch over all devices; their count must divide it.
        seed: of the order and of crop and flip.
        devices: which share each batch; this one's part of it is given.
        memory_limit: bytes; decoded pictures are kept in memory if all of them fit and the crop is not random.
    """

    def __init__(
        self,
        dataset: CaptionedPictures,
        size: int,
        batch_size: int,
        seed: int,
        *,
        devices: Devices = Devices(),  # noqa: B008  frozen
        crop: str = "center",
        flip: bool = False,
        memory_limit: int = 512 * 2**20,
    ):
        self.order = Order(len(dataset), batch_size, seed)
        self._dataset, self._devices, self._size, self._crop, self._flip = dataset, devices, size, crop, flip
        fits = crop == "center" and len(dataset) * 3 * size * size <= memory_limit
        # Memory that was not written to yet costs nothing.
        self._kept = np.empty((len(dataset), 3, size, size), np.uint8) if fits else None
        self._is_kept = np.zeros(len(dataset), bool)
        workers = min(THREADS, os.cpu_count() or 1)
        self._pool: Optional[ThreadPoolExecutor] = ThreadPoolExecutor(workers, thread_name_prefix="pixels")
        self._ahead: tuple[int, list[Future]] = (-1, [])

    def batch(self, step: int) -> np.ndarray:
        """This device's part of a batch, (pictures, 3, size, size) uint8.

        Raises:
            ValueError: not one picture of the dataset can be decoded, or this was closed.
        """
        if self._pool is None:
            raise ValueError("these batches were closed; make new ones to draw more.")
        ahead, items = self._ahead
        if ahead != step:
            for item in items:
                item.cancel()
            items = self._start(step)
        self._ahead = (step + 1, self._start(step + 1))  # queued behind the items of this step
        return np.stack([item.result() for item in items])

    def close(self) -> None:
        """Ends the threads; what they have not begun is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _start(self, step: int) -> list[Future]:
        items = zip(*map(self._devices.part, self.order.batch(step)))
        return [self._pool.submit(self._item, int(index), int(epoch)) for index, epoch in items]

    def _item(self, index: int, epoch: int) -> np.ndarray:
        """(3, size, size) uint8: one picture, cropped and flipped by random numbers of its own."""
        # numpy takes (a, b) and (a, b, 0) for the same seed, and (seed, epoch) is that of the order.
        rng = np.random.default_rng((self.order.seed, epoch, index + 1))
        if self._kept is None:
            return to_pixels(self._readable(index), self._size, self._crop, self._flip, rng)
        if not self._is_kept[index]:
            self._kept[index] = to_pixels(self._readable(index), self._size)
            self._is_kept[index] = True  # after the pixels: other threads look
        return _maybe_flipped(self._kept[index], self._flip, rng)

    def _readable(self, index: int) -> Image.Image:
        """The picture, or the next one that can be decoded."""
        for offset in range(len(self._dataset)):
            try:
                return self._dataset.picture((index + offset) % len(self._dataset))
            except UnreadablePicture:
                continue  # counted and named by the dataset
        raise ValueError(f"None of the {len(self._dataset):,} pictures can be decoded: look at the files.")
