"""The documentation: its links lead somewhere, and its Python runs."""

import re
from pathlib import Path

import numpy as np
import pytest
from mindspore import Tensor
from PIL import Image

import mindone_vq
from mindone_vq.demo import SHAPES_MODEL
from mindone_vq.demo.shapes import Scene, Shape, draw

ROOT = Path(mindone_vq.__file__).parents[1]
FILES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s#]*)(#[^)\s]*)?\)")
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
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


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in FILES if BLOCK.search(page.read_text(encoding="utf-8"))], ids=str)
def test_python_of_a_page_runs(page, tmp_path):
    """One block after the other, as a reader would; with the model of shapes as the folder, and a picture to edit."""
    rng = np.random.default_rng(0)
    picture = draw(Scene("white", Shape("large", "red", "circle")), rng)
    names = {
        "picture": picture,
        "mask": Image.new("L", picture.size, 255),
        "pictures": Tensor(rng.uniform(-1, 1, (1, 3, 64, 64)).astype(np.float32)),
    }
    for block in BLOCK.findall(page.read_text(encoding="utf-8")):
        exec(compile(block.replace("path/or/hub-id", str(SHAPES_MODEL)), str(page), "exec"), names)
    if page == ROOT / "README.md":
        assert (tmp_path / "teddy.png").is_file()
        assert names["image"].size == (64, 64) and len(names["images"]) == 4
        assert names["codes"].shape == (1, 8, 8)
