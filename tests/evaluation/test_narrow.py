"""A table on a terminal that it does not fit."""

from __future__ import annotations

from evaluation.narrow import to_narrow
from evaluation.table_text import Layout

HEADS = ("method", "metric", "score")


def test_what_all_rows_share_is_told_once_and_the_best_has_a_star() -> None:
    body = (("DM", "exact", "0.500 [0.4, 0.6]"), ("AsynDM", "exact", "0.750 [0.6, 0.9]"))
    layout = Layout(HEADS, body, frozenset({(1, 2)}))
    assert to_narrow(layout, ["A note."], 80).splitlines() == [
        "In all rows: metric exact.",
        "",
        "method  score",
        "-------------------------",
        "DM      0.500 [0.4, 0.6]",
        "AsynDM  0.750* [0.6, 0.9]",
        "",
        "A note.",
    ]


def test_a_row_goes_on_below_where_the_line_ends() -> None:
    rows = (("DM", "a" * 20, "b" * 20), ("AsynDM", "c" * 20, ""))
    lines = to_narrow(Layout(HEADS, rows, frozenset()), [], 10).splitlines()  # 40 is the least
    assert lines[3:] == [f"DM      {'a' * 20}", f"    {'b' * 20}", f"AsynDM  {'c' * 20}"]
    assert max(map(len, lines)) <= 40
