"""Batches of a dataset.

A batch is a function of the seed and the step, so that a run can be resumed at any step without replaying the others.
"""

import functools
import os
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Optional

import numpy as np
from PIL import Image

from mindone_vq.pictures import to_rgb
from mindone_vq.training.data import CaptionedPictures, UnreadablePicture

CROPS = ("center", "random")


def to_pixels(
    picture: Image.Image,
    size: int,
    crop: str = "center",
    flip: bool = False,
    rng: Optional[np.random.Generator] = None,
) -> np.ndarray:
    """A square of a picture.

    Args:
        picture: its shortest side is brought to ``size``.
        size: the side of the square.
        crop: where the square is along the longer side: "center" or "random".
        flip: turn left and right around, every second time.
        rng: the source of chance; needed for a random crop and for ``flip``.

    Returns:
        (3, size, size) uint8.
    """
    if crop not in CROPS:
        raise ValueError(f"crop is {crop!r}; expected one of {', '.join(CROPS)}.")
    if size < 1:
        raise ValueError(f"size is {size}; it must be at least 1.")
    if rng is None and (crop == "random" or flip):
        raise ValueError("rng is None; a random crop and flip need one: pass numpy.random.default_rng(seed).")
    picture = picture if picture.mode == "RGB" else to_rgb(picture)
    shortest = min(picture.size)
    if shortest != size:
        width, height = (round(side * size / shortest) for side in picture.size)
        picture = picture.resize((width, height), Image.LANCZOS)
    room = np.array(picture.size) - size
    left, top = (int(x) for x in (room // 2 if crop == "center" else rng.integers(0, room + 1)))
    pixels = np.asarray(picture.crop((left, top, left + size, top + size))).transpose(2, 0, 1)  # HWC -> CHW
    return np.ascontiguousarray(_maybe_flipped(pixels, flip, rng))


def to_model_range(pixels: np.ndarray) -> np.ndarray:
    """uint8 of any shape to float32 in [-1, 1]."""
    if pixels.dtype != np.uint8:
        raise ValueError(f"the pixels are {pixels.dtype}; expected uint8, as to_pixels gives them.")
    return pixels.astype(np.float32) / 127.5 - 1


def _maybe_flipped(pixels: np.ndarray, flip: bool, rng: Optional[np.random.Generator]) -> np.ndarray:
    return pixels[:, :, ::-1] if flip and rng.random() < 0.5 else pixels


@functools.lru_cache(maxsize=4)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


class Order:
    """Which items are in which batch: one epoch after the other, each a permutation, without a gap between them.

    The batch that an epoch does not fill goes on with the next epoch, so that every item is used once in each.

    Args:
        count: items in the dataset; may be fewer than ``batch_size``.
        batch_size: items in a batch, over all ranks.
        seed: at least 0.
    """

    def __init__(self, count: int, batch_size: int, seed: int):
        if count < 1 or batch_size < 1 or seed < 0:
            raise ValueError(
                f"count is {count}, batch_size {batch_size}, seed {seed}; the first two must be at least 1, seed 0."
            )
        self.count, self.batch_size, self.seed = count, batch_size, seed

    def indices(self, step: int) -> np.ndarray:
        """(batch_size,) int64 below ``count``: the items of batch ``step``, which is counted from 0."""
        epochs, within = self._positions(step)
        indices = np.empty(self.batch_size, np.int64)
        for epoch in np.unique(epochs):
            rows = epochs == epoch
            indices[rows] = _permutation(self.count, self.seed, int(epoch))[within[rows]]
        return indices

    def epochs(self, step: int) -> np.ndarray:
        """(batch_size,) int64: the epoch that each item of a batch belongs to."""
        return self._positions(step)[0]

    def _positions(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        if step < 0:
            raise ValueError(f"step is {step}; it must be at least 0.")
        return np.divmod(step * self.batch_size + np.arange(self.batch_size), self.count)


class PixelBatches:
    """Batches of pixels: ``batch(step)`` depends on the arguments and the step alone, not on what was drawn before.

    The pictures of the next step are decoded in the background meanwhile; ``close``, or a with statement, ends that.

    Args:
        dataset: pictures that cannot be decoded are replaced by the next one that can.
        size, crop, flip: see ``to_pixels``.
        batch_size: pictures in a batch over all ranks; ``world_size`` must divide it.
        seed: of the order and of crop and flip.
        rank, world_size: which part of each batch is given: rows rank * local ... (rank + 1) * local.
        memory_limit: bytes; decoded pictures are kept in memory if all of them fit and the crop is not random.
        threads: that decode.
        prefetch: False: decode only when asked; the batches are the same.
    """

    def __init__(
        self,
        dataset: CaptionedPictures,
        size: int,
        batch_size: int,
        seed: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        crop: str = "center",
        flip: bool = False,
        memory_limit: int = 512 * 2**20,
        threads: int = 4,
        prefetch: bool = True,
    ):
        if batch_size % world_size or not 0 <= rank < world_size:
            raise ValueError(
                f"batch_size is {batch_size}, rank {rank}, world_size {world_size}; "
                "world_size must divide batch_size, and rank be from 0 to world_size - 1."
            )
        if crop not in CROPS or size < 1:
            raise ValueError(f"crop is {crop!r}, size {size}; expected one of {', '.join(CROPS)}, and at least 1.")
        self.order = Order(len(dataset), batch_size, seed)
        self.local_batch = batch_size // world_size
        self._dataset, self._size, self._crop, self._flip = dataset, size, crop, flip
        self._rows = slice(rank * self.local_batch, (rank + 1) * self.local_batch)
        fits = crop == "center" and len(dataset) * 3 * size * size <= memory_limit
        # Memory that was not written to yet costs nothing.
        self._kept = np.empty((len(dataset), 3, size, size), np.uint8) if fits else None
        self._is_kept = np.zeros(len(dataset), bool)
        workers = min(threads, os.cpu_count() or 1)
        self._pool: Optional[ThreadPoolExecutor] = ThreadPoolExecutor(workers, thread_name_prefix="pixels")
        self._prefetch = prefetch
        self._ahead: tuple[int, list[Future]] = (-1, [])

    def batch(self, step: int) -> np.ndarray:
        """(local_batch, 3, size, size) uint8.

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
        if self._prefetch:
            self._ahead = (step + 1, self._start(step + 1))  # queued behind the items of this step
        return np.stack([item.result() for item in items])

    def close(self) -> None:
        """Ends the threads; what they have not begun is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def __enter__(self) -> "PixelBatches":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _start(self, step: int) -> list[Future]:
        epochs, indices = self.order.epochs(step)[self._rows], self.order.indices(step)[self._rows]
        return [self._pool.submit(self._item, int(epoch), int(index)) for epoch, index in zip(epochs, indices)]

    def _item(self, epoch: int, index: int) -> np.ndarray:
        """(3, size, size) uint8: one picture, cropped and flipped by chance of its own."""
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
        raise ValueError(f"not one of {len(self._dataset):,} pictures can be decoded: look at the files.")
