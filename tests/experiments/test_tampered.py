"""Files of a run, and those it is made of, that change behind its back: a picture stands for its
run or is made anew."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from asyndm.errors import UserError
from evaluation.runs.files import hash_file, read_json, write_json
from evaluation.runs.folder import IMAGES_FILE, SCORES_FILE, read_run
from evaluation.runs.records import RUN_FILE
from evaluation.runs.row_files import read_rows
from evaluation.runs.rows import ImageRow
from evaluation.runs.stamps import STAMPS_FILE
from experiments.engine.plan import Plan, build_mask, make_plan
from experiments.engine.record import _begin_making, _count_standing
from experiments.engine.sampling import load_model
from experiments.report.command import main as report
from tests.experiments.engine.test_schema import compose_config
from tests.lab import BRIGHTNESS, Lab, read_images


def plan_run(lab: Lab, *overrides: str) -> Plan:
    return make_plan(compose_config(*lab.arguments(*overrides)))


@pytest.mark.fault(
    what="the picture of mask=external changes while the model loads, or while it is sampled with",
    kind="files that change",
    now="one line, before anything is sampled; it is read once",
)
def test_the_mask_is_the_one_that_the_run_is_known_by(lab: Lab) -> None:
    file = lab.folder / "mask.png"
    Image.new("L", (8, 8), 255).save(file)
    plan = plan_run(lab, "mask=external", f"mask.image={file}")
    mask: Any = build_mask(plan)
    Image.new("L", (8, 8), 0).save(file)
    assert bool((mask.select(range(2), 2).image == 1).all())
    with pytest.raises(
        UserError, match=r"mask.image=.*mask.png: changed since this run was planned"
    ):
        build_mask(plan)


@pytest.mark.fault(
    what="a local model's files change between planning and loading",
    kind="files that change",
    now="one line that names the model, before anything is sampled",
)
def test_the_model_is_the_one_that_the_run_is_known_by(lab: Lab) -> None:
    model = lab.folder / "model"
    shutil.copytree(lab.pipeline, model)
    plan = plan_run(lab, f"model.path={model}")
    scheduler = model / "scheduler" / "scheduler_config.json"
    write_json(scheduler, read_json(scheduler) | {"beta_end": 0.02})
    with pytest.raises(UserError, match=r"model.path=.*model: changed since this run was planned"):
        load_model(plan)
    assert load_model(plan_run(lab, f"model.path={model}"))


def remove_first_row(folder: Path) -> ImageRow:
    first, *others = (folder / IMAGES_FILE).read_text().splitlines(keepends=True)[1:]
    row = read_rows(folder / IMAGES_FILE, ImageRow)[0]
    head = (folder / IMAGES_FILE).read_text().splitlines(keepends=True)[0]
    (folder / IMAGES_FILE).write_text("".join([head, *others]))
    return row


@pytest.mark.parametrize("stamped", [True, False])
def test_a_swapped_picture_without_a_row_keeps_no_score(lab: Lab, stamped: bool) -> None:
    asked = (BRIGHTNESS, "mask=none")
    assert lab(*asked).status == 0
    folder = lab.only_run()
    before, tables = (
        read_images(folder),
        [(folder / name).read_bytes() for name in (IMAGES_FILE, SCORES_FILE)],
    )
    row = remove_first_row(folder)
    other = read_rows(folder / IMAGES_FILE, ImageRow)[0]
    shutil.copy(folder / other.file, folder / row.file)
    if not stamped:
        assert (
            report([str(folder)]) == 0
            and f"Of {folder.name}: 1 picture not in its list." in lab.read_output()
        )
        (folder / STAMPS_FILE).unlink()
    result = lab(*asked)
    (line,) = result.lines
    assert result.status == 0
    if stamped:
        assert "1 picture other than images.csv lists" in line and read_images(folder) == before
        assert [(folder / name).read_bytes() for name in (IMAGES_FILE, SCORES_FILE)] == tables
    else:
        assert "1 scored picture not in images.csv; listed and scored anew" in line
        run = read_run(folder)
        assert (
            [image.sha256 for image in run.images[:2]]
            == 2 * [other.sha256]
            == 2 * [hash_file(folder / row.file)]
        )
        assert run.scores[0].value == run.scores[1].value
    assert "  found  " in lab(*asked).out


def test_a_whole_picture_that_was_never_listed_nor_scored_is_kept(lab: Lab) -> None:
    assert lab("mask=none").status == 0
    folder = lab.only_run()
    table, row = (folder / IMAGES_FILE).read_bytes(), remove_first_row(folder)
    kept = (folder / row.file).stat().st_mtime_ns
    result = lab("mask=none", BRIGHTNESS)
    assert result.status == 0 and result.lines == []
    assert (folder / row.file).stat().st_mtime_ns == kept
    assert (folder / IMAGES_FILE).read_bytes() == table


@pytest.mark.fault(
    what="a run.json that is no JSON, as after a trailing comma, of a run with pictures",
    kind="files of a run from elsewhere",
    now="is written anew in one line, and kept as run.json.bak; of what made the pictures nothing "
    "is claimed",
)
def test_a_record_that_cannot_be_read_is_kept_beside(lab: Lab) -> None:
    assert lab("mask=none").status == 0
    folder = lab.only_run()
    text = (folder / RUN_FILE).read_text().rstrip().removesuffix("}") + ",}"
    (folder / RUN_FILE).write_text(text)
    (line,) = lab("mask=none").lines
    assert "run.json: not JSON" in line and "kept as run.json.bak" in line
    assert (folder / "run.json.bak").read_text() == text
    record = read_run(folder).record
    assert record["made_with"] == [{"git_commit": None, "versions": {}, "images": 3}]
    assert record["versions"] == {}


def test_made_with_counts_what_stands(lab: Lab) -> None:
    assert lab("mask=none").status == 0
    folder = lab.only_run()
    record = read_run(folder).record
    old = record["made_with"][0] | {"git_commit": "0123456789"}
    write_json(folder / RUN_FILE, record | {"git_commit": "0123456789", "made_with": [old]})
    for expected in ([2, 1], [1, 2], [0, 3], [0, 3]):
        (folder / read_run(folder).images[0].file).unlink()
        assert lab("mask=none").status == 0
        assert [maker["images"] for maker in read_run(folder).record["made_with"]] == expected
    makers = [{"images": 2}, {"images": 1}]
    _count_standing(makers, 5)
    assert makers == [{"images": 2}, {"images": 3}]


@pytest.mark.fault(
    what="a run begun on a GPU goes on on the CPU",
    kind="runs that go on elsewhere",
    now="one line says so; `run.json` counts the images of each type of device",
)
def test_another_type_of_device_is_told_of(lab: Lab) -> None:
    assert lab("mask=none").status == 0
    folder = lab.only_run()
    record = read_run(folder).record
    gpu = record["made_with"][0] | {"device": "cuda"}
    write_json(
        folder / RUN_FILE,
        record | {"device": record["device"] | {"type": "cuda"}, "made_with": [gpu]},
    )
    (folder / read_run(folder).images[0].file).unlink()
    (line,) = lab("mask=none").lines
    assert (
        ": goes on with device cpu (begun with cuda): its images can differ in the last bits"
        in line
    )
    makers = read_run(folder).record["made_with"]
    assert [(maker["device"], maker["images"]) for maker in makers] == [("cuda", 2), ("cpu", 1)]
    del makers[1]["device"]  # as older records have it
    assert _begin_making({"made_with": makers[1:]}, makers[1] | {"device": "cpu"}) == ""
