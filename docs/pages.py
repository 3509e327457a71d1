"""A hook of MkDocs: pages of the site that lie elsewhere in the repository, and links from pages to files of it."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
# page of the site -> file of the repository
PAGES = {
    "index.md": "README.md",
    "results.md": "benchmarks/RESULTS.md",
    "contributing.md": "CONTRIBUTING.md",
    "changes.md": "CHANGELOG.md",
}
PAGE_OF = {source: page for page, source in PAGES.items()}
LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|#|mailto:)([^)\s#]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages of ``PAGES``."""
    for page, source in PAGES.items():
        content = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links as the files of the repository have them, as links of the site; to what is no page, as a plain name."""
    own = PAGES.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def moved(match: re.Match) -> str:
        text, link, anchor = match.groups()
        target = posixpath.normpath(posixpath.join(posixpath.dirname(own), link))
        place = PAGE_OF.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        if place is None:
            return text
        relative = posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")
        return f"[{text}]({relative}{anchor or ''})"

    return LINK.sub(moved, markdown)
