"""What run.json says of how a run was made, and what becomes of one that is damaged or newer."""

from __future__ import annotations

import json

import pytest

from evaluation.runs.files import write_json
from evaluation.runs.folder import IMAGES_FILE, read_run
from evaluation.runs.row_files import read_rows
from evaluation.runs.rows import ImageRow
from tests.lab import Lab, read_images


def test_a_run_that_made_nothing_begins_anew_with_another_batch_size(lab: Lab) -> None:
    lab("batch_size=2")
    folder = lab.only_run()
    before = read_images(folder)
    for path in (folder / "images").iterdir():
        path.unlink()
    assert lab("batch_size=1").status == 0
    assert (
        read_run(folder).record["batch_size"] == 1 and read_images(folder).keys() == before.keys()
    )


@pytest.mark.fault(
    what="a `run.json` of a newer version of this program",
    kind="files of a run from elsewhere",
    now="is refused in one line, by the run too, and stays as it is",
)
def test_a_record_of_a_newer_version_is_never_written_over(lab: Lab) -> None:
    lab()
    folder = lab.only_run()
    record = {"schema_version": 2, "what": "nobody knows"}
    write_json(folder / "run.json", record)
    (folder / "grid.png").unlink()
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for options in ((), ("-m",)):
        result = lab(*options)
        assert result.status == 1 and len(result.lines) == 1 and result.out == ""
        assert (
            "run.json: schema version 2 is newer than this program's 1; update it" in result.error
        )
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.fault(
    what="a run that goes on under another torch, or another commit of the program",
    kind="runs that go on elsewhere",
    now="one line says so; `run.json` counts the images that each made",
)
def test_a_run_that_goes_on_with_other_versions_says_so(lab: Lab) -> None:
    lab()
    folder = lab.only_run()
    record = read_run(folder).record
    now, cpu = {name: record[name] for name in ("git_commit", "versions")}, {"device": "cpu"}
    assert record["made_with"] == [now | cpu | {"images": 3}]
    then = {"git_commit": "0123456789", "versions": now["versions"] | {"torch": "0.4"}}
    write_json(folder / "run.json", {k: v for k, v in (record | then).items() if k != "made_with"})
    assert lab().lines == []
    (folder / read_run(folder).images[0].file).unlink()
    (line,) = lab().lines
    torch = now["versions"]["torch"]
    assert f": goes on with torch {torch} (begun with 0.4), commit " in line
    assert line.startswith("warning: ") and line.endswith(
        "(begun with 0123456): its images can differ in the last bits"
    )
    record = read_run(folder).record
    assert record["made_with"] == [then | cpu | {"images": 2}, now | cpu | {"images": 1}]
    assert {name: record[name] for name in then} == then
    assert lab().lines == []


def test_a_record_of_nonsense_is_written_anew(lab: Lab) -> None:
    lab()
    folder = lab.only_run()
    before, record = read_images(folder), read_run(folder).record
    write_json(folder / "run.json", record | {"batch_size": -2})
    (folder / read_rows(folder / IMAGES_FILE, ImageRow)[0].file).unlink()
    (line,) = lab().lines
    assert (
        "run.json: not the record of a run (batch_size)" in line and "kept as run.json.bak" in line
    )
    assert json.loads((folder / "run.json.bak").read_text())["batch_size"] == -2
    assert (
        read_images(folder) == before
        and read_run(folder).record["batch_size"] == record["batch_size"]
    )
    record = read_run(folder).record
    lost, own = record["made_with"]
    assert (record["git_commit"], record["versions"]) == (None, {})
    assert lost == {"git_commit": None, "versions": {}, "images": 2} and own["images"] == 1


def test_the_record_says_where_and_in_what_precision_a_run_was_made(lab: Lab) -> None:
    lab("device=null", "model.device=cpu")
    record = read_run(lab.only_run()).record
    assert (record["device"]["type"], record["device"]["dtype"]) == ("cpu", "float32")
    assert record["identity"]["model"]["dtype"] == "float32"
