"""Pictures on disk, good and bad ones."""

import io
import json

import numpy as np
from mindspore.mindrecord import FileWriter
from PIL import Image


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
