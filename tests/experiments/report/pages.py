"""Pages of runs that are written for a test, and what is in them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from evaluation.runs.folder import Run
from experiments.report.page import write_page

HOSTILE = "</script><img src=x onerror=\"document.title='harmed'\"> a dog & a <b>cat</b>"


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its data."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, Any] = {}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.found[-1] if self.found else ("", {})
        if tag == "script" and attributes.get("id") == "data" and data.strip():
            self.data = json.loads(data)


def read_data(page: Path) -> dict[str, Any]:
    return Elements(page).data


def write_data(folder: Path, *runs: Run) -> dict[str, Any]:
    return read_data(write_page(folder, "Report", [], [], runs))
