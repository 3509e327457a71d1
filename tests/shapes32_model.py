"""A small pipeline that was trained and saved by diffusers, for tests that need a complete checkpoint of its making.

It draws one shape on 32 x 32 pixels; the model in the package is another one.
"""

from pathlib import Path

MODEL = Path(__file__).with_name("shapes32")
# what it was measured best with
SETTINGS = {"guidance_scale": 2.0, "truncation_rate": 0.86}
