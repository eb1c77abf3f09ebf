"""Tables as people, their programs and accidents leave them: what can be read is, and nothing is
lost without a copy."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asyndm.errors import UserError
from evaluation.runs.files import write_json
from evaluation.runs.folder import read_run
from evaluation.runs.row_files import read_rows, read_table, warn_once, write_rows
from evaluation.runs.rows import ImageRow, ScoreRow
from evaluation.runs.shared_rows import SharedRows

HEADER = "run_id,prompt_id,image_index,metric,value,reason,surplus,missing"
COLUMNS = HEADER.split(",")
ROWS = [
    ScoreRow("r", "p", 0, "exact", 0.5, "an \u2028 odd “reason”, with\nlines; and \x85 more", 0, 2),
    ScoreRow("r", "p", 1, "exact", None, "none"),
    ScoreRow("r", "q", 0, "clip", -1e-7),
]


def keep_order(rows: Iterable[ScoreRow]) -> list[ScoreRow]:
    return list(rows)


def list_cells() -> list[list[str]]:
    return [list(row.to_cells().values()) for row in ROWS]


def save(
    path: Path,
    header: Sequence[str] | None = COLUMNS,
    rows: Callable[[list[str]], list[str]] = lambda row: row,
    encoding: str = "utf-8",
    **form: Any,
) -> None:
    """The rows as another program writes them."""
    with path.open("w", newline="", encoding=encoding) as file:
        writer = csv.writer(file, **form)
        writer.writerows([*([header] if header else []), *map(rows, list_cells())])


EXCEL: dict[str, Any] = {"dialect": "excel"}
EDITED: dict[str, Callable[[Path], None]] = {
    "Excel's, with a byte order mark": lambda path: save(path, encoding="utf-8-sig", **EXCEL),
    "semicolons": lambda path: save(path, encoding="utf-8-sig", delimiter=";"),
    "tabs in UTF-16": lambda path: save(path, encoding="utf-16", **EXCEL, delimiter="\t"),
    "all quoted": lambda path: save(path, quoting=csv.QUOTE_ALL, lineterminator="\n"),
    "no header": lambda path: save(path, None, lineterminator="\n"),
    "no header, semicolons": lambda path: save(path, None, delimiter=";"),
    "Excel's line of the separator": lambda path: save_after("sep=;\r\n", path, delimiter=";"),
    "such a line, no header": lambda path: save_after('"sep=|"\n', path, None, delimiter="|"),
    "blanks about names": lambda path: save(
        path, rows=lambda row: [*(f" {c} " for c in row[:4]), *row[4:]]
    ),
    "capitals": lambda path: save(path, [name.title() for name in COLUMNS]),
    "another order": lambda path: save(path, COLUMNS[::-1], lambda row: row[::-1]),
    "more columns": lambda path: save(path, [*COLUMNS, "note"], lambda row: [*row, "mine"]),
    "empty cells left out": lambda path: save(path, rows=drop_empty_end),
    "counts with a point": lambda path: save(
        path, rows=lambda row: [*row[:6], *(f"{c}.0" if c else c for c in row[6:])]
    ),
    "empty rows": lambda path: save_between_empty_rows(path),
    "two files joined": lambda path: save_twice(path),
    "a line a cell, as Excel": lambda path: save_in_cells(path),
    "no end, as Google Sheets": lambda path: save_without_end(path),
}


def drop_empty_end(row: list[str]) -> list[str]:
    last = max(i for i, cell in enumerate(row) if cell)
    return row[: last + 1]


def save_between_empty_rows(path: Path) -> None:
    path.write_text(f"\n{HEADER}\n,,,,,\n\n")
    save_at_end(path)


def save_twice(path: Path) -> None:
    save(path)
    path.write_bytes(2 * path.read_bytes())


def save_without_end(path: Path) -> None:
    save(path)
    path.write_bytes(path.read_bytes()[:-2])


def save_after(first: str, path: Path, header: Sequence[str] | None = COLUMNS, **form: Any) -> None:
    save(path, header, **form)
    path.write_bytes(first.encode() + path.read_bytes())


def save_in_cells(path: Path) -> None:
    save(path, None, lineterminator="\0")
    lines = path.read_bytes().decode().split("\0")[:-1]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=";").writerows([[HEADER], *([line] for line in lines)])


def save_at_end(path: Path) -> None:
    head = path.read_bytes()
    save(path, None, lineterminator="\n")
    path.write_bytes(head + path.read_bytes())


@pytest.mark.fault(
    what="a scores.csv saved by Excel (byte order mark, semicolons, all quoted), or without its "
    "header",
    kind="tables edited by people",
    now="every row is read",
)
@pytest.mark.parametrize("edited", EDITED)
def test_a_table_that_another_program_saved_is_read(tmp_path: Path, edited: str) -> None:
    path = tmp_path / "scores.csv"
    EDITED[edited](path)
    assert read_rows(path, ScoreRow) == ROWS
    table = SharedRows(path, ScoreRow, keep_order)
    table.put([ScoreRow("r", "new", 0, "exact", 1.0)])
    table.save()
    assert read_rows(path, ScoreRow)[:-1] == ROWS and path.read_text().startswith(HEADER + "\n")
    assert (tmp_path / "scores.csv.bak").exists() == (edited == "more columns")


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("header", [COLUMNS[:6], None])
def test_a_table_from_before_things_were_counted_is_read(
    tmp_path: Path, header: list[str] | None, delimiter: str
) -> None:
    path = tmp_path / "scores.csv"
    save(path, header, lambda row: row[:6], delimiter=delimiter, lineterminator="\n")
    rows = [replace(row, surplus=None, missing=None) for row in ROWS]
    assert read_rows(path, ScoreRow) == rows
    table = SharedRows(path, ScoreRow, keep_order)
    table.put([ScoreRow("r", "new", 0, "exact", 1.0, "", 0, 1)])
    table.save()
    assert path.read_text().splitlines()[0] == HEADER
    assert path.read_text().splitlines()[-1] == "r,new,0,exact,1.0,,0,1"
    assert read_rows(path, ScoreRow)[:-1] == rows and not list(tmp_path.glob("*.bak"))


@pytest.mark.fault(
    what="a scores.csv with a row that cannot be read, as 0,5 for 0.5",
    kind="tables edited by people",
    now="all other rows are kept, and the file as it was is kept as scores.csv.bak, in one line",
)
@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("r,x,0,exact,0,5,,,", "9 cells for 8 columns"),
        ("r,x,0,exact,0.5,,1.5,", "1.5 is no number of things"),
        ("r,x,0,exact,0.5,,,-1", "-1 is no number of things"),
        ('r,x,0,exact,"0,5",', "could not convert string to float: '0,5'"),
        ("r,x,0,exact,inf,", "the value inf is no number"),
        ("r,x,0", "no metric"),
        ('r,x,0,exact,1.0,"a quote left open', "line contains|unexpected end|expected after"),
        ("r,x,0,exact,1.0,caf\udce9", "not UTF-8 text"),
        ("r,x,0,exact,1.0,\0\0\0", "zeros of a damaged disk"),
    ],
)
def test_what_cannot_be_read_is_kept_beside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: str, why: str
) -> None:
    path = tmp_path / "scores.csv"
    write_rows(path, ScoreRow, ROWS)
    head, row, *others = path.read_bytes().split(b"\n", 2)
    path.write_bytes(b"\n".join([head, bad.encode(errors="surrogateescape"), row, *others]))
    before = path.read_bytes()
    with pytest.raises(
        UserError, match=rf"scores.csv, line 2: not a row of scores.csv \(.*({why})"
    ):
        read_rows(path, ScoreRow)
    table = SharedRows(path, ScoreRow, keep_order)
    assert list(table.rows.values()) == ROWS and path.read_bytes() == before
    assert f"warning: {path}, line 2: not a row" in capsys.readouterr().err
    table.save()
    said = capsys.readouterr().err.strip()
    assert "kept as scores.csv.bak" in said and said.count("\n") == 0
    assert (tmp_path / "scores.csv.bak").read_bytes() == before
    assert read_rows(path, ScoreRow) == ROWS


@pytest.mark.fault(
    what="a scores.csv without its header and with semicolons, whose first row is damaged",
    kind="tables edited by people",
    now="all other rows are read",
)
@pytest.mark.parametrize("bad", ["r;x;0", "0,5;1,2", 'r;"x;0;exact;1;', "r,x,0,exact,0.5,"])
def test_a_damaged_first_row_costs_no_other(tmp_path: Path, bad: str) -> None:
    path = tmp_path / "scores.csv"
    save(path, None, delimiter=";", lineterminator="\n")
    save_after(f"{bad}\n", path, None, delimiter=";", lineterminator="\n")
    table = read_table(path, ScoreRow)
    assert list(table.rows.values()) == ROWS and table.unread.startswith(
        "line 1: not a row of scores.csv"
    )


@pytest.mark.fault(
    what="an images.csv with a row that names a file outside of `images/`, or the picture of "
    "another row",
    kind="one file, two meanings",
    now="scores, reports and --verify refuse the row in one line; asked for again, the run lists "
    "the picture itself",
)
@pytest.mark.parametrize(
    "file",
    [
        "../../secret.png",
        "images/../../secret.png",
        "/images/p.png",
        "a.png",
        "images/",
        "images/p_000.png",
    ],
)
def test_a_row_names_a_picture_of_its_own_run(tmp_path: Path, file: str) -> None:
    rows = [
        ImageRow("r", p, "a dog", (), "", 0, 1, f, "ab")
        for p, f in (("p", "images/p_000.png"), ("q", file))
    ]
    write_rows(tmp_path / "images.csv", ImageRow, rows)
    with pytest.raises(
        UserError,
        match=r"images.csv, line 3: not a row of images.csv \((the|another row has the) file",
    ):
        read_rows(tmp_path / "images.csv", ImageRow)
    assert list(read_table(tmp_path / "images.csv", ImageRow).rows.values()) == rows[:1]


def test_a_table_of_something_else_is_kept_beside(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("picture,stars\na.png,5\nb.png,3\n")
    with pytest.raises(
        UserError, match="scores.csv, line 1: not a row of scores.csv .*, and 2 more; mend it"
    ):
        read_rows(path, ScoreRow)
    path.write_text("run_id,prompt_id,image_index,metric,reason\nr,p,0,exact,\n")
    with pytest.raises(UserError, match="scores.csv, line 1: no column value"):
        read_rows(path, ScoreRow)
    SharedRows(path, ScoreRow, keep_order).save()
    assert read_rows(path, ScoreRow) == [] and "r,p,0" in (tmp_path / "scores.csv.bak").read_text()


@pytest.mark.fault(
    what="two rows of one picture and metric that say different things",
    kind="one file, two meanings",
    now="the last counts for every command, with one warning that names file, line and picture",
)
def test_contradicting_rows_have_one_meaning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, last = ScoreRow("r", "p", 0, "exact", 1.0), ScoreRow("r", "p", 0, "exact", 0.0)
    image = ImageRow("r", "p", "a dog", ("dog",), "", 0, 1, "images/p_000.png", "ab")
    write_json(
        tmp_path / "run.json",
        {"schema_version": 1, "config": {}, "identity": {}, "timings": {}},
    )
    write_rows(tmp_path / "images.csv", ImageRow, [image, image])
    write_rows(tmp_path / "scores.csv", ScoreRow, [first, *ROWS[2:], *ROWS[2:], last])
    for _ in range(2):
        run = read_run(tmp_path)
        assert run.scores == [last, *ROWS[2:]] and run.images == [image]
    assert (
        list(SharedRows(tmp_path / "scores.csv", ScoreRow, keep_order).rows.values()) == run.scores
    )
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[0].endswith(
        "scores.csv, line 5: another row of exact, p, 0, which says otherwise; the last counts"
    )
    assert len(lines) == 2 and lines[1].startswith(lines[0]) and "2 rows of it are kept" in lines[1]


@pytest.mark.fault(
    what="a prompt of more than 131,072 characters",
    kind="limits of a file format's reader",
    now="its rows are read back, so that the run can finish",
)
def test_rows_of_long_prompts_come_back(tmp_path: Path) -> None:
    image = ImageRow("r", "p", "a dog " * 50_000, (), "", 0, 1, "images/p_000.png", "ab")
    limit = csv.field_size_limit()
    write_rows(tmp_path / "images.csv", ImageRow, [image])
    assert (
        read_rows(tmp_path / "images.csv", ImageRow) == [image] and csv.field_size_limit() == limit
    )


def test_a_header_alone_and_an_empty_file_have_no_rows(tmp_path: Path) -> None:
    for content in ("", "\n", HEADER, HEADER + "\r\n", "\ufeff" + HEADER):
        (tmp_path / "scores.csv").write_text(content)
        assert read_rows(tmp_path / "scores.csv", ScoreRow) == []
        assert read_table(tmp_path / "scores.csv", ScoreRow).lost == ""


def test_a_warning_is_said_once_and_cannot_steer_a_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for _ in range(2):
        warn_once("\x1b[2J told")
    assert capsys.readouterr().err == "warning: \\x1b[2J told\n"


IMAGE = ImageRow(
    "r",
    "p",
    'a "red", dog\nand a cat',
    ("red, dog", 'c"at'),
    "",
    3,
    2**40,
    "images/p_003.png",
    "ab",
)
SCORES = [
    ScoreRow("r", "p", 3, "exact", 0.1 + 0.2, "no, none", 2, 0),
    ScoreRow("r", "p", 4, "exact", None, "why"),
]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    write_rows(tmp_path / "images.csv", ImageRow, [IMAGE])
    write_rows(tmp_path / "scores.csv", ScoreRow, SCORES)
    assert read_rows(tmp_path / "images.csv", ImageRow) == [IMAGE]
    assert read_rows(tmp_path / "scores.csv", ScoreRow) == SCORES
    assert read_rows(tmp_path / "none.csv", ScoreRow) == []
    assert {path.name for path in tmp_path.iterdir()} == {"images.csv", "scores.csv"}


@pytest.mark.parametrize("row", [b"r,p,three,exact,1.0,", b"r,p", b"r,p,3,exact,high,"])
def test_a_malformed_row_is_told_with_its_line(tmp_path: Path, row: bytes) -> None:
    path = tmp_path / "scores.csv"
    path.write_bytes(
        b"run_id,prompt_id,image_index,metric,value,reason\nr,p,0,exact,1.0,\n%b\n" % row
    )
    with pytest.raises(UserError, match=r"scores.csv, line 3: not a row"):
        read_rows(path, ScoreRow)


def test_rows_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "scores.csv").write_bytes(b"run_id,prompt_id\n\xff\xfe\n")
    with pytest.raises(UserError, match="scores.csv, line .*: not a row"):
        read_rows(tmp_path / "scores.csv", ScoreRow)
