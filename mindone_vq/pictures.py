"""Pictures: as arrays of 8 bits a channel, and arranged for people to look at."""

import math
from collections.abc import Sequence
from typing import Any, Optional

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

MARGIN = 8
INK, PAPER = (20, 20, 20), (255, 255, 255)


def to_rgb(picture: Image.Image, background: str = "white") -> Image.Image:
    """A picture in RGB, turned as its EXIF says; what is transparent is laid on ``background``, a colour of Pillow.

    Raises:
        ValueError: its pixels are floating-point numbers of an unknown range.
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers of an unknown range; expected 8 or 16 bits")
    if picture.mode.startswith("I"):  # 16 bits; Pillow would cut off at 255
        levels = np.asarray(picture).clip(0, 65535).astype(np.float64) / 257
        return Image.fromarray(levels.round().astype(np.uint8)).convert("RGB")
    if picture.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        below = Image.new("RGBA", picture.size, background)
        return Image.alpha_composite(below, picture).convert("RGB")
    return picture.convert("RGB")


def to_model_range(pixels: Any) -> Any:
    """uint8 pixels, a numpy array or a Tensor, of any shape -> float32 in [-1, 1], which the VQ-VAE reads."""
    return pixels.astype("float32") / 127.5 - 1.0


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1], of any shape -> uint8."""
    return (images * 255).round().astype(np.uint8)


def enlarge(picture: Image.Image, shortest_side: int = 256, resample: int = Image.BICUBIC) -> Image.Image:
    """``picture``, or it enlarged by a whole factor so that its shortest side is at least ``shortest_side``."""
    factor = math.ceil(shortest_side / min(picture.size))
    if factor <= 1:
        return picture
    return picture.resize((picture.width * factor, picture.height * factor), resample)


def grid(rows: Sequence[Sequence[Image.Image]], labels: Optional[Sequence[str]] = None) -> Image.Image:
    """Pictures of one size in rows, each row below its label; rows may differ in length."""
    width, height = rows[0][0].size
    columns = max(len(row) for row in rows)
    total_width = columns * (width + MARGIN) + MARGIN
    font = ImageFont.load_default()
    texts = [_wrap(label, font, total_width - 2 * MARGIN) for label in labels] if labels else [""] * len(rows)
    heights = [_text_height(text, font) for text in texts]
    sheet = Image.new("RGB", (total_width, sum(heights) + len(rows) * (height + MARGIN) + MARGIN), PAPER)
    pen, top = ImageDraw.Draw(sheet), MARGIN
    for row, text, text_height in zip(rows, texts, heights):
        pen.multiline_text((MARGIN, top), text, fill=INK, font=font)
        top += text_height
        for column, picture in enumerate(row):
            sheet.paste(picture.convert("RGB"), (MARGIN + column * (width + MARGIN), top))
        top += height + MARGIN
    return sheet


def cover_masked(picture: Image.Image, masked: np.ndarray) -> Image.Image:
    """Paints gray where a latent pixel is masked.

    Args:
        picture: decoded from codes of which some stand for nothing yet.
        masked: (height, width) bool, one entry for each latent pixel.
    """
    veil = Image.fromarray((~masked).astype(np.uint8) * 255).resize(picture.size, Image.NEAREST)
    return Image.composite(picture.convert("RGB"), Image.new("RGB", picture.size, (128, 128, 128)), veil)


def _wrap(text: str, font: ImageFont.ImageFont, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)


def _text_height(text: str, font: ImageFont.ImageFont) -> int:
    if not text:
        return 0
    box = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font=font)
    return math.ceil(box[3]) + MARGIN
