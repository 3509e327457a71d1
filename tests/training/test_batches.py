import threading
from contextlib import closing

import numpy as np
import pytest
from PIL import Image

from mindone_vq.training.data.batches import Order, PixelBatches, to_pixels
from mindone_vq.training.data.dataset import open_dataset
from mindone_vq.training.devices import Devices
from tests.training.picture_files import encoded, folder_of, noise, write_metadata, write_records


@pytest.mark.parametrize("width, height", [(40, 17), (17, 40), (40, 40), (8, 12), (16, 16), (16, 33)])
def test_the_centre_is_cropped(rng, width, height):
    picture, size = noise(rng, width, height), 16
    scale = size / min(width, height)
    resized = picture if scale == 1 else picture.resize((round(width * scale), round(height * scale)), Image.LANCZOS)
    whole = np.asarray(resized)
    top, left = (whole.shape[0] - size) // 2, (whole.shape[1] - size) // 2
    pixels = to_pixels(picture, size)
    assert pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    np.testing.assert_array_equal(pixels, whole[top : top + size, left : left + size].transpose(2, 0, 1))


def test_a_random_crop_goes_from_end_to_end(rng):
    columns = np.broadcast_to(np.arange(7, dtype=np.uint8)[None, :, None], (4, 7, 3))
    picture = Image.fromarray(np.ascontiguousarray(columns))
    lefts = set()
    for _ in range(100):
        pixels = to_pixels(picture, 4, "random", rng=rng)
        lefts.add(int(pixels[0, 0, 0]))
        np.testing.assert_array_equal(pixels[0], columns[:, pixels[0, 0, 0] :][:, :4, 0])
    assert lefts == {0, 1, 2, 3}


def test_half_of_the_pictures_are_flipped(rng):
    picture = noise(rng, 4, 4)
    straight = to_pixels(picture, 4)
    flipped = 0
    for _ in range(200):
        pixels = to_pixels(picture, 4, flip=True, rng=rng)
        turned = not np.array_equal(pixels, straight)
        np.testing.assert_array_equal(pixels, straight[:, :, ::-1] if turned else straight)
        flipped += turned
    assert 70 <= flipped <= 130


@pytest.mark.parametrize("count, batch_size", [(10, 4), (12, 4), (3, 8), (1, 5), (7, 7)])
def test_the_stream_is_one_permutation_after_the_other(count, batch_size):
    order = Order(count, batch_size, seed=5)
    stream = np.concatenate([order.batch(step)[0] for step in range(6 * count)])
    epochs = np.concatenate([order.batch(step)[1] for step in range(6 * count)])
    stream, epochs = stream.reshape(-1, count), epochs.reshape(-1, count)
    np.testing.assert_array_equal(np.sort(stream), np.broadcast_to(np.arange(count), stream.shape))
    np.testing.assert_array_equal(epochs, np.broadcast_to(np.arange(len(epochs))[:, None], epochs.shape))
    # A run that is resumed after an update goes on with the same order.
    expected = [np.random.default_rng((5, epoch)).permutation(count) for epoch in range(len(stream))]
    np.testing.assert_array_equal(stream, expected)


def test_the_order_depends_on_step_and_seed_alone():
    forwards, backwards = Order(10, 4, 5), Order(10, 4, 5)
    expected = [forwards.batch(step)[0] for step in range(20)]
    for step in reversed(range(20)):
        np.testing.assert_array_equal(backwards.batch(step)[0], expected[step])
    assert not np.array_equal(
        np.concatenate(expected[:3]), np.concatenate([Order(10, 4, 6).batch(i)[0] for i in range(3)])
    )


def test_batches_hold_the_pictures_of_the_order(tmp_path, rng):
    dataset = open_dataset(folder_of(tmp_path, rng, 5), captions_required=True)
    with closing(PixelBatches(dataset, 8, batch_size=3, seed=1)) as batches:
        for step in range(4):
            expected = [to_pixels(dataset.picture(i), 8) for i in Order(5, 3, 1).batch(step)[0]]
            np.testing.assert_array_equal(batches.batch(step), expected)


@pytest.mark.parametrize("crop", ["center", "random"])
def test_batches_are_the_same_however_they_are_drawn(tmp_path, rng, crop):
    dataset = open_dataset(folder_of(tmp_path, rng, 5, bad=[2]), captions_required=True)
    options = dict(size=8, batch_size=6, seed=3, crop=crop, flip=True)
    with closing(PixelBatches(dataset, memory_limit=0, **options)) as plain:
        expected = {step: plain.batch(step) for step in reversed(range(8))}
    with closing(PixelBatches(dataset, **options)) as ahead:
        for step in range(8):
            np.testing.assert_array_equal(ahead.batch(step), expected[step])
        for step in (5, 1, 1, 2, 0):  # from anywhere, and again
            np.testing.assert_array_equal(ahead.batch(step), expected[step])
    ranks = [PixelBatches(dataset, devices=Devices(rank, 3), **options) for rank in range(3)]
    for step in (0, 4):
        parts = [rank.batch(step) for rank in ranks]
        assert [part.shape for part in parts] == [(2, 3, 8, 8)] * 3
        np.testing.assert_array_equal(np.concatenate(parts), expected[step])
    for rank in ranks:
        rank.close()


