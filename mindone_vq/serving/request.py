"""What callers ask the engine for, and what it may answer instead. Without MindSpore: see ``deployment``."""

from dataclasses import dataclass, field
from typing import Any, Optional

from PIL import Image

TEXT_TO_IMAGE, INPAINT, IMAGE_TO_IMAGE = "text to image", "inpaint", "image to image"
VARIATIONS = "variations"


class Busy(Exception):
    """Too many pictures are waiting; ``retry_after`` is an estimate, in seconds, of when some will be done."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} pictures are waiting already: try again in {retry_after:.0f} s.")
        self.waiting, self.retry_after = waiting, retry_after

    def __reduce__(self) -> tuple[type, tuple[int, float]]:
        return type(self), (self.waiting, self.retry_after)


class Cancelled(Exception):
    """Nobody waits for the pictures any more."""


@dataclass(frozen=True)
class ImageRequest:
    """Pictures of one prompt.

    Attributes:
        prompt: what to show; without one an ``image`` is varied.
        seeds: one for each picture.
        options: those fields of ``SamplingOptions`` that are not as the model has them.
        image: the picture to edit; None: text to image.
        mask: white where to paint; None: the whole of ``image`` is changed.
        strength: of image to image.
    """

    prompt: str
    seeds: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)
    image: Optional[Image.Image] = None
    mask: Optional[Image.Image] = None
    strength: float = 0.8

    @property
    def kind(self) -> str:
        if self.image is None:
            return TEXT_TO_IMAGE
        if self.mask is not None:
            return INPAINT
        return IMAGE_TO_IMAGE if self.prompt else VARIATIONS
