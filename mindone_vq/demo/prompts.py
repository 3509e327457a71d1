"""Prompts to test the bundled models with, and what judges the pictures that are made of them."""

from collections.abc import Callable, Sequence
from typing import Any, Optional, Union

import numpy as np
from PIL import Image

from mindone_vq.demo.emoji import Emoji
from mindone_vq.demo.emoji_evaluation import EmojiScores, TruePictures
from mindone_vq.demo.shapes import Scene, caption
from mindone_vq.demo.shapes_evaluation import Scores, random_prompts, score, understand
from mindone_vq.models.vq_model import VQModel

Verdicts = dict[int, dict[str, Any]]
"""By the number of a picture: ``right``, whether it is what its prompt says, and ``shown``, what it shows in words."""
Judge = Callable[[Sequence[Image.Image]], tuple[Union[Scores, EmojiScores, None], Verdicts]]
"""Of one picture for each prompt: the scores, if there is any to give, and verdicts."""


class ShapesPrompts:
    """Prompts in the words of the shapes, read by their oracle.

    Args:
        scenes: of the prompts; None for a prompt in other words, which is not read.
        prompts: the texts.
    """

    def __init__(self, scenes: Sequence[Optional[Scene]], prompts: list[str]) -> None:
        self.scenes, self.prompts = scenes, prompts

    @classmethod
    def random(cls, count: int, twos: int, held_out: bool, seed: int) -> "ShapesPrompts":
        """``count`` scenes, ``twos`` of them with two shapes; only of combinations held out of training, or any."""
        return cls(*random_prompts(np.random.default_rng(seed), count, twos, held_out or None))

    @classmethod
    def understood(cls, prompts: list[str]) -> "ShapesPrompts":
        """Prompts of any kind."""
        return cls([understand(prompt) for prompt in prompts], prompts)

    def judge(self, vqvae: VQModel) -> Judge:
        """The oracle, which needs no model; there are scores if any prompt was understood."""
        return self._read

    def _read(self, pictures: Sequence[Image.Image]) -> tuple[Optional[Scores], Verdicts]:
        readable = [i for i, scene in enumerate(self.scenes) if scene]
        if not readable:
            return None, {}
        scores = score([self.scenes[i] for i in readable], [pictures[i] for i in readable])
        shown = [caption(scene) if scene else None for scene in scores.found]
        verdicts = zip(readable, scores.right, scores.strict, shown)
        return scores, {i: dict(right=right, strict=strict, shown=text) for i, right, strict, text in verdicts}

    def truth(self, index: int) -> list[Image.Image]:
        """Shapes have no true picture."""
        return []


class EmojiPrompts:
    """Prompts that name a role, a gender and a tone of skin; pictures are compared with the true ones.

    Args:
        emoji: all of them, as ``mindone_vq.demo.emoji.read`` gives them.
        count: of prompts, of cells held out of training; None: all.
        trained: as many prompts again, of cells that were not held out.
        seed: of the choice.

    Raises:
        ValueError: ``count`` is larger than the number of cells.
    """

    def __init__(self, emoji: Sequence[Emoji], count: Optional[int], trained: bool, seed: int) -> None:
        rng = np.random.default_rng(seed)
        unseen = [each for each in emoji if each.is_held_out]
        seen = [each for each in emoji if each.cell and not each.is_held_out]
        chosen = unseen if count is None else _draw(unseen, count, rng)
        self.emoji, self.wanted = emoji, chosen + (_draw(seen, len(chosen), rng) if trained else [])
        self.prompts = [each.captions[0] for each in self.wanted]

    def judge(self, vqvae: VQModel) -> Judge:
        """Compares pictures with the true ones; ``vqvae`` is that of the model that makes the pictures."""
        truth = TruePictures(self.emoji, vqvae)

        def compare(pictures: Sequence[Image.Image]) -> tuple[EmojiScores, Verdicts]:
            scores = truth.score(pictures, self.wanted)
            verdicts = enumerate(zip(scores.right, scores.found))
            return scores, {i: dict(right=right, shown=str(cell)) for i, (right, cell) in verdicts}

        return compare

    def truth(self, index: int) -> list[Image.Image]:
        return [self.wanted[index].picture()]


def _draw(emoji: list[Emoji], count: int, rng: np.random.Generator) -> list[Emoji]:
    if count > len(emoji):
        raise ValueError(f"{count} prompts are asked for, there are {len(emoji)} such emoji: ask for fewer.")
    return [emoji[i] for i in sorted(rng.choice(len(emoji), count, replace=False))]
