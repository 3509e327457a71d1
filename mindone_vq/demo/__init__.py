"""The bundled models, and what they are trained and tested on.

``shapes`` draws one or two coloured shapes on a plain background, ``emoji`` people in the style of Noto Emoji. Pictures
of both are 64 x 64 pixels.
"""

from pathlib import Path

SHAPES_MODEL, EMOJI_MODEL = (Path(__file__).with_name(name) for name in ("shapes64", "emoji64"))
MODELS = {"shapes": SHAPES_MODEL, "emoji": EMOJI_MODEL}
"""Pipeline folders for ``from_pretrained`` by the names that the examples' ``--model`` takes."""