def test_chance_differs_between_epochs_and_pictures(tmp_path, rng):
    """The same picture 20 times: flipped in some places and not in others, and not the same in each epoch."""
    folder = folder_of(tmp_path, rng, 1)
    write_metadata(folder, *[{"file_name": "0.png", "text": str(i)} for i in range(20)])
    dataset = open_dataset(folder, captions_required=True)
    straight = to_pixels(dataset.picture(0), 8)
    with closing(PixelBatches(dataset, 8, batch_size=20, seed=0, flip=True)) as batches:
        flipped = []
        for epoch in range(2):
            by_index = np.empty(20, bool)
            by_index[batches.order.batch(epoch)[0]] = [not np.array_equal(x, straight) for x in batches.batch(epoch)]
            flipped.append(by_index)
    assert 0 < flipped[0].sum() < 20
    assert (flipped[0] != flipped[1]).any()


def test_undecodable_pictures_are_replaced_by_the_next(tmp_path, rng):
    dataset = open_dataset(folder_of(tmp_path, rng, 6, bad=[0, 2, 3, 5]), captions_required=True)
    first, fourth = to_pixels(dataset.picture(1), 8), to_pixels(dataset.picture(4), 8)
    by_index = np.array([first, first, fourth, fourth, fourth, first])  # after the last comes the first, which is bad
    with closing(PixelBatches(dataset, 8, batch_size=6, seed=0)) as batches:
        for step in range(2):
            np.testing.assert_array_equal(batches.batch(step), by_index[batches.order.batch(step)[0]])
    assert sorted(dataset.problems.undecodable) == ["0.png", "2.png", "3.png", "5.png"]
    assert "4 pictures could not be decoded" in dataset.problems.summary()


def test_nothing_decodable_is_an_error(tmp_path, rng):
    dataset = open_dataset(folder_of(tmp_path, rng, 2, bad=[0, 1]), captions_required=True)
    with closing(PixelBatches(dataset, 8, 2, 0)) as batches, pytest.raises(ValueError, match="None of the 2 pictures"):
        batches.batch(0)


@pytest.mark.parametrize(
    "options, times",
    [
        (dict(memory_limit=4 * 3 * 8 * 8), range(4, 9)),  # two threads may decode the same picture
        (dict(memory_limit=4 * 3 * 8 * 8 - 1), [16]),
        (dict(crop="random"), [16]),
    ],
)
def test_small_datasets_are_decoded_once(tmp_path, rng, monkeypatch, options, times):
    dataset = open_dataset(folder_of(tmp_path, rng, 4), captions_required=True)
    decoded, picture = [], dataset.picture
    monkeypatch.setattr(dataset, "picture", lambda i: decoded.append(i) or picture(i))
    batches = PixelBatches(dataset, 8, batch_size=4, seed=0, flip=True, **options)
    with closing(batches):
        for step in range(3):
            batches.batch(step)
        [item.result() for item in batches._ahead[1]]  # of the step after
    assert len(decoded) in times


def test_the_next_step_is_decoded_meanwhile_and_closing_ends_the_threads(tmp_path, rng, monkeypatch):
    dataset = open_dataset(folder_of(tmp_path, rng, 4), captions_required=True)
    second, picture = threading.Event(), dataset.picture
    later = set(Order(4, 2, 0).batch(1)[0].tolist())
    monkeypatch.setattr(dataset, "picture", lambda i: (second.set() if i in later else None, picture(i))[1])

    def threads():
        return [thread for thread in threading.enumerate() if thread.name.startswith("pixels")]

    batches = PixelBatches(dataset, 8, batch_size=2, seed=0)
    batches.batch(0)
    assert second.wait(10)
    assert threads()
    batches.close()
    batches.close()
    assert not threads()
    with pytest.raises(ValueError, match="closed"):
        batches.batch(1)


def test_mindrecord_is_read_from_several_threads(tmp_path, rng):
    pictures = [noise(rng) for _ in range(20)]
    write_records(tmp_path / "x.mindrecord", [{"image": encoded(picture)} for picture in pictures])
    dataset = open_dataset(tmp_path, captions_required=False)
    with closing(PixelBatches(dataset, 8, batch_size=10, seed=0, memory_limit=0)) as batches:
        for step in range(4):
            expected = [to_pixels(pictures[i], 8) for i in batches.order.batch(step)[0]]
            np.testing.assert_array_equal(batches.batch(step), expected)
