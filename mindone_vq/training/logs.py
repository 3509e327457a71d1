"""What a run leaves behind while it goes on: log.jsonl, TensorBoard events, previews, and a progress bar."""

import json
import logging
import math
import os
import re
import time
from pathlib import Path
from typing import Any, Optional, Union

import numpy as np
from PIL import Image
from tqdm.auto import tqdm

from mindone_vq.weights.files import atomic_file

logger = logging.getLogger("mindone_vq")

LOG = "log.jsonl"
PREVIEWS = "previews"
TENSORBOARD = "tensorboard"


class TrainingLog:
    """Scalars and pictures of a run.

    ``log.jsonl`` gets a JSON object per line: ``step``, ``time`` in Unix seconds, and the scalars; one that is not
    finite is null. The same goes to TensorBoard where tensorboardX is installed.

    Args:
        folder: the run's folder; made if it is not there.
        step: how many steps are done. Whatever an earlier start logged after it is cut off; at 0, all of it.
        enabled: False makes a log that does nothing, for every process but the first.
    """

    def __init__(self, folder: Union[str, Path], step: int = 0, enabled: bool = True):
        self.folder = Path(folder)
        self._file = self._board = None
        if not enabled:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        _cut(self.folder / LOG, step)
        self._file = open(self.folder / LOG, "a", encoding="utf-8")  # noqa: SIM115  open as long as the run
        self._board = _tensorboard(self.folder / TENSORBOARD, step)

    def scalars(self, step: int, values: dict[str, float]) -> None:
        """Logs ``values``, by name, at ``step``; whatever ``float`` takes.

        Raises:
            ValueError: a value is called "step" or "time", which each line has already.
        """
        if self._file is None:
            return
        taken = {"step", "time"} & set(values)
        if taken:
            raise ValueError(f"A scalar is called {', '.join(sorted(taken))}, which every line has; rename it.")
        numbers = {name: float(value) for name, value in values.items()}
        finite = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        self._file.write(json.dumps({"step": int(step), "time": round(time.time(), 3), **finite}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, int(step))

    def picture(self, step: int, name: str, picture: Image.Image) -> None:
        """Writes ``previews/name-step.png`` and shows the picture in TensorBoard.

        Raises:
            ValueError: the name is not one for a file.
        """
        if self._file is None:
            return
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"A picture is called {name!r}, expected letters, digits, '_', '-' and '.' only.")
        with atomic_file(self.folder / PREVIEWS / f"{name}-{step}.png") as file:
            picture.save(file, format="PNG")
        if self._board is not None:
            # height, width, channels
            self._board.add_image(name, np.asarray(picture.convert("RGB")), int(step), dataformats="HWC")

    def close(self) -> None:
        """Writes what is still held back; the log does nothing afterwards."""
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()
        self._file = self._board = None

    def __enter__(self) -> "TrainingLog":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


class Progress:
    """A bar over the steps of a run; the time left is tqdm's estimate from the steps of this start.

    Args:
        total: steps of the whole run.
        step: how many are done already.
        enabled: False makes a bar that does nothing, for every process but the first.
    """

    def __init__(self, total: int, step: int = 0, enabled: bool = True):
        self._bar = tqdm(total=total, initial=step, unit="step", dynamic_ncols=True, disable=not enabled)
        self._step = step

    def update(self, step: int, values: Optional[dict[str, float]] = None) -> None:
        """Moves to ``step`` steps done; ``values``, such as loss and images/s, stay beside the bar until the next."""
        if values and not self._bar.disable:
            self._bar.set_postfix({name: f"{float(value):.4g}" for name, value in values.items()}, refresh=False)
        self._bar.update(step - self._step)
        self._step = step

    def close(self) -> None:
        """Leaves the bar as it is."""
        self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _cut(path: Path, step: int) -> None:
    """Drops the lines after ``step`` and those that are torn; a killed run leaves its last line half-written."""
    if not path.is_file():
        return
    with open(path, "rb") as old, atomic_file(path) as new:
        for line in old:
            if step > 0 and _step_of(line) <= step:
                new.write(line.rstrip(b"\n") + b"\n")


def _step_of(line: bytes) -> float:
    """The step of a line; infinite, so that it is cut, for what is not a whole line."""
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
