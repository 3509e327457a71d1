"""Pages in Markdown."""

import re
from pathlib import Path

PYTHON = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def python_blocks(path: Path) -> list[str]:
    """The code of a page that is marked as Python."""
    return PYTHON.findall(path.read_text(encoding="utf-8"))
