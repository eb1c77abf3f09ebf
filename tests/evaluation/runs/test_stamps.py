"""Whether pictures are those that were listed: what is read again, what is believed, and what is
named."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evaluation.runs import stamps
from evaluation.runs.files import hash_file, write_json
from evaluation.runs.folder import IMAGES_FILE
from evaluation.runs.row_files import write_rows
from evaluation.runs.rows import ImageRow
from evaluation.runs.stamps import STAMPS_FILE, Stamps, find_changed_pictures
from experiments.status import main as status
from tests.evaluation.runs.test_folder import RECORD


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of six pictures."""
    folder = tmp_path / "runs" / "tiny-DM-2-abc"
    (folder / "images").mkdir(parents=True)
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"images/{i}.png")
    write_rows(folder / IMAGES_FILE, ImageRow, list_images(folder))
    write_json(folder / "state.json", {"state": "done", "total": 6})
    return folder


def list_images(folder: Path) -> list[ImageRow]:
    """What lists the pictures as they are."""
    return [
        ImageRow(
            "abc",
            f"p{i}",
            "a dog",
            (),
            "",
            0,
            0,
            f"images/{i}.png",
            hash_file(folder / f"images/{i}.png"),
        )
        for i in range(6)
    ]


def read_files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of pictures that are read from now on."""
    read = list[str]()

    def noting(path: Path) -> str:
        read.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(stamps, "hash_file", noting)
    return read


@pytest.mark.fault(
    what="a picture with another one's content, size and modification time restored",
    kind="pictures that are no longer those that were listed",
    now="is named, and left out of scores and reports; asked for again, the run makes it anew",
)
def test_what_changed_is_named_whatever_its_time_says(run: Path) -> None:
    rows = list_images(run)
    assert find_changed_pictures(run, rows) == []
    first, second, third = (run / row.file for row in rows[:3])
    before = first.stat()
    first.write_bytes(second.read_bytes().ljust(before.st_size, b"\0")[: before.st_size])
    os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
    third.write_bytes(third.read_bytes()[:60])
    (run / rows[3].file).unlink()
    (run / rows[4].file).unlink()
    os.mkfifo(run / rows[4].file)
    assert find_changed_pictures(run, rows) == [rows[0], rows[2], rows[4]]


def test_a_picture_is_read_once_for_as_long_as_nothing_touches_it(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, read = list_images(run), read_files(monkeypatch)
    assert find_changed_pictures(run, rows) == [] and len(read) == 6
    assert find_changed_pictures(run, rows) == [] and len(read) == 6
    os.utime(run / rows[1].file)
    assert find_changed_pictures(run, rows) == [] and read[6:] == ["1.png"]
    assert all(map(Stamps(run, trusted=False).is_listed, rows)) and len(read) == 13
    assert shutil.copytree(run, run.parent / "copy")
    read.clear()
    for expected in (6, 0):
        assert find_changed_pictures(run.parent / "copy", rows) == [] and len(read) == expected
        read.clear()


@pytest.mark.parametrize("content", [b"", b"file,size\nimages/0.png,3\n", b"\xff\xfe\0", None])
def test_stamps_that_cannot_be_read_or_kept_are_done_without(
    run: Path, content: bytes | None
) -> None:
    if content is None:
        (run / STAMPS_FILE).mkdir()
    else:
        (run / STAMPS_FILE).write_bytes(content)
    rows = list_images(run)
    (run / rows[0].file).write_bytes(b"other")
    assert [find_changed_pictures(run, rows) for _ in range(2)] == [rows[:1]] * 2
    assert sorted(path.name for path in run.iterdir() if path.name.startswith(".")) in (
        [".lock", STAMPS_FILE],
    )


def test_a_damaged_stamp_condemns_no_picture(run: Path) -> None:
    rows = list_images(run)
    assert find_changed_pictures(run, rows) == []
    table = (run / STAMPS_FILE).read_text()
    (run / STAMPS_FILE).write_text(
        table.replace(rows[0].sha256, "0" * 64).replace(rows[5].sha256, "0")
    )
    assert find_changed_pictures(run, rows) == [] and (run / STAMPS_FILE).read_text() == table


def test_processes_add_to_the_same_stamps(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Stamps(run), Stamps(run)
    for i in range(6):
        assert (one if i % 2 else other).sha256(f"images/{i}.png")
    one.save()
    other.save()
    read = read_files(monkeypatch)
    assert find_changed_pictures(run, list_images(run)) == [] and read == []


@pytest.mark.fault(
    what="pictures of a finished run swapped, cut short, deleted",
    kind="pictures that are no longer those that were listed",
    now="`experiments.status --verify` reads all of them and names each in a line, exit status 1",
)
def test_every_picture_is_verified(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status([str(run.parent), "--verify"]) == 0
    assert capsys.readouterr().out == "6 pictures as listed, 0 not\n"
    shutil.copy(run / "images/1.png", run / "images/0.png")
    (run / "images/2.png").write_bytes((run / "images/2.png").read_bytes()[:60])
    (run / "images/3.png").unlink()
    assert status([str(run.parent), "--verify"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"changed: {run / 'images/0.png'}",
        f"cut short: {run / 'images/2.png'}",
        f"missing: {run / 'images/3.png'}",
        "3 pictures as listed, 3 not; the same experiments.run command makes them anew",
    ]
    (run / IMAGES_FILE).unlink()
    assert status([str(run.parent), "--verify"]) == 1
    assert "images.csv: lists none of the pictures that are there" in capsys.readouterr().err


@pytest.mark.fault(
    what="rows taken out of images.csv, with their pictures or without",
    kind="pictures that are no longer those that were listed",
    now="`experiments.status --verify` names the pictures without a row and counts the rows that "
    "are gone; asked for again, the run lists them, scores them anew, and makes anew those that "
    "changed since they were last read",
)
def test_a_picture_without_a_row_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(run / IMAGES_FILE, ImageRow, list_images(run)[1:])
    assert status([str(run.parent), "--verify"]) == 1
    assert capsys.readouterr().out.splitlines()[0] == f"not in images.csv: {run / 'images/0.png'}"
    write_json(run / "run.json", RECORD | {"images": 6})
    (run / "images/0.png").unlink()
    assert status([str(run.parent), "--verify"]) == 1
    lost, total = capsys.readouterr().out.splitlines()
    assert lost == f"1 of the run's pictures neither listed nor there: {run / IMAGES_FILE}"
    assert total.startswith("5 pictures as listed, 1 not")
