"""The pictures of a run: what is missing, broken or another one is made anew, with its scores."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from evaluation.runs.files import write_bytes
from evaluation.runs.folder import (
    IMAGES_FILE,
    SCORES_FILE,
    read_run,
)
from evaluation.runs.row_files import read_rows, write_rows
from evaluation.runs.rows import ImageRow, ScoreRow
from evaluation.score import main as score
from experiments.engine import sampling
from experiments.engine.plan import Plan
from experiments.engine.runner import Runner
from experiments.report.command import main as report
from tests.experiments.engine.own_choices import plan_run
from tests.lab import BRIGHTNESS, Lab, read_images


def test_deleted_and_broken_images_come_back_byte_for_byte(lab: Lab) -> None:
    lab("images_per_prompt=4", "batch_size=5", BRIGHTNESS)
    folder = lab.only_run()
    before, rows = read_images(folder), (folder / IMAGES_FILE).read_bytes()
    images = sorted((folder / "images").iterdir())
    kept = images[1].stat().st_mtime_ns
    for path in images[::3]:
        path.unlink()
    images[4].write_bytes(before[images[4].name][:100])
    result = lab("images_per_prompt=4", "batch_size=2", BRIGHTNESS)
    assert result.status == 0
    assert len(result.lines) == 1 and "goes on with batch_size=5" in result.lines[0]
    assert read_images(folder) == before
    assert images[1].stat().st_mtime_ns == kept
    assert (folder / IMAGES_FILE).read_bytes() == rows
    assert read_run(folder).record["timings"]["images_sampled"] == 12 + 5


def test_pictures_made_together_come_back_byte_for_byte(lab: Lab) -> None:
    settings = ("images_per_prompt=4", "mask=dynamic", BRIGHTNESS)
    lab(*settings, "batch_size=5", "batch_invariant=false")
    folder = lab.only_run()
    assert read_run(folder).record["batch_invariant"] is False
    before = read_images(folder)
    for path in sorted((folder / "images").iterdir())[1::3]:
        path.unlink()
    result = lab(*settings, "batch_size=3")
    assert "goes on with batch_size=5 and batch_invariant=false, as begun" in result.error
    assert read_images(folder) == before


def test_pictures_made_together_are_those_made_one_by_one_but_for_rounding(lab: Lab) -> None:
    settings = ("images_per_prompt=4", "mask=dynamic", BRIGHTNESS)
    pictures = []
    for together in ("null", "false"):
        lab(*settings, f"batch_invariant={together}", f"output_dir={lab.folder / together}")
        (folder,) = [path.parent for path in (lab.folder / together).glob("*/run.json")]
        images = sorted((folder / "images").iterdir())
        pictures.append(np.stack([np.asarray(Image.open(path), int) for path in images]))
    one_by_one, made_together = pictures
    assert np.abs(one_by_one - made_together).max() <= 1


def test_a_changed_image_loses_its_score(lab: Lab) -> None:
    lab(BRIGHTNESS)
    folder = lab.only_run()
    rows = read_rows(folder / IMAGES_FILE, ImageRow)
    listed = (folder / IMAGES_FILE).read_text().replace(rows[0].sha256, "0" * 64)
    (folder / IMAGES_FILE).write_text(listed)
    (folder / SCORES_FILE).write_text((folder / SCORES_FILE).read_text().replace("0.", "7.", 1))
    (folder / rows[0].file).unlink()
    result = lab(BRIGHTNESS)
    assert result.status == 0 and "1 image came back different" in result.error
    assert all(
        row.value is None or row.value < 1 for row in read_rows(folder / SCORES_FILE, ScoreRow)
    )


@pytest.mark.fault(
    what="a picture of a finished run replaced by another one of its folder",
    kind="pictures that are no longer those that were listed",
    now="`evaluation.score` and `experiments.report` name it and leave it out with its scores; "
    "asked for again, the run makes it and its scores anew",
)
def test_a_swapped_picture_counts_nowhere_and_is_made_anew(lab: Lab) -> None:
    asked = (BRIGHTNESS, "mask=none")
    assert lab(*asked).status == 0
    folder = lab.only_run()
    before, tables = (
        read_images(folder),
        [(folder / name).read_bytes() for name in (IMAGES_FILE, SCORES_FILE)],
    )
    rows = read_rows(folder / IMAGES_FILE, ImageRow)
    shutil.copy2(folder / rows[1].file, folder / rows[0].file)
    (folder / SCORES_FILE).write_text((folder / SCORES_FILE).read_text().replace("0.", "7.", 1))
    assert (
        score(
            [
                str(folder),
                "+metric.brightness._target_=tests.experiments.metrics.Brightness",
                "~metric.exact",
            ]
        )
        == 1
    )
    said = lab.read_output()
    assert f"error: {folder / rows[0].file}: not the picture that images.csv lists" in said
    assert "brightness 0." in said and " 2 of 2 pictures, 0 new" in said
    assert report([str(folder)]) == 0
    said = lab.read_output()
    assert said.count("warning: ") == 1 and f"1 picture left out, the first {rows[0].file}" in said
    assert f"Left out of {folder.name}: 1 picture other" in said and "Every row: 2 images" in said
    result = lab(*asked)
    assert result.status == 0 and "  found  " not in result.out
    assert (
        f"1 picture other than images.csv lists, the first {Path(rows[0].file).name}"
        in result.error
    )
    assert read_images(folder) == before
    assert [(folder / name).read_bytes() for name in (IMAGES_FILE, SCORES_FILE)] == tables
    assert "  found  " in lab(*asked).out


def test_an_image_that_was_not_there_when_scored_is_scored_once_it_is(lab: Lab) -> None:
    lab(BRIGHTNESS)
    folder = lab.only_run()
    rows = read_rows(folder / SCORES_FILE, ScoreRow)
    first = read_rows(folder / IMAGES_FILE, ImageRow)[0]
    (folder / first.file).unlink()
    gone = ScoreRow(rows[0].run_id, *rows[0].key, rows[0].metric, None, "not a readable picture")
    write_rows(folder / SCORES_FILE, ScoreRow, [gone, *rows[1:]])
    assert lab(BRIGHTNESS).status == 0
    assert read_rows(folder / SCORES_FILE, ScoreRow) == rows


def test_an_interruption_leaves_no_score_of_another_picture(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab(BRIGHTNESS)
    folder = lab.only_run()
    rows = read_rows(folder / IMAGES_FILE, ImageRow)
    listed = (folder / IMAGES_FILE).read_text()
    for row in rows[:2]:
        listed = listed.replace(row.sha256, "0" * 64)
        (folder / row.file).unlink()
    (folder / IMAGES_FILE).write_text(listed)
    written: list[Path] = []

    def write_one(path: Path, content: bytes, durable: bool = True) -> None:
        if path.parent.name == "images" and written:
            raise OSError(28, "No space left on device", str(path))
        if path.parent.name == "images":
            written.append(path)
        write_bytes(path, content, durable)

    monkeypatch.setattr("evaluation.runs.folder.write_bytes", write_one)
    assert lab(BRIGHTNESS).status == 1
    assert [row.sha256 for row in read_rows(folder / IMAGES_FILE, ImageRow)] == [
        rows[0].sha256,
        "0" * 64,
        rows[2].sha256,
    ]
    assert {row.key for row in read_rows(folder / SCORES_FILE, ScoreRow)} == {
        rows[1].key,
        rows[2].key,
    }
    assert read_run(folder).record["timings"]["images_sampled"] == 3 + 1
    monkeypatch.undo()
    assert lab(BRIGHTNESS).status == 0
    assert read_rows(folder / IMAGES_FILE, ImageRow) == rows
    assert {row.key for row in read_rows(folder / SCORES_FILE, ScoreRow)} == {
        row.key for row in rows
    }
    assert read_run(folder).record["timings"]["images_sampled"] == 3 + 2


def test_what_another_process_made_in_the_meantime_is_not_made_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = (BRIGHTNESS, "mask=none")
    assert lab(*asked).status == 0
    folder = lab.only_run()
    row = read_rows(folder / IMAGES_FILE, ImageRow)[0]
    listed = (folder / IMAGES_FILE).read_text().replace(row.sha256, "0" * 64)
    (folder / IMAGES_FILE).write_text(listed)
    (folder / row.file).unlink()
    made: list[dict[str, bytes]] = []

    def wait(plan: Plan) -> None:
        """As for a GPU, once the run was looked for: another process makes it."""
        monkeypatch.undo()
        assert lab(*asked).status == 0
        made.append({p.name: p.read_bytes() for p in folder.glob("*.csv")} | read_images(folder))

    monkeypatch.setattr("experiments.engine.runner.check", wait)
    Runner(plan_run(lab, *asked)).run()
    assert "warning" not in lab.read_output()
    assert made == [{p.name: p.read_bytes() for p in folder.glob("*.csv")} | read_images(folder)]


def test_prompts_with_and_without_a_negative_one_make_two_batches_whatever_their_order(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lab.folder / "prompts.csv").write_text(
        "text,phrases,negative_prompt\n"
        "a dog,dog,\na cat,cat,red\na red dog,dog,cat\na rabbit,rabbit,\n"
    )
    calls: list[list[str]] = []

    def note(plan: Plan, pipe: Any, mask: Any, previews: int, batch: Any, arguments: Any) -> Any:
        calls.append([item.prompt.text for item in batch])
        return sample_alike(plan, pipe, mask, previews, batch, arguments)

    sample_alike = sampling._sample_alike
    monkeypatch.setattr(sampling, "_sample_alike", note)
    result = lab(f"prompt_set.path={lab.folder / 'prompts.csv'}", "mask=none")
    assert result.status == 0, result.error
    assert calls == [["a dog", "a rabbit"], ["a cat", "a red dog"]]
    texts = [row.prompt for row in read_run(lab.only_run()).images]
    assert texts == ["a dog", "a cat", "a red dog", "a rabbit"]


def test_a_model_of_gigabytes_shows_that_it_is_loaded(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampling._load.cache_clear()
    assert "Loading pipeline components" not in lab("limit=1").error
    sampling._load.cache_clear()
    monkeypatch.setattr(sampling, "LARGE", 1)
    assert "Loading pipeline components" in lab("limit=2").error
    sampling._load.cache_clear()
    assert "Loading" not in lab("limit=3", "-q").error
