"""Scores of generated pictures of the demo data: its oracle ``read`` compares them with their prompts."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import numpy as np
from PIL import Image

from mindone_vq.demo.shapes import (
    BACKGROUND_WORDS,
    COLOURS,
    KINDS,
    RELATION_WORDS,
    REVERSED_WORDS,
    SENTENCES,
    SIDE,
    SIZE_WORDS,
    Scene,
    Shape,
    caption,
    ideal_pictures,
    random_scene,
    read,
)
from mindone_vq.demo.share import Share

# A strict look: the share of pixels that may differ by more than so many levels, summed over the channels.
STRICT_LEVELS, STRICT_SHARE = 100, 0.01
SHAPE_PROPERTIES = ("size", "colour", "kind")


@dataclass(frozen=True)
class GroupScores:
    """Scores of the pictures whose prompts have one shape, or of those whose prompts have two.

    Attributes:
        exact: the pictures that show exactly the scene of the prompt.
        strict: those that are also like one of its ``ideal_pictures``, but for 1 % of the pixels; specks, holes and
            shapes in no proper place are wrong.
        unread: the number of pictures without a readable scene; they are wrong in every property.
        properties: number (of shapes), background, size, colour, kind, and for two shapes relation. Size, colour and
            kind are counted for each shape of the prompt; a missing shape is wrong in all three.
    """

    exact: Share
    strict: Share
    unread: int
    properties: dict[str, Share]

    def to_dict(self) -> dict[str, Any]:
        properties = {name: share.to_dict() for name, share in self.properties.items()}
        return {
            "exact": self.exact.to_dict(),
            "strict": self.strict.to_dict(),
            "unread": self.unread,
            "properties": properties,
        }


@dataclass(frozen=True)
class Scores:
    """Scores of all pictures; ``str`` gives a summary, ``to_dict`` the numbers for JSON.

    Attributes:
        found: the scene in each picture; None: not readable.
        right: whether it is the scene of the prompt.
        strict: whether it is so in a strict look, too.
        one, two: the scores of the prompts with one and with two shapes; None: no such prompt.
    """

    found: tuple[Optional[Scene], ...]
    right: tuple[bool, ...]
    strict: tuple[bool, ...]
    one: Optional[GroupScores]
    two: Optional[GroupScores]

    def to_dict(self) -> dict[str, Any]:
        return {name: group.to_dict() if group else None for name, group in (("one", self.one), ("two", self.two))}

    def __str__(self) -> str:
        lines = []
        for title, group in (("one shape", self.one), ("two shapes", self.two)):
            if group is None:
                continue
            low, high = group.exact.interval
            lines.append(
                f"{title}: {group.exact.hits} of {group.exact.count} exactly as in the prompt = "
                f"{group.exact.value:.1%} (95 %: {low:.1%} to {high:.1%}); in a strict look {group.strict.value:.1%}"
            )
            lines.append("  " + ", ".join(f"{name} {share.value:.1%}" for name, share in group.properties.items()))
            lines.append(f"  pictures without a readable scene: {group.unread}")
        return "\n".join(lines)


def random_prompts(
    rng: np.random.Generator, count: int, twos: int, held_out: Optional[bool] = True
) -> tuple[list[Scene], list[str]]:
    """``count`` scenes, the last ``twos`` with two shapes, and their captions; held_out as in ``random_scene``."""
    scenes = [random_scene(rng, pairs=float(i >= count - twos), held_out=held_out) for i in range(count)]
    return scenes, [caption(scene, rng) for scene in scenes]


def score(scenes: Sequence[Scene], pictures: Sequence[Union[np.ndarray, Image.Image]]) -> Scores:
    """Reads every picture and compares it with the scene of its prompt.

    Args:
        scenes: the scenes of the prompts.
        pictures: one for each scene: PIL pictures, or arrays (height, width, 3) uint8; resized to ``SIDE`` x ``SIDE``.

    Raises:
        ValueError: there is not one picture for each scene, there is none, or an array has another shape or type.
    """
    if len(scenes) != len(pictures) or not scenes:
        raise ValueError(f"{len(scenes)} scenes and {len(pictures)} pictures given: give one picture for each scene.")
    arrays = [_pixels(picture) for picture in pictures]
    found = tuple(map(read, arrays))
    right = tuple(asked == shown for asked, shown in zip(scenes, found))
    looks = zip(right, scenes, arrays)
    strict = tuple(fits and bool(off(scene, pixels).min() <= STRICT_SHARE) for fits, scene, pixels in looks)
    groups = []
    for has_two in (False, True):
        pairs = [each for each in zip(scenes, found, strict) if (each[0].second is not None) == has_two]
        groups.append(_group(pairs) if pairs else None)
    return Scores(found, right, strict, *groups)


def strictly_right(prompts: Sequence[str], pictures: Sequence[Image.Image]) -> list[bool]:
    """Whether each picture is, in a strict look, what its prompt says; not if the prompt is in other words."""
    scenes = [understand(prompt) for prompt in prompts]
    return [scene is not None and score([scene], [picture]).strict[0] for scene, picture in zip(scenes, pictures)]


def off(scene: Scene, pixels: np.ndarray) -> np.ndarray:
    """The share of pixels that differ from each of the scene's ``ideal_pictures`` by more than ``STRICT_LEVELS``.

    Args:
        scene: what the picture should show.
        pixels: (SIDE, SIDE, 3) uint8.

    Returns:
        (9,) float64; the least is that of the place where the picture has its shapes.
    """
    differences = np.abs(ideal_pictures(scene).astype(np.int32) - pixels).sum(-1)
    return (differences > STRICT_LEVELS).mean((1, 2))


def understand(text: str) -> Optional[Scene]:
    """The scene that a caption of the demo data describes; None for any other text."""
    words = " ".join(text.lower().split())
    match = next(filter(None, (pattern.fullmatch(words) for pattern in _PATTERNS)), None)
    if match is None:
        return None
    first, between, second, ground = (match[name] for name in ("first", "between", "second", "ground"))
    background = _meaning(ground, BACKGROUND_WORDS)
    if second is None:
        return Scene(background, _shape(first))
    shapes = _shape(first), _shape(second)
    if (shapes[0].colour, shapes[0].kind) == (shapes[1].colour, shapes[1].kind):
        return None  # not a scene of the demo data
    relation = _meaning(between, RELATION_WORDS)
    if relation is None:
        return Scene(background, shapes[1], shapes[0], _meaning(between, REVERSED_WORDS))
    return Scene(background, *shapes, relation)


def _group(pairs: Sequence[tuple[Scene, Optional[Scene], bool]]) -> GroupScores:
    compared = [_compare(asked, shown) for asked, shown, _ in pairs]
    properties = {}
    for name in compared[0]:
        answers = [answer for properties_of_one in compared for answer in properties_of_one[name]]
        properties[name] = Share(sum(answers), len(answers))
    exact = Share(sum(asked == shown for asked, shown, _ in pairs), len(pairs))
    strict = Share(sum(is_strict for _, _, is_strict in pairs), len(pairs))
    return GroupScores(exact, strict, sum(shown is None for _, shown, _ in pairs), properties)


def _compare(asked: Scene, shown: Optional[Scene]) -> dict[str, list[bool]]:
    """Whether each property is right; for the properties of shapes an answer for each shape of the prompt."""
    wanted, seen = _shapes(asked), _shapes(shown)
    filled = (*seen, *[None] * (len(wanted) - len(seen)))
    # Shapes are matched so that they agree best: two shapes in exchanged places are wrong in their relation, and not in
    # their colours. The order of the prompt comes first and wins a tie.
    match = max(itertools.permutations(filled, len(wanted)), key=lambda chosen: _agreement(wanted, chosen))
    result = {
        "number": [len(wanted) == len(seen)],
        "background": [shown is not None and asked.background == shown.background],
    }
    for name in SHAPE_PROPERTIES:
        result[name] = [_agree(shape, other, name) for shape, other in zip(wanted, match)]
    if asked.second is not None:
        in_order = len(seen) == 2 and match == seen
        result["relation"] = [in_order and asked.relation == shown.relation]
    return result


def _shapes(scene: Optional[Scene]) -> tuple[Shape, ...]:
    return () if scene is None else tuple(shape for shape in (scene.first, scene.second) if shape is not None)


def _agree(shape: Shape, other: Optional[Shape], name: str) -> bool:
    return other is not None and getattr(shape, name) == getattr(other, name)


def _agreement(shapes: Sequence[Shape], others: Sequence[Optional[Shape]]) -> int:
    return sum(_agree(shape, other, name) for shape, other in zip(shapes, others) for name in SHAPE_PROPERTIES)


def _pixels(picture: Union[np.ndarray, Image.Image]) -> np.ndarray:
    """(SIDE, SIDE, 3) uint8."""
    if isinstance(picture, Image.Image):
        picture = np.asarray(picture.convert("RGB"))
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3:
        raise ValueError(
            f"a picture is an array of {picture.dtype} {picture.shape}; it must be uint8 (height, width, 3)."
        )
    if picture.shape[:2] != (SIDE, SIDE):
        picture = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.BICUBIC))
    return picture


def _any_of(*tables: dict[str, Sequence[str]]) -> str:
    return "|".join(re.escape(words) for table in tables for options in table.values() for words in options)


def _meaning(words: str, table: dict[str, Sequence[str]]) -> Optional[str]:
    return next((name for name, options in table.items() if words in options), None)


def _shape(words: str) -> Shape:
    _, size, colour, kind = words.split()
    return Shape(_meaning(size, SIZE_WORDS), colour, kind)


def _patterns() -> list[re.Pattern]:
    """A pattern for each of the sentences of ``caption``."""
    shape = rf"a (?:{_any_of(SIZE_WORDS)}) (?:{'|'.join(COLOURS)}) (?:{'|'.join(KINDS)})"
    between = _any_of(RELATION_WORDS, REVERSED_WORDS)
    what = rf"(?P<first>{shape})(?: (?P<between>{between}) (?P<second>{shape}))?"
    ground = rf"(?P<ground>{_any_of(BACKGROUND_WORDS)})"
    return [re.compile(sentence.format(what=what, ground=ground)) for sentence in SENTENCES]


_PATTERNS = _patterns()
