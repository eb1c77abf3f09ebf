"""The table of the check: a row for each number, and for each that could not be had the reason."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

COLUMNS = ("check", "case", "measure", "value", "unit", "target", "verdict", "note")
NOT_RUN, FAILED = "not run", "failed"


@dataclass(frozen=True)
class Row:
    """One number, or why there is none.

    Args:
        check, case: what was tried.
        measure: what was measured; `NOT_RUN` or `FAILED` where nothing could be.
        most, least: what the number should be, if anything.
        note: the spread, or the reason.
    """

    check: str
    case: str
    measure: str
    value: float | None = None
    unit: str = ""
    most: float | None = None
    least: float | None = None
    note: str = ""

    @property
    def target(self) -> str:
        """As the table has it."""
        if self.most is not None:
            return f"<= {self.most:g}"
        return "" if self.least is None else f">= {self.least:g}"

    @property
    def verdict(self) -> str:
        """Whether the number is as it should be: "holds", "missed", or nothing."""
        if self.value is None or not self.target:
            return ""
        high = self.most is None or self.value <= self.most
        low = self.least is None or self.value >= self.least
        return "holds" if high and low else "missed"

    @property
    def is_bad(self) -> bool:
        """Whether somebody should look at it."""
        return self.measure == FAILED or self.verdict == "missed"

    def cells(self) -> list[str]:
        """The texts of the `COLUMNS`."""
        value = "" if self.value is None else _format(self.value)
        return [
            self.check,
            self.case,
            self.measure,
            value,
            self.unit,
            self.target,
            self.verdict,
            self.note,
        ]

    def tell(self) -> str:
        """In one line."""
        what = f"{self.check}, {self.case}: {self.measure}"
        value = "" if self.value is None else f" {_format(self.value)} {self.unit}".rstrip()
        target = f" ({self.target}: {self.verdict})" if self.verdict else ""
        return what + value + target + (f": {self.note}" if self.note else "")


def write_csv(rows: Iterable[Row]) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(row.cells() for row in rows)
    return text.getvalue()


def write_markdown(rows: Sequence[Row]) -> str:
    """The rows as a table of Markdown."""
    lines = [COLUMNS, ("---",) * len(COLUMNS), *(row.cells() for row in rows)]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


def _format(value: float) -> str:
    if not math.isfinite(value):
        return str(value)
    return str(int(value)) if value == int(value) and abs(value) < 1e6 else f"{value:.4g}"
