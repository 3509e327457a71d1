"""Pictures in MindRecord files: reading all records once, and reading one of them."""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Optional

import mindspore.dataset
from mindspore.mindrecord import FileReader


def record_files(folder: Path) -> list[Path]:
    """The MindRecord files of a folder, sorted: x.mindrecord, or x.mindrecord0, x.mindrecord1 as shards are called."""
    return sorted(file for file in folder.iterdir() if re.search(r"\.mindrecord\d*$", file.name) and file.is_file())


class Records:
    """The records of MindRecord files; record ``i`` is the same one however it is read.

    Args:
        files: one file, which stands for all the shards written with it, or exactly those to read.
        image_column: the field with the encoded picture; its type must be bytes.
        caption_column: the field with the caption.
        caption_required: whether it is an error if there is no such field.

    Raises:
        ValueError: the files are not MindRecord, or without these fields.
    """

    def __init__(self, files: list[Path], image_column: str, caption_column: str, caption_required: bool):
        self._files: Any = str(files[0]) if len(files) == 1 else [str(file) for file in files]
        self._image_column, self._caption_column = image_column, caption_column
        self.caption_required = caption_required
        reader = self._open(None)
        schema = reader.schema()
        reader.close()
        fields = ", ".join(f"{name} ({field['type']})" for name, field in sorted(schema.items()))
        if schema.get(image_column, {}).get("type") != "bytes":
            raise ValueError(
                f"{files[0]} has the fields {fields}; expected {image_column} of type bytes, an encoded picture. "
                "Name the field that holds it as image_column."
            )
        self._captioned = schema.get(caption_column, {}).get("type") == "string"
        if caption_required and not self._captioned:
            raise ValueError(
                f"{files[0]} has the fields {fields}; expected {caption_column} of type string. "
                "Name the field that holds the captions as caption_column."
            )

    def all(self) -> Iterator[tuple[bytes, Optional[str]]]:
        """Every record in order: the encoded picture and the caption, None where the files have no captions."""
        columns = [self._image_column] + [self._caption_column] * self._captioned
        reader = self._open(columns)
        try:
            for record in reader.get_next():
                yield record[self._image_column], record.get(self._caption_column)
        finally:
            reader.close()

    def image(self, index: int) -> BinaryIO:
        """The encoded picture of one record; takes about two milliseconds, however many records there are."""
        # FileReader only goes from the first record to the last; MindDataset finds single ones by the index beside.
        records = mindspore.dataset.MindDataset(
            self._files,
            columns_list=[self._image_column],
            num_parallel_workers=1,
            sampler=mindspore.dataset.SubsetSampler([index]),
        )
        (record,) = records.create_dict_iterator(num_epochs=1, output_numpy=True)
        return io.BytesIO(record[self._image_column].tobytes())

    def _open(self, columns: Optional[list[str]]) -> FileReader:
        try:
            return FileReader(self._files, num_consumer=1, columns=columns)  # more than one may change the order
        except Exception as error:  # MindSpore raises RuntimeError and classes of its own
            reason = re.search(r"\[ERROR\] (.*)", str(error))
            raise ValueError(
                f"{self._files} is not readable as MindRecord: {reason.group(1) if reason else error} Expected a file "
                "of mindspore.mindrecord.FileWriter under the name it was written with, and its .db beside it."
            ) from error
