import numpy as np
import pytest
from PIL import Image

from mindone_vq.pipelines.canvas import blended, place, to_mask, to_pixels, unknown_codes


def test_transparent_parts_become_white():
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    image.putpixel((1, 2), (10, 20, 30, 255))
    pixels = to_pixels(image, 4, 4)[0]
    assert tuple(pixels[2, 1]) == (10, 20, 30) and (pixels.reshape(-1, 3) == 255).all(-1).sum() == 15


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "CMYK", "LA", "YCbCr", "HSV"])
def test_every_mode_of_eight_bits(mode, rng):
    image = Image.fromarray(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8)).convert("RGB")
    if mode == "LA":
        image = image.convert("L")
    assert to_pixels(image.convert(mode), 6, 5).shape == (1, 6, 5, 3)


def test_arrays_are_pictures_of_their_values(rng):
    pixels = rng.integers(0, 256, (2, 6, 5, 3), dtype=np.uint8)
    assert np.array_equal(to_pixels(pixels, 6, 5), pixels)
    assert np.array_equal(to_pixels(pixels / 255, 6, 5), pixels)
    assert np.array_equal(to_pixels(list(pixels), 6, 5), pixels)
    assert np.array_equal(to_pixels(pixels[0, ..., :1], 6, 5)[0], pixels[0, ..., :1].repeat(3, -1))


def test_a_code_is_unknown_if_one_of_its_pixels_is(rng):
    mask = np.zeros((1, 8, 12), bool)
    mask[0, 3, 4] = True
    assert np.array_equal(unknown_codes(mask, 4), [[False, True, False, False, False, False]])
    assert np.array_equal(to_mask(mask[0], 8, 12), mask)


@pytest.mark.parametrize("as_mask", [lambda m: m.astype(np.uint8), lambda m: m * 1.0, lambda m: m * np.uint8(255)])
def test_masks_are_no_and_yes_in_any_type(as_mask, rng):
    masks = rng.random((2, 8, 12)) < 0.5
    assert np.array_equal(to_mask(as_mask(masks), 8, 12), masks)
    assert np.array_equal(to_mask(as_mask(masks[0]), 8, 12), masks[:1])
    assert np.array_equal(to_mask(as_mask(masks[..., None]), 8, 12), masks)


def test_a_shift_of_the_colours_leaves_no_seam():
    """A smooth picture painted too dark: the step at the edge of the mask goes, and outside nothing changes."""
    smooth = np.linspace(0.3, 0.6, 32)[None, :, None] * np.ones((32, 1, 3))
    mask = np.zeros((32, 32), bool)
    mask[8:24, 10:22] = True
    result = blended(smooth, smooth - 0.2, mask, reach=8)
    assert np.array_equal(result[~mask], smooth[~mask])
    steps = np.abs(np.diff(result[..., 0], axis=1))[:, [9, 21]][8:24]
    assert steps.max() < 0.04  # of 0.2
    assert np.abs(result[15, 16, 0] - (smooth[15, 16, 0] - 0.2)) < 0.15  # the middle stays nearer to what was painted
    assert np.array_equal(blended(smooth, smooth - 0.2, mask | True, reach=8), smooth - 0.2)


def test_a_canvas_for_outpainting():
    canvas, mask = place(Image.new("RGB", (4, 3), "red"), 8, 8, left=2, top=1)
    assert np.array_equal(np.asarray(mask) == 0, (np.asarray(canvas) == (255, 0, 0)).all(-1))
    assert (np.asarray(mask) == 0).sum() == 12
    with pytest.raises(ValueError, match=r"4 x 3 at \(5, 0\) does not fit a canvas of 8 x 8"):
        place(Image.new("RGB", (4, 3)), 8, 8, left=5, top=0)
