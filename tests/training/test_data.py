import io
import json
import os
import threading

import numpy as np
import pytest
from mindspore.mindrecord import FileWriter
from PIL import Image

from mindone_vq.training.data import (
    Order,
    PixelBatches,
    Problems,
    UnreadablePicture,
    open_dataset,
    to_model_range,
    to_pixels,
)


def noise(rng, width=12, height=10):
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def encoded(picture, **options):
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", **options)
    return buffer.getvalue()


def undecodable(picture):
    """The header and the beginning of a PNG."""
    return encoded(picture)[: len(encoded(picture)) // 2]


def write_metadata(folder, *entries):
    lines = [entry if isinstance(entry, str) else json.dumps(entry) for entry in entries]
    (folder / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


def folder_of(tmp_path, rng, count, bad=()):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(count):
        picture = noise(rng)
        (folder / f"{i}.png").write_bytes(undecodable(picture) if i in bad else encoded(picture))
    write_metadata(folder, *({"file_name": f"{i}.png", "text": f"caption {i}"} for i in range(count)))
    return folder


def write_records(path, records, shards=1):
    writer = FileWriter(str(path), shard_num=shards)
    writer.add_schema({name: {"type": "bytes" if name == "image" else "string"} for name in records[0]}, "test")
    writer.write_raw_data(records)
    writer.commit()


# ---- formats


def test_png_and_jpeg_are_read_as_they_are(tmp_path, rng):
    noise(rng).save(tmp_path / "a.png")
    noise(rng).save(tmp_path / "b.JPEG", quality=90)
    dataset = open_dataset(tmp_path, captions_required=False)
    assert [dataset.name(i) for i in range(len(dataset))] == ["a.png", "b.JPEG"]
    for i, name in enumerate(("a.png", "b.JPEG")):
        assert dataset.picture(i).mode == "RGB"
        np.testing.assert_array_equal(dataset.picture(i), Image.open(tmp_path / name))


def test_transparency_lies_on_white(tmp_path):
    palette = Image.new("P", (2, 1))
    palette.putpalette([200, 0, 0, 0, 0, 100])
    palette.putdata([0, 1])
    palette.save(tmp_path / "palette.png", transparency=0)
    rgba = Image.new("RGBA", (2, 1))
    rgba.putdata([(10, 20, 30, 255), (0, 0, 0, 51)])
    rgba.save(tmp_path / "rgba.png")
    Image.fromarray(np.array([[[7, 255], [7, 0]]], np.uint8), "LA").save(tmp_path / "gray.png")
    dataset = open_dataset(tmp_path, captions_required=False)
    found = {dataset.name(i): np.asarray(dataset.picture(i))[0].tolist() for i in range(3)}
    assert found["palette.png"] == [[255, 255, 255], [0, 0, 100]]
    assert found["rgba.png"] == [[10, 20, 30], [204, 204, 204]]  # black with 51 / 255 of it
    assert found["gray.png"] == [[7, 7, 7], [255, 255, 255]]


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    Image.fromarray(np.array([[0, 200 * 257 + 127, 65535]], np.uint16)).save(tmp_path / "deep.png")
    pixels = np.asarray(open_dataset(tmp_path, captions_required=False).picture(0))
    assert pixels[0].tolist() == [[0] * 3, [200] * 3, [255] * 3]


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(UnreadablePicture, match=r"float\.tiff.*unknown range"):
        open_dataset(tmp_path, captions_required=False).picture(0)


def test_exif_turns_the_picture(tmp_path, rng):
    picture, exif = noise(rng), Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    picture.save(tmp_path / "turned.png", exif=exif)
    turned = open_dataset(tmp_path, captions_required=False).picture(0)
    np.testing.assert_array_equal(turned, np.rot90(np.asarray(picture), -1))


# ---- datasets and what is wrong in them


def test_a_folder_with_captions(tmp_path, rng):
    folder = folder_of(tmp_path, rng, 3)
    (folder / "metadata.jsonl").write_bytes("\ufeff".encode() + (folder / "metadata.jsonl").read_bytes() + b"\n \n")
    dataset = open_dataset(folder, captions_required=True)
    assert dataset.captions == ["caption 0", "caption 1", "caption 2"]
    assert dataset.problems == Problems(total=3)
    assert dataset.problems.summary() == "none of 3 entries were left out"


def test_another_caption_column(tmp_path, rng):
    folder = folder_of(tmp_path, rng, 1)
    write_metadata(folder, {"file_name": "0.png", "text": "no", "caption_en": "yes", "more": [1]})
    assert open_dataset(folder, True, caption_column="caption_en").captions == ["yes"]


def test_every_kind_of_problem_is_counted_and_named(tmp_path, rng):
    folder = folder_of(tmp_path, rng, 3)
    encoded_outside = tmp_path / "outside.png"
    encoded_outside.write_bytes(encoded(noise(rng)))
    (folder / "text.png").write_text("this is no picture")
    write_metadata(
        folder,
        {"file_name": "0.png", "text": "good"},
        {"file_name": "text.png", "text": "x"},
        {"file_name": "nowhere.png", "text": "x"},
        {"file_name": "1.png", "text": "  "},
        {"file_name": "2.png"},
        '{"file_name": "2.png", "te',
        '["2.png", "x"]',
        {"text": "x"},
        {"file_name": "../outside.png", "text": "x"},
        {"file_name": str(encoded_outside), "text": "x"},
    )
    dataset = open_dataset(folder, captions_required=True)
    assert dataset.captions == ["good"]
    assert dataset.problems == Problems(
        total=10,
        malformed=["line 6", "line 7", "line 8"],
        outside=["../outside.png", str(encoded_outside)],
        uncaptioned=["1.png", "2.png"],
        missing=["nowhere.png"],
        unreadable=["text.png"],
    )
    assert dataset.problems.summary() == (
        "9 of 10 entries were left out: 3 malformed lines (line 6, line 7, line 8), 2 file names that leave the folder "
        f"(../outside.png, {encoded_outside}), 1 missing file (nowhere.png), 1 unreadable picture (text.png), "
        "2 without a caption (1.png, 2.png)"
    )
    without = open_dataset(folder, captions_required=False)
    assert without.captions == ["good", "", ""]
    assert without.problems.uncaptioned == []


def test_a_summary_names_five_at_most():
    problems = Problems(total=2000, missing=[f"{i}.png" for i in range(1007)], undecodable=["u.png"])
    assert problems.summary() == (
        "1,007 of 2,000 entries were left out: 1,007 missing files (0.png, 1.png, 2.png, 3.png, 4.png and 1,002 more)"
        "; 1 picture could not be decoded when read (u.png)"
    )


def test_a_folder_without_captions_is_searched_and_sorted(tmp_path, rng):
    for name in ("b.png", "a/z.png", "a/._hidden.png", ".cache/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(noise(rng)))
    (tmp_path / "broken.jpg").write_bytes(b"broken")
    (tmp_path / "notes.txt").write_text("no picture")
    dataset = open_dataset(tmp_path, captions_required=False)
    assert [dataset.name(i) for i in range(len(dataset))] == ["a/z.png", "b.png"]
    assert dataset.problems == Problems(total=3, unreadable=["broken.jpg"])
    with pytest.raises(ValueError, match=r"holds 3 pictures and neither metadata\.jsonl nor MindRecord\. Expected"):
        open_dataset(tmp_path, captions_required=True)


def test_nothing_that_can_be_used_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist. Expected a folder"):
        open_dataset(tmp_path / "nowhere", captions_required=False)
    write_metadata(tmp_path, {"file_name": "a.png", "text": "a"})
    with pytest.raises(ValueError, match=r"1 of 1 entries was left out: 1 missing file \(a\.png\)\. Expected"):
        open_dataset(tmp_path, captions_required=True)


def test_an_undecodable_picture_is_found_when_it_is_read(tmp_path, rng):
    dataset = open_dataset(folder_of(tmp_path, rng, 2, bad=[1]), captions_required=True)
    assert len(dataset) == 2 and dataset.problems.undecodable == []
    for _ in range(2):
        with pytest.raises(UnreadablePicture, match=r"1\.png cannot be decoded"):
            dataset.picture(1)
    assert dataset.problems.undecodable == ["1.png"]


def test_the_fingerprint_changes_with_files_and_captions(tmp_path, rng):
    folder = folder_of(tmp_path, rng, 2)
    entries = [{"file_name": "0.png", "text": "a"}, {"file_name": "1.png", "text": "b"}]
    fingerprints = set()

    def fingerprint():
        first, second = (open_dataset(folder, True).fingerprint() for _ in range(2))
        assert first == second and len(first) == 64
        fingerprints.add(first)

    write_metadata(folder, *entries)
    fingerprint()
    write_metadata(folder, *entries[::-1])
    fingerprint()
    write_metadata(folder, entries[0], {"file_name": "1.png", "text": "c"})
    fingerprint()
    os.utime(folder / "0.png", ns=(10**18, 10**18))
    fingerprint()
    (folder / "0.png").write_bytes((folder / "0.png").read_bytes() + b"more")
    os.utime(folder / "0.png", ns=(10**18, 10**18))
    fingerprint()
    assert len(fingerprints) == 5


@pytest.mark.parametrize("shards", [1, 3])
def test_mindrecord_gives_what_was_written(tmp_path, rng, shards):
    pictures = [noise(rng) for _ in range(7)]
    records = [{"image": encoded(picture), "text": f"caption {i}"} for i, picture in enumerate(pictures)]
    records[2]["text"], records[4]["image"] = " ", b"this is no picture"
    records[6]["image"] = undecodable(pictures[6])
    write_records(tmp_path / "x.mindrecord", records, shards)
    file = tmp_path / ("x.mindrecord" if shards == 1 else "x.mindrecord0")  # which stands for all shards
    for path in (tmp_path, file):
        dataset = open_dataset(path, captions_required=True)
        assert dataset.captions == [f"caption {i}" for i in (0, 1, 3, 5, 6)]
        for i, number in enumerate((0, 1, 3, 5)):
            assert dataset.name(i) == f"record {number}"
            np.testing.assert_array_equal(dataset.picture(i), pictures[number])
        with pytest.raises(UnreadablePicture, match="record 6"):
            dataset.picture(4)
        assert dataset.problems == Problems(
            total=7, uncaptioned=["record 2"], unreadable=["record 4"], undecodable=["record 6"]
        )
        assert dataset.fingerprint() == open_dataset(path, captions_required=True).fingerprint()
    assert open_dataset(tmp_path, captions_required=False).captions[2] == " "


def test_mindrecord_without_captions_and_with_other_fields(tmp_path, rng):
    write_records(tmp_path / "x.mindrecord", [{"image": encoded(noise(rng))}])
    assert open_dataset(tmp_path, captions_required=False).captions == [""]
    with pytest.raises(ValueError, match=r"has the fields image \(bytes\); expected text of type string"):
        open_dataset(tmp_path, captions_required=True)
    with pytest.raises(ValueError, match="expected pixels of type bytes.*image_column"):
        open_dataset(tmp_path, captions_required=False, image_column="pixels")


def test_another_file_is_not_mindrecord(tmp_path):
    (tmp_path / "x.mindrecord").write_bytes(b"something else")
    with pytest.raises(ValueError, match="is not readable as MindRecord"):
        open_dataset(tmp_path / "x.mindrecord", captions_required=False)


# ---- pixels


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


def test_wrong_arguments_of_pixels_are_named(rng):
    for options, message in (
        (dict(size=0), "size is 0"),
        (dict(size=4, crop="left"), "crop is 'left'; expected one of center, random"),
        (dict(size=4, crop="random"), "rng is None"),
        (dict(size=4, flip=True), "rng is None"),
    ):
        with pytest.raises(ValueError, match=message):
            to_pixels(noise(rng), **options)


def test_the_range_of_the_model():
    found = to_model_range(np.array([0, 51, 255], np.uint8))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [-1, -0.6, 1], atol=1e-7)
    with pytest.raises(ValueError, match="float64; expected uint8"):
        to_model_range(np.zeros(1))


# ---- order and batches


@pytest.mark.parametrize("count, batch_size", [(10, 4), (12, 4), (3, 8), (1, 5), (7, 7)])
def test_the_stream_is_one_permutation_after_the_other(count, batch_size):
    order = Order(count, batch_size, seed=5)
    stream = np.concatenate([order.indices(step) for step in range(6 * count)])
    epochs = np.concatenate([order.epochs(step) for step in range(6 * count)])
    stream, epochs = stream.reshape(-1, count), epochs.reshape(-1, count)
    np.testing.assert_array_equal(np.sort(stream), np.broadcast_to(np.arange(count), stream.shape))
    np.testing.assert_array_equal(epochs, np.broadcast_to(np.arange(len(epochs))[:, None], epochs.shape))
    # A run that is resumed after an update goes on with the same order.
    expected = [np.random.default_rng((5, epoch)).permutation(count) for epoch in range(len(stream))]
    np.testing.assert_array_equal(stream, expected)


def test_the_order_depends_on_step_and_seed_alone():
    forwards, backwards = Order(10, 4, 5), Order(10, 4, 5)
    expected = [forwards.indices(step) for step in range(20)]
    for step in reversed(range(20)):
        np.testing.assert_array_equal(backwards.indices(step), expected[step])
    assert not np.array_equal(
        np.concatenate(expected[:3]), np.concatenate([Order(10, 4, 6).indices(i) for i in range(3)])
    )
    for arguments in ((0, 4, 5), (10, 0, 5), (10, 4, -1)):
        with pytest.raises(ValueError, match="must be at least 1"):
            Order(*arguments)
    with pytest.raises(ValueError, match="step is -1"):
        forwards.indices(-1)


def test_batches_hold_the_pictures_of_the_order(tmp_path, rng):
    dataset = open_dataset(folder_of(tmp_path, rng, 5), captions_required=True)
    with PixelBatches(dataset, 8, batch_size=3, seed=1) as batches:
        for step in range(4):
            expected = [to_pixels(dataset.picture(i), 8) for i in Order(5, 3, 1).indices(step)]
            np.testing.assert_array_equal(batches.batch(step), expected)


@pytest.mark.parametrize("crop", ["center", "random"])
def test_batches_are_the_same_however_they_are_drawn(tmp_path, rng, crop):
    dataset = open_dataset(folder_of(tmp_path, rng, 5, bad=[2]), captions_required=True)
    options = dict(size=8, batch_size=6, seed=3, crop=crop, flip=True)
    with PixelBatches(dataset, prefetch=False, memory_limit=0, threads=1, **options) as plain:
        expected = [plain.batch(step) for step in range(8)]
    with PixelBatches(dataset, **options) as ahead:
        for step in range(8):
            np.testing.assert_array_equal(ahead.batch(step), expected[step])
        for step in (5, 1, 1, 2, 0):  # from anywhere, and again
            np.testing.assert_array_equal(ahead.batch(step), expected[step])
    ranks = [PixelBatches(dataset, rank=rank, world_size=3, **options) for rank in range(3)]
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
    with PixelBatches(dataset, 8, batch_size=20, seed=0, flip=True) as batches:
        flipped = []
        for epoch in range(2):
            by_index = np.empty(20, bool)
            by_index[batches.order.indices(epoch)] = [not np.array_equal(x, straight) for x in batches.batch(epoch)]
            flipped.append(by_index)
    assert 0 < flipped[0].sum() < 20
    assert (flipped[0] != flipped[1]).any()


def test_undecodable_pictures_are_replaced_by_the_next(tmp_path, rng):
    dataset = open_dataset(folder_of(tmp_path, rng, 6, bad=[0, 2, 3, 5]), captions_required=True)
    first, fourth = to_pixels(dataset.picture(1), 8), to_pixels(dataset.picture(4), 8)
    by_index = np.array([first, first, fourth, fourth, fourth, first])  # after the last comes the first, which is bad
    with PixelBatches(dataset, 8, batch_size=6, seed=0) as batches:
        for step in range(2):
            np.testing.assert_array_equal(batches.batch(step), by_index[batches.order.indices(step)])
    assert sorted(dataset.problems.undecodable) == ["0.png", "2.png", "3.png", "5.png"]
    assert "4 pictures could not be decoded" in dataset.problems.summary()


def test_nothing_decodable_is_an_error(tmp_path, rng):
    dataset = open_dataset(folder_of(tmp_path, rng, 2, bad=[0, 1]), captions_required=True)
    with PixelBatches(dataset, 8, 2, 0) as batches, pytest.raises(ValueError, match="not one of 2 pictures"):
        batches.batch(0)


@pytest.mark.parametrize(
    "options, times",
    [
        (dict(memory_limit=4 * 3 * 8 * 8), 4),
        (dict(memory_limit=4 * 3 * 8 * 8 - 1), 12),
        (dict(crop="random"), 12),
    ],
)
def test_small_datasets_are_decoded_once(tmp_path, rng, monkeypatch, options, times):
    dataset = open_dataset(folder_of(tmp_path, rng, 4), captions_required=True)
    decoded, picture = [], dataset.picture
    monkeypatch.setattr(dataset, "picture", lambda i: decoded.append(i) or picture(i))
    with PixelBatches(dataset, 8, batch_size=4, seed=0, flip=True, prefetch=False, **options) as batches:
        for step in range(3):
            batches.batch(step)
    assert len(decoded) == times


def test_the_next_step_is_decoded_meanwhile_and_closing_ends_the_threads(tmp_path, rng, monkeypatch):
    dataset = open_dataset(folder_of(tmp_path, rng, 4), captions_required=True)
    second, picture = threading.Event(), dataset.picture
    later = set(Order(4, 2, 0).indices(1).tolist())
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
    with PixelBatches(dataset, 8, batch_size=10, seed=0, memory_limit=0) as batches:
        for step in range(4):
            expected = [to_pixels(pictures[i], 8) for i in batches.order.indices(step)]
            np.testing.assert_array_equal(batches.batch(step), expected)


def test_ranks_that_do_not_divide_the_batch_are_refused(tmp_path, rng):
    dataset = open_dataset(folder_of(tmp_path, rng, 1), captions_required=True)
    for options in (dict(world_size=3), dict(rank=2, world_size=2), dict(rank=-1)):
        with pytest.raises(ValueError, match="world_size must divide batch_size"):
            PixelBatches(dataset, 8, batch_size=4, seed=0, **options)
    with pytest.raises(ValueError, match="crop is 'left'"):
        PixelBatches(dataset, 8, batch_size=4, seed=0, crop="left")
