"""A table that several processes write loses no row."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

from asyndm.errors import UserError
from evaluation.runs.folder import SCORES_FILE
from evaluation.runs.row_files import read_rows, write_rows
from evaluation.runs.rows import ScoreRow
from evaluation.runs.shared_rows import SharedRows
from tests.lab import ROOT


def make_row(number: int, value: float = 0.5, metric: str = "m") -> ScoreRow:
    return ScoreRow("run", f"p{number:03d}", 0, metric, value)


def sort_rows(rows: Iterable[ScoreRow]) -> list[ScoreRow]:
    return sorted(rows, key=lambda row: row.place)


def test_64_writers_of_one_table_lose_no_row(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from evaluation.runs.folder import ScoreRow\n"
        "from evaluation.runs.shared_rows import SharedRows\n"
        "import os\n"
        "def write(n):\n"
        "    order = lambda rows: sorted(rows, key=lambda row: row.place)\n"
        "    table = SharedRows(Path(sys.argv[1]), ScoreRow, order)\n"
        "    for i in range(20):\n"
        "        table.put([ScoreRow('run', f'p{n:02d}', i, 'm', 0.5)])\n"
        "    table.save()\n"
        "children = []\n"
        "for n in range(64):\n"
        "    child = os.fork()\n"
        "    if not child:\n"
        "        write(n); os._exit(0)\n"
        "    children.append(child)\n"
        "sys.exit(sum(os.waitpid(child, 0)[1] for child in children))\n"
    )
    path = tmp_path / "scores.csv"
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, timeout=120)
    assert done.returncode == 0
    assert [row.place for row in read_rows(path, ScoreRow)] == [
        ("m", f"p{n:02d}", i) for n in range(64) for i in range(20)
    ]


def test_tables_of_two_processes_are_merged(tmp_path: Path) -> None:
    path = tmp_path / SCORES_FILE
    one, other = (SharedRows(path, ScoreRow, sort_rows) for _ in range(2))
    one.put([make_row(2)])
    one.save()
    other.put([make_row(1)])
    other.save()
    assert (
        read_rows(path, ScoreRow)
        == [make_row(1), make_row(2)]
        == list(sort_rows(other.rows.values()))
    )
    one.refresh()
    assert len(one.rows) == 2
    one.drop({make_row(1).place})
    other.put([make_row(3), make_row(2, 0.25)])
    other.save()
    assert read_rows(path, ScoreRow) == [make_row(2, 0.25), make_row(3)]


def test_what_could_not_be_saved_is_saved_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = SharedRows(tmp_path / SCORES_FILE, ScoreRow, sort_rows)

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("evaluation.runs.shared_rows.write_rows", full)
    with pytest.raises(OSError):
        table.put([make_row(1)])
    monkeypatch.undo()
    table.put([make_row(2)])
    table.save()
    assert read_rows(table.path, ScoreRow) == [make_row(1), make_row(2)]


def test_whole_rows_of_a_damaged_table_are_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / SCORES_FILE
    write_rows(path, ScoreRow, [make_row(i) for i in range(4)])
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(
        UserError, match=r"scores.csv, line 5: not a row of scores.csv \(the last line has no end\)"
    ):
        read_rows(path, ScoreRow)
    table = SharedRows(path, ScoreRow, sort_rows)
    assert "(the last line has no end); 3 rows of it are kept" in capsys.readouterr().err
    table.save()
    assert read_rows(path, ScoreRow) == [make_row(i) for i in range(3)]
