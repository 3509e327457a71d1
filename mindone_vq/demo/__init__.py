"""The bundled model: 64 x 64 pictures of one or two coloured shapes on a plain background."""

from pathlib import Path

MODEL = Path(__file__).with_name("shapes64")
