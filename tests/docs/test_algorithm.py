"""Every line of code that ``docs/algorithm.md`` quotes stands in the file it names."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import DOCS, ROOT, find_blocks

PAGE = DOCS / "algorithm.md"
COMMENT = re.compile(r"(^|  )# .*")
FILE = re.compile(r"# (src/\S+\.py)\n")
QUOTES = [text for language, text in find_blocks(PAGE) if language == "py"]


def test_code_is_quoted_from_all_that_the_algorithm_is_made_of() -> None:
    files = {match[1] for text in QUOTES if (match := FILE.match(text))}
    names = ("attention", "curves", "ladder", "method", "scheduler", "steps")
    assert files == {f"src/asyndm/{name}.py" for name in names}


@pytest.mark.parametrize("quote", QUOTES, ids=lambda quote: quote.splitlines()[0])
def test_a_quoted_line_stands_in_its_file(quote: str) -> None:
    """In the order of the file; the page's own comments say what they are."""
    match = FILE.match(quote)
    assert match
    lines = (line.strip() for line in (ROOT / match[1]).read_text().splitlines())
    quoted = [COMMENT.sub("", line).strip() for line in quote.splitlines()]
    quoted = [line for line in quoted if line]
    assert quoted
    for line in quoted:
        assert line in lines, line
