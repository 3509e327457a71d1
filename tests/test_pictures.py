import numpy as np
from PIL import Image

from mindone_vq.pictures import cover_masked, enlarge, grid


def test_small_pictures_are_enlarged_by_a_whole_factor():
    assert enlarge(Image.new("RGB", (32, 48))).size == (256, 384)
    picture = Image.new("RGB", (256, 256))
    assert enlarge(picture) is picture


def test_a_grid_shows_every_picture_below_its_label():
    colours = [["red", "green"], ["blue"]]
    rows = [[Image.new("RGB", (40, 40), colour) for colour in row] for row in colours]
    sheet = grid(rows, ["one", "a label that is much too long for one line of this sheet"])
    assert set(sheet.getdata()) >= {(255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 255)}
    counts = {colour: count for count, colour in sheet.getcolors(100_000)}
    assert counts[(255, 0, 0)] == counts[(0, 128, 0)] == counts[(0, 0, 255)] == 1600
    assert sheet.height > grid(rows).height


def test_masked_pixels_are_covered():
    covered = cover_masked(Image.new("RGB", (8, 8), "red"), np.array([[True, False], [False, False]]))
    pixels = np.asarray(covered)
    assert (pixels[:4, :4] == 128).all()
    assert (pixels[4:] == (255, 0, 0)).all()
