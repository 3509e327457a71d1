"""The bundled models, and what they are trained and tested on.

``shapes`` draws one or two coloured shapes on a plain background. The model in emoji64 will draw Noto Emoji; it is half
trained and has no name yet. Pictures of both are 64 x 64 pixels.
"""

from pathlib import Path

SHAPES_MODEL, EMOJI_MODEL = (Path(__file__).with_name(name) for name in ("shapes64", "emoji64"))
MODELS = {"shapes": SHAPES_MODEL}
"""Pipeline folders for ``from_pretrained`` by the names that the examples' ``--model`` takes."""
