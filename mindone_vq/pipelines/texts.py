"""The prompts of a call."""

from dataclasses import dataclass
from typing import Optional, Union

import numpy as np

PromptsOrEmbeddings = Union[list[str], np.ndarray]  # the second (prompts, length, hidden_size)


@dataclass(frozen=True)
class Texts:
    """What a call is to show.

    Attributes:
        own, null: the prompts and the null texts, which guidance steers away from (None: no guidance).
        images_each: pictures of each prompt.
        weights: of prompts that are composed into one picture; empty: each prompt has its own pictures.
    """

    own: PromptsOrEmbeddings
    null: Optional[PromptsOrEmbeddings]
    images_each: int
    weights: tuple[float, ...] = ()


def one_each(texts: PromptsOrEmbeddings, count: int) -> PromptsOrEmbeddings:
    """``count`` texts, from one for all or one for each."""
    if len(texts) == count:
        return texts
    return texts.repeat(count, axis=0) if isinstance(texts, np.ndarray) else list(texts) * count
