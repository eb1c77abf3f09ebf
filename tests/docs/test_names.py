"""What the documentation names is there: modules, classes, functions, files, choices, columns."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path
from pkgutil import resolve_name

import pytest

from evaluation.runs.rows import ImageRow, QualityRow, ScoreRow
from tests.docs.pages import BLOCK, DOCS, PROSE, ROOT

DOTTED = re.compile(r"`(?:python\s-m\s)?((?:asyndm|evaluation|experiments|tests)(?:\.\w+)+)")
PLACE = re.compile(
    r"`((?:src|conf|tests|docs|evaluation|experiments|examples|\.ci)/[\w./-]*|[\w-]+/README\.md)`"
)
LINK = re.compile(r"\]\(([^()\s]+)\)")
PATTERN = re.compile(r"\b(GROUP|NAME|ID)\b")


def name_page(page: Path) -> str:
    return str(page.relative_to(ROOT))


def read_anchors(page: Path) -> set[str]:
    """What a link to a heading of the page can name, as GitHub makes it."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PROSE, ids=name_page)
def test_modules_classes_and_functions_are_there(page: Path) -> None:
    for dotted in DOTTED.findall(page.read_text()):
        assert resolve_name(dotted) is not None


@pytest.mark.parametrize("page", PROSE, ids=name_page)
def test_files_are_there(page: Path) -> None:
    for place in PLACE.findall(page.read_text()):
        assert PATTERN.search(place) or (ROOT / place).exists(), place


@pytest.mark.parametrize("page", PROSE, ids=name_page)
def test_links_lead_somewhere(page: Path) -> None:
    for link in LINK.findall(page.read_text()):
        place, _, anchor = link.partition("#")
        if not place.startswith("http"):
            target = (page.parent / place).resolve() if place else page
            assert target.exists(), link
            assert not anchor or anchor in read_anchors(target), link


def read_quoted(page: Path) -> set[str]:
    """All words in backticks, but for blocks of code."""
    prose = BLOCK.sub("", page.read_text())
    return {word for code in re.findall(r"`([^`]+)`", prose) for word in code.split()}


def test_every_choice_is_on_the_page_of_groups() -> None:
    named = read_quoted(DOCS / "groups.md")
    groups = [folder for folder in (ROOT / "conf").iterdir() if folder.is_dir()]
    assert groups
    for group in groups:
        choices = {path.stem for path in group.glob("*.yaml")}
        assert choices <= named, group.name
        assert not choices or group.name in named


def test_every_column_and_key_is_on_the_page_of_results() -> None:
    named = read_quoted(DOCS / "results.md")
    for row in (ImageRow, ScoreRow, QualityRow):
        assert {column.name for column in fields(row)} <= named, row.__name__
    assert read_keys(ROOT / "experiments" / "engine" / "record.py", "schema_version") <= named


def read_keys(path: Path, key: str) -> set[str]:
    """The keys of the dictionary in a file that has this one."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Dict):
            found = {of.value for of in node.keys if isinstance(of, ast.Constant)}
            if key in found:
                return {str(of) for of in found}
    raise AssertionError(f"{path.name}: no such dictionary")
