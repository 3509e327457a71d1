import os

import numpy as np
import pytest
from PIL import Image

from mindone_vq.training.data.dataset import Problems, UnreadablePicture, open_dataset
from tests.training.picture_files import encoded, folder_of, noise, undecodable, write_metadata, write_records


def test_png_and_jpeg_are_read_as_they_are(tmp_path, rng):
    noise(rng).save(tmp_path / "a.png")
    noise(rng).save(tmp_path / "b.JPEG", quality=90)
    dataset = open_dataset(tmp_path, captions_required=False)
    assert dataset.names == ["a.png", "b.JPEG"]
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
    found = {dataset.names[i]: np.asarray(dataset.picture(i))[0].tolist() for i in range(3)}
    assert found["palette.png"] == [[255, 255, 255], [0, 0, 100]]
    assert found["rgba.png"] == [[10, 20, 30], [204, 204, 204]]  # black with 51 / 255 of it
    assert found["gray.png"] == [[7, 7, 7], [255, 255, 255]]


def test_transparency_lies_on_the_background_of_the_settings(tmp_path):
    Image.new("RGBA", (2, 1), (0, 0, 0, 51)).save(tmp_path / "rgba.png")
    datasets = [open_dataset(tmp_path, False, background=colour) for colour in ("white", "#000064")]
    assert [np.asarray(each.picture(0))[0, 0].tolist() for each in datasets] == [[204, 204, 204], [0, 0, 80]]
    assert len({each.fingerprint() for each in datasets}) == 2


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
    assert dataset.names == ["a/z.png", "b.png"]
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
            assert dataset.names[i] == f"record {number}"
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
