"""A dataset free of any licence: captioned 64 x 64 pictures of one or two shapes, and an oracle that reads them.

Every picture shows a ``Scene``: ``draw`` paints it, ``caption`` describes it, ``read`` recovers it from the pixels.
Whole combinations are held out of training, by a rule that depends on the scene alone (``is_held_out``).
"""

import functools
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional, Union

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

SIDE = 64
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (150, 50, 180),
    "orange": (245, 135, 30),
    "cyan": (40, 200, 210),
    "pink": (250, 150, 190),
}
BACKGROUNDS = {"black": (10, 10, 10), "gray": (128, 128, 128), "white": (245, 245, 245)}
KINDS = ("circle", "square", "triangle", "cross", "ring", "diamond")
RADII = {"small": 8.0, "large": 13.0}  # pixels
RELATIONS = ("left", "above")  # of the first of two shapes to the second
HELD_OUT_SHARE = 0.12
OVERSAMPLING = 4
GRID = 8  # pixels by which a shape is moved: the pixels of a code of the model of shapes
PLACES = tuple(itertools.product((-1, 0, 1), repeat=2))  # that ``draw`` chooses from, in units of ``GRID``
# The oracle: the least difference of a shape's pixel from the background, in levels summed over the channels, and the
# least number of pixels of a shape; smaller parts are specks.
FIGURE_THRESHOLD, SMALLEST_PART = 100, 25
SIZE_WORDS = {"small": ("small", "little", "tiny"), "large": ("large", "big")}
BACKGROUND_WORDS = {"black": ("black",), "gray": ("gray", "grey"), "white": ("white",)}
RELATION_WORDS = {"left": ("to the left of", "left of"), "above": ("above", "over")}
REVERSED_WORDS = {"left": ("to the right of", "right of"), "above": ("below", "under")}
SENTENCES = (
    "{what} on a {ground} background",
    "{what} on {ground}",
    "{what}, {ground} background",
    "a picture of {what} on a {ground} background",
)


@dataclass(frozen=True, order=True)
class Shape:
    """size: a key of ``RADII``; colour: of ``COLOURS``; kind: one of ``KINDS``."""

    size: str
    colour: str
    kind: str


@dataclass(frozen=True)
class Scene:
    """One shape, or two with the first ``relation`` of the second, on a background.

    The left or the upper shape comes first: "b right of a" is the scene "a left of b".
    """

    background: str
    first: Shape
    second: Optional[Shape] = None
    relation: Optional[str] = None


SHAPES = tuple(Shape(*parts) for parts in itertools.product(RADII, COLOURS, KINDS))


def is_held_out(scene: Scene) -> bool:
    """Whether the combination is held out of training: about one in eight, chosen by a hash of its words.

    Pairs are chosen by their colours and kinds alone: training has them in no size, order or background.
    shapes_held_out.txt lists all combinations.
    """
    if scene.second is None:
        words = f"{scene.first} {scene.background}"
    else:
        words = " ".join(sorted(f"{shape.colour} {shape.kind}" for shape in (scene.first, scene.second)))
    number = int.from_bytes(hashlib.sha256(words.encode()).digest()[:4], "big")
    return number < HELD_OUT_SHARE * 2**32


def random_scene(rng: np.random.Generator, pairs: float = 0.7, held_out: Optional[bool] = False) -> Scene:
    """A random scene.

    Args:
        rng: the random numbers.
        pairs: the share of scenes with two shapes.
        held_out: False: scenes for training; True: held-out scenes; None: all scenes.
    """
    while True:
        background = str(rng.choice(list(BACKGROUNDS)))
        first, second = (SHAPES[i] for i in rng.integers(0, len(SHAPES), 2))
        scene = Scene(background, first)
        if rng.random() < pairs:
            scene = Scene(background, first, second, RELATIONS[rng.integers(2)])
            if (first.colour, first.kind) == (second.colour, second.kind):
                continue  # captions could not tell them apart
        if held_out is None or is_held_out(scene) == held_out:
            return scene


