"""The bundled models, and what they are trained and tested on.

``shapes`` draws one or two coloured shapes on a plain background, and ``shapes-student`` draws them in four steps;
``emoji`` draws people in the style of Noto Emoji. All pictures are 64 x 64 pixels.
"""

from pathlib import Path

FOLDERS = ("shapes64", "shapes64_student", "emoji64")
SHAPES_MODEL, SHAPES_STUDENT, EMOJI_MODEL = (Path(__file__).with_name(name) for name in FOLDERS)
MODELS = {"shapes": SHAPES_MODEL, "shapes-student": SHAPES_STUDENT, "emoji": EMOJI_MODEL}
"""Pipeline folders for ``from_pretrained`` by the names that the examples' ``--model`` takes."""
