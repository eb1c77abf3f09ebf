"""The pages of the documentation, and what of them can be run.

A page that shows what its commands print, in blocks of text, is an example: it is run as it
stands, in a folder of its own (`test_docs`). Any other one is a guide: its commands are run
shortened, one page after the other in one folder (`test_readme`).
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
INDEX = DOCS / "README.md"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REFERENCE = DOCS / "reference.md"
"""Its commands are run on files in the format of the authors' scripts (`test_reference`)."""
LISTED = re.compile(r"\((\w+)\.md\)")


def find_blocks(page: Path) -> list[tuple[str, str]]:
    """Its blocks of code: their language, and their text with continued lines in one."""
    return [(of, text.replace("\\\n", "")) for of, text in BLOCK.findall(page.read_text())]


def list_pages() -> list[Path]:
    """The pages of ``docs`` in the order of its index."""
    return [DOCS / f"{name}.md" for name in dict.fromkeys(LISTED.findall(INDEX.read_text()))]


def is_example(page: Path) -> bool:
    """Whether it shows what its commands print."""
    return any(language == "text" for language, _ in find_blocks(page))


PAGES = [page for page in list_pages() if page.exists()]
EXAMPLES = [page for page in PAGES if is_example(page)]
GUIDES = [
    ROOT / "README.md",
    *(page for page in PAGES if page not in EXAMPLES and page != REFERENCE),
    ROOT / "evaluation" / "README.md",
    ROOT / "CONTRIBUTING.md",
]
PROSE = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "evaluation/**/*.md", "src/**/*.md", "examples/*.md")
    for path in ROOT.glob(pattern)
) + [ROOT / "experiments" / "results" / "README.md"]
"""All that is written by hand."""
