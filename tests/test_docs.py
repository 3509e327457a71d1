"""The documentation: its links lead somewhere, and its Python runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import mindone_vq
from mindone_vq.demo import SHAPES_MODEL
from tests.markdown import python_blocks

ROOT = Path(mindone_vq.__file__).parents[1]
FILES = sorted({*ROOT.glob("*.md"), *ROOT.glob("*/*.md"), *ROOT.glob("docs/*/*.md")})
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s#]*)(#[^)\s]*)?\)")
CODE = re.compile(r"^```.*?^```|`[^`]*`", re.MULTILINE | re.DOTALL)


def anchors(path):
    """Of the headings of a page, as GitHub and MkDocs make them."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target, anchor in LINK.findall(CODE.sub("", path.read_text(encoding="utf-8"))):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        place = (path.parent / target).resolve() if target else path
        assert place.exists(), f"{path} links to {target}"
        if anchor and place.suffix == ".md":
            assert anchor[1:] in anchors(place), f"{path} links to {target}{anchor}"


def test_links_are_found():
    assert len(FILES) > 15
    assert LINK.findall("see [a](docs/b.md#c) and ![d](e.png)") == [("docs/b.md", "#c"), ("e.png", "")]


# What a reader has before the first block: a pipeline, a picture and a mask to edit, and pixels.
BEFORE = """
import numpy as np
from mindspore import Tensor
from mindone_vq import VQDiffusionPipeline
from mindone_vq.demo import SHAPES_MODEL
from mindone_vq.demo.shapes import Scene, Shape, draw

pipe = VQDiffusionPipeline.from_pretrained(SHAPES_MODEL)
picture = draw(Scene("white", Shape("large", "red", "circle")), np.random.default_rng(0))
mask = np.ones((64, 64), bool)
pictures = Tensor(np.zeros((1, 3, 64, 64), np.float32))
"""
AFTER = {
    "README.md": """
from PIL import Image
assert Image.open("teddy.png").size == image.size == (64, 64)
assert len(images) == 4 and codes.shape == (1, 8, 8)
""",
    "docs/ascend.md": """
import pathlib
assert list(pathlib.Path("profile").iterdir())
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("page", AFTER)
def test_python_of_a_page_runs(page, tmp_path):
    """One block after the other, as a reader would, with the model of shapes as the folder."""
    blocks = [block.replace("path/or/hub-id", str(SHAPES_MODEL)) for block in python_blocks(ROOT / page)]
    (tmp_path / "page.py").write_text("\n".join([BEFORE, *blocks, AFTER[page]]))
    process = subprocess.run([sys.executable, "page.py"], cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr


def test_every_page_with_python_is_run():
    assert {path for path in FILES if python_blocks(path)} == {ROOT / page for page in AFTER}
