"""What a run writes while it goes on: log.jsonl, TensorBoard events, previews."""

import json
import logging
import math
import os
import time
from pathlib import Path
from typing import Any, Optional

import numpy as np
from PIL import Image

from mindone_vq.weights.files import atomic_file

logger = logging.getLogger("mindone_vq")

LOG, PREVIEWS, TENSORBOARD = "log.jsonl", "previews", "tensorboard"


class TrainingLog:
    """Scalars and pictures of a run.

    ``log.jsonl`` gets a JSON object per line: ``step``, ``time`` in Unix seconds, and the scalars; one that is not
    finite is null. The same goes to TensorBoard where tensorboardX is installed. Use it in a with statement.

    Args:
        folder: the run's folder; made if it is not there.
        step: how many steps are done. What was logged after it is removed; at 0, everything.
        enabled: False makes a log that does nothing, for every process but the first.
    """

    def __init__(self, folder: Path, step: int = 0, enabled: bool = True) -> None:
        self.folder = folder
        self._file = self._board = None
        if not enabled:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        _cut(self.folder / LOG, step)
        self._board = _tensorboard(self.folder / TENSORBOARD, step)
        self._file = open(self.folder / LOG, "a", encoding="utf-8")  # noqa: SIM115  open as long as the run

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Logs ``values``, by name, at ``step``; none may be called "step" or "time"."""
        if self._file is None:
            return
        finite = {name: float(value) if math.isfinite(value) else None for name, value in values.items()}
        self._file.write(json.dumps({"step": step, "time": round(time.time(), 3), **finite}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(name, float(value), step)

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Writes ``previews/name-step.png`` and shows the picture in TensorBoard."""
        if self._file is None:
            return
        with atomic_file(self.folder / PREVIEWS / f"{name}-{step}.png") as file:
            picture.save(file, format="PNG")
        if self._board is not None:
            # height, width, channels
            self._board.add_image(name, np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, *_: Any) -> None:
        for each in (self._file, self._board):
            if each is not None:
                each.close()
        self._file = self._board = None


def _cut(path: Path, step: int) -> None:
    """Removes the lines after ``step`` and incomplete ones; a killed run leaves its last line half-written."""
    if not path.is_file():
        return
    with open(path, "rb") as old, atomic_file(path) as new:
        for line in old:
            if step > 0 and _step_of(line) <= step:
                new.write(line.rstrip(b"\n") + b"\n")


def _step_of(line: bytes) -> float:
    """The step of a line; infinite, so that it is removed, for what is not a whole line."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def _tensorboard(folder: Path, step: int) -> Optional[Any]:
    """tensorboardX's writer, if it is installed."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        logger.warning(
            "tensorboardX is not installed: nothing is written for TensorBoard, %s has the same scalars. "
            "To have both: pip install tensorboardX",
            LOG,
        )
        return None
    # Events of an earlier start are hidden from purge_step on, so the first that is done again. The file's name ends
    # in the second it was made: two starts within one would write into the same file without the suffix.
    suffix = f".{os.getpid()}.{time.time_ns()}"
    return SummaryWriter(str(folder), purge_step=step + 1 if step > 0 else 0, filename_suffix=suffix, flush_secs=10)