def draw(scene: Scene, rng: np.random.Generator, anywhere: bool = False) -> Image.Image:
    """Paints a scene, ``SIDE`` x ``SIDE``.

    Args:
        scene: the scene.
        rng: moves the shapes a little.
        anywhere: by any distance; otherwise by ``GRID`` pixels or not at all.
    """

    def moved(most: float) -> np.ndarray:
        return rng.uniform(-most, most, 2) if anywhere else GRID * rng.integers(-1, 2, 2)

    if scene.second is None:
        return paint(scene, moved(10))
    along = moved(1) if anywhere else np.zeros(2)
    return paint(scene, moved(6), along)


def paint(scene: Scene, moved: np.ndarray, along: Union[np.ndarray, float] = 0.0) -> Image.Image:
    """A scene whose shapes are in given places.

    Args:
        scene: the scene.
        moved: pixels, (2,): a single shape to the right and down; each of two across the line through both.
        along: pixels, (2,): each of two along that line.
    """
    if scene.second is None:
        placed = [(scene.first, *(SIDE / 2 + moved))]
    else:
        along, across = SIDE * np.array([0.25, 0.75]) + along, SIDE / 2 + moved
        centres = zip(along, across) if scene.relation == "left" else zip(across, along)
        placed = [(shape, *centre) for shape, centre in zip((scene.first, scene.second), centres)]
    image = Image.new("RGB", (SIDE * OVERSAMPLING,) * 2, BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(image)
    for shape, x, y in placed:
        _draw_shape(pen, shape, x * OVERSAMPLING, y * OVERSAMPLING, BACKGROUNDS[scene.background])
    return image.resize((SIDE, SIDE), Image.LANCZOS)


def ideal_pictures(scene: Scene) -> np.ndarray:
    """What ``draw`` makes of a scene, with its shapes in each of ``PLACES``: (9, SIDE, SIDE, 3) uint8."""
    return np.stack([np.asarray(paint(scene, GRID * np.array(place))) for place in PLACES])


def _draw_shape(pen: ImageDraw.ImageDraw, shape: Shape, x: float, y: float, hole: tuple[int, int, int]) -> None:
    r, fill = RADII[shape.size] * OVERSAMPLING, COLOURS[shape.colour]
    if shape.kind in ("circle", "ring"):
        pen.ellipse([x - r, y - r, x + r, y + r], fill=fill)
    if shape.kind == "ring":
        inner = 0.55 * r
        pen.ellipse([x - inner, y - inner, x + inner, y + inner], fill=hole)
    if shape.kind == "square":
        half = 0.88 * r
        pen.rectangle([x - half, y - half, x + half, y + half], fill=fill)
    if shape.kind == "triangle":
        pen.polygon([(x, y - r), (x - 0.95 * r, y + 0.8 * r), (x + 0.95 * r, y + 0.8 * r)], fill=fill)
    if shape.kind == "cross":
        arm = 0.34 * r
        pen.rectangle([x - arm, y - r, x + arm, y + r], fill=fill)
        pen.rectangle([x - r, y - arm, x + r, y + arm], fill=fill)
    if shape.kind == "diamond":
        pen.polygon([(x, y - r), (x - 0.8 * r, y), (x, y + r), (x + 0.8 * r, y)], fill=fill)


def caption(scene: Scene, rng: Optional[np.random.Generator] = None, turned: float = 0.5) -> str:
    """A description of a scene: the plainest sentence, or with ``rng`` a random one of the same meaning.

    Args:
        scene: the scene.
        rng: the random numbers.
        turned: the share of pairs described from the second shape, "b below a" for "a above b". At one half the order
            of the words does not tell the order of the shapes, which makes it hard to learn.
    """

    def pick(options: Sequence[str]) -> str:
        return options[0] if rng is None else options[rng.integers(len(options))]

    def words(shape: Shape) -> str:
        return f"a {pick(SIZE_WORDS[shape.size])} {shape.colour} {shape.kind}"

    ground = pick(BACKGROUND_WORDS[scene.background])
    if scene.second is None:
        what = words(scene.first)
    elif rng is not None and rng.random() < turned:
        what = f"{words(scene.second)} {pick(REVERSED_WORDS[scene.relation])} {words(scene.first)}"
    else:
        what = f"{words(scene.first)} {pick(RELATION_WORDS[scene.relation])} {words(scene.second)}"
    return pick(SENTENCES).format(what=what, ground=ground)


def read(pixels: np.ndarray) -> Optional[Scene]:
    """The scene in a picture.

    Args:
        pixels: (SIDE, SIDE, 3) uint8.

    Returns:
        The scene; None if there is no shape, more than two, or two of the same colour and kind.
    """
    x = pixels.astype(np.int32)
    border = np.concatenate([x[0], x[-1], x[:, 0], x[:, -1]])
    background = _nearest(np.median(border, axis=0), BACKGROUNDS)
    figure = np.abs(x - BACKGROUNDS[background]).sum(-1) > FIGURE_THRESHOLD
    labels, count = ndimage.label(figure)
    parts = [part for i in range(count) if (part := labels == i + 1).sum() >= SMALLEST_PART]
    if not 1 <= len(parts) <= 2:
        return None
    shapes = [_read_shape(x, part, BACKGROUNDS[background]) for part in parts]
    if len(parts) == 1:
        return Scene(background, shapes[0])
    if (shapes[0].colour, shapes[0].kind) == (shapes[1].colour, shapes[1].kind):
        return None
    centres = [_middle(part) for part in parts]
    down, across = np.abs(centres[0] - centres[1])
    axis = 1 if across > down else 0
    order = sorted((0, 1), key=lambda i: centres[i][axis])
    return Scene(background, shapes[order[0]], shapes[order[1]], "left" if axis == 1 else "above")


def _read_shape(x: np.ndarray, part: np.ndarray, ground: tuple[int, int, int]) -> Shape:
    colour = _nearest(np.median(x[part], axis=0), COLOURS)
    # Pixels at the edge belong to the shape if at least half of their colour does.
    towards = np.subtract(COLOURS[colour], ground)
    half = ((x - ground) * towards).sum(-1) * 2 > (towards**2).sum()
    part = part & half if (part & half).any() else part
    overlaps = []
    for _, _, masks in _templates():
        moved = np.roll(part, tuple(np.round(_middle(masks[4]) - _middle(part)).astype(int)), (0, 1))
        overlaps.append(((masks & moved).sum((1, 2)) / (masks | moved).sum((1, 2))).max())
    size, kind, _ = _templates()[int(np.argmax(overlaps))]
    return Shape(size, colour, kind)


@functools.lru_cache(maxsize=1)
def _templates() -> list[tuple[str, str, np.ndarray]]:
    """Every size and kind, with masks (9, SIDE, SIDE): the shape in the middle, and moved by up to one pixel."""
    ground = BACKGROUNDS["black"]
    templates = []
    half = np.abs(np.subtract(COLOURS["yellow"], ground)).sum() / 2
    for size, kind in itertools.product(RADII, KINDS):
        image = Image.new("RGB", (SIDE * OVERSAMPLING,) * 2, ground)
        middle = SIDE * OVERSAMPLING / 2
        _draw_shape(ImageDraw.Draw(image), Shape(size, "yellow", kind), middle, middle, ground)
        small = np.asarray(image.resize((SIDE, SIDE), Image.LANCZOS)).astype(np.int32)
        mask = np.abs(small - ground).sum(-1) > half
        shifts = itertools.product((-1, 0, 1), repeat=2)
        templates.append((size, kind, np.stack([np.roll(mask, shift, (0, 1)) for shift in shifts])))
    return templates


def _middle(mask: np.ndarray) -> np.ndarray:
    """The middle of a mask's bounding box: (row, column)."""
    rows, columns = np.nonzero(mask)
    return np.array([rows.min() + rows.max(), columns.min() + columns.max()]) / 2


def _nearest(colour: np.ndarray, palette: dict[str, tuple[int, int, int]]) -> str:
    return min(palette, key=lambda name: np.abs(colour - palette[name]).sum())
