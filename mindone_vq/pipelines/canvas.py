"""Pictures and masks of users as arrays of the model's size, and blending a painted region into its picture."""

from collections.abc import Sequence
from typing import Union

import numpy as np
from PIL import Image

from mindone_vq.pictures import to_rgb
from mindone_vq.weights.pretrained import logger

Picture = Union[Image.Image, np.ndarray]
Pictures = Union[Picture, Sequence[Picture]]
CHANNELS = (1, 3, 4)  # an array's last axis, where it is one of colours


def to_pixels(pictures: Pictures, height: int, width: int, name: str = "image") -> np.ndarray:
    """Pictures of any size and mode -> (batch, height, width, 3) uint8; transparent parts become white.

    Args:
        pictures: PIL pictures, or arrays (H, W), (H, W, channels) or a batch of such, uint8 or float in [0, 1].
        height, width: pictures of another size are resized, with a warning.
        name: of the argument, for errors.

    Raises:
        TypeError, ValueError: not a picture.
    """
    return np.stack([_fitted(_to_rgb(each, name), height, width, name) for each in _listed(pictures, name)])


def to_mask(masks: Pictures, height: int, width: int, name: str = "mask") -> np.ndarray:
    """Masks of any size and mode -> (batch, height, width) booleans: white, 1 and True mark the region to paint.

    Integers that are all 0 or 1 are taken as booleans, not as two shades of black.
    """
    if isinstance(masks, np.ndarray) and masks.ndim == 3 and masks.shape[-1] not in CHANNELS:
        masks = list(masks)
    rows = []
    for each in _listed(masks, name):
        if isinstance(each, np.ndarray) and each.dtype.kind in "iu" and each.size and set(np.unique(each)) <= {0, 1}:
            each = each.astype(bool)
        grey = _to_rgb(each, name).convert("L")
        rows.append(_fitted(grey, height, width, name, Image.NEAREST) >= 128)
    return np.stack(rows)


def unknown_codes(mask: np.ndarray, factor: int) -> np.ndarray:
    """(batch, H, W) -> (batch, H / factor * W / factor): codes with at least one pixel that is to be painted."""
    batch, height, width = mask.shape
    patches = mask.reshape(batch, height // factor, factor, width // factor, factor)
    return patches.any((2, 4)).reshape(batch, -1)


def blended(original: np.ndarray, painted: np.ndarray, mask: np.ndarray, reach: int) -> np.ndarray:
    """``painted`` where ``mask`` is True, ``original`` elsewhere, without a seam.

    Inside the mask, up to ``reach`` pixels from its edge, the painted pixels are shifted by what they differ by along
    the edge: smoothly, and less with the distance. Outside nothing changes.

    Args:
        original, painted: (H, W, 3) floats in [0, 1].
        mask: (H, W) booleans.
        reach: in pixels.
    """
    if mask.all():
        return painted
    shift = _spread((original - painted) * ~mask[..., None], ~mask)
    nearness, reached = np.zeros(mask.shape), ~mask
    for _ in range(reach):
        reached = _grown(reached)
        nearness += reached / reach
    shifted = np.clip(painted + shift * nearness[..., None], 0, 1)
    return np.where(mask[..., None], shifted, original)


def place(picture: Image.Image, width: int, height: int, left: int, top: int) -> tuple[Image.Image, Image.Image]:
    """A canvas for outpainting: the picture with its corner at (left, top), and the mask of the region around it.

    Raises:
        ValueError: the picture would stick out.
    """
    if left < 0 or top < 0 or left + picture.width > width or top + picture.height > height:
        raise ValueError(
            f"A picture of {picture.width} x {picture.height} at ({left}, {top}) does not fit a canvas of {width} x "
            f"{height}, the size that the model paints: make it smaller."
        )
    canvas, mask = Image.new("RGB", (width, height)), Image.new("L", (width, height), 255)
    canvas.paste(picture.convert("RGB"), (left, top))
    mask.paste(0, (left, top, left + picture.width, top + picture.height))
    return canvas, mask


def _listed(pictures: Pictures, name: str) -> list[Picture]:
    if isinstance(pictures, np.ndarray) and pictures.ndim == 4:
        pictures = list(pictures)
    listed = list(pictures) if isinstance(pictures, (list, tuple)) else [pictures]
    if not listed:
        raise ValueError(f"{name} is an empty list; give at least one.")
    return listed


def _to_rgb(picture: Picture, name: str) -> Image.Image:
    if isinstance(picture, np.ndarray):
        picture = _from_array(picture, name)
    if not isinstance(picture, Image.Image):
        raise TypeError(f"{name} is a PIL picture or a numpy array, or a list of them, given {type(picture).__name__}.")
    try:
        return to_rgb(picture)
    except ValueError as error:
        raise ValueError(f"{name} has mode {picture.mode!r}: {error}.") from error


def _from_array(array: np.ndarray, name: str) -> Image.Image:
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[-1] not in CHANNELS) or not array.size:
        raise ValueError(
            f"{name} has shape {array.shape}; expected (H, W), (H, W, 3) or (H, W, 4), or a batch of them."
        )
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    elif np.issubdtype(array.dtype, np.floating):
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise ValueError(f"{name} goes from {array.min()} to {array.max()}; floats must be in [0, 1].")
        array = (array * 255).round().astype(np.uint8)
    elif array.dtype == np.uint16:
        array = (array / 257).round().astype(np.uint8)
    elif array.dtype != np.uint8:
        raise TypeError(f"{name} is an array of {array.dtype}; expected uint8, uint16, booleans, or floats in [0, 1].")
    return Image.fromarray(array)


def _fitted(picture: Image.Image, height: int, width: int, name: str, how: int = Image.LANCZOS) -> np.ndarray:
    if picture.size != (width, height):
        logger.warning("%s is %d x %d; the model paints %d x %d: it is resized.", name, *picture.size, width, height)
        picture = picture.resize((width, height), how)
    return np.asarray(picture)


def _spread(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Fills unknown pixels smoothly from the known ones, by averages over ever larger squares (pull-push)."""
    if known.all() or not known.any():
        return values
    height, width = known.shape
    padding = (0, height % 2), (0, width % 2)
    weights = np.pad(known.astype(values.dtype), padding)[..., None]
    sums = np.pad(values * known[..., None], (*padding, (0, 0)))
    rows, columns = weights.shape[0] // 2, weights.shape[1] // 2
    weights, sums = (each.reshape(rows, 2, columns, 2, -1).sum((1, 3)) for each in (weights, sums))
    coarse = _spread(sums / np.maximum(weights, 1), weights[..., 0] > 0)
    fine = coarse.repeat(2, 0).repeat(2, 1)[:height, :width]
    return np.where(known[..., None], values, fine)


def _grown(mask: np.ndarray) -> np.ndarray:
    """One pixel larger in every direction."""
    padded = np.pad(mask, 1)
    height, width = mask.shape
    return np.any([padded[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)
