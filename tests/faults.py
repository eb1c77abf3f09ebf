"""The second table of docs/faults.md: a row for each test that carries the mark ``fault``.

python -m tests.faults
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "faults.md"
HEAD = "| fault | kind | what happens now |\n|---|---|---|\n"


class Fault(NamedTuple):
    """What is wrong, what it stands for, and what happens now."""

    what: str
    kind: str
    now: str


def read_faults() -> list[Fault]:
    """All of them, kind by kind. Read from the source, so that it does not matter which tests are
    selected."""
    marks = [
        mark
        for path in sorted(TESTS.rglob("test_*.py"))
        for mark in _find_marks(ast.parse(path.read_text()))
    ]
    kinds = {kind: i for i, kind in enumerate(dict.fromkeys(mark.kind for mark in marks))}
    return sorted(marks, key=lambda mark: kinds[mark.kind])


def _find_marks(tree: ast.Module) -> Iterator[Fault]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "pytest.mark.fault":
                    yield Fault(
                        **{str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
                    )


def format_table() -> str:
    """The rows in Markdown."""
    return HEAD + "".join(
        f"| {fault.what} | {fault.kind} | {fault.now} |\n" for fault in read_faults()
    )


def insert_table(page: str) -> str:
    """The page with its table made anew."""
    before, _, rest = page.partition(HEAD)
    rows = rest.splitlines(keepends=True)
    after = next((i for i, line in enumerate(rows) if not line.startswith("|")), len(rows))
    return before + format_table() + "".join(rows[after:])


if __name__ == "__main__":
    PAGE.write_text(insert_table(PAGE.read_text()))
