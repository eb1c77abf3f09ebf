"""A run's files are read once, its pictures looked at once, and its evaluations counted."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from evaluation.runs import files, folder, records
from evaluation.runs.folder import read_run
from tests.lab import BRIGHTNESS, Lab


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file of a run is parsed, or looked at by its end, by its name."""
    found = Counter[str]()

    def parse(path: Path, *rest: Any) -> Any:
        found[path.name] += path.exists()
        return read_json(path, *rest)

    def look(path: Path) -> bool:
        found[path.name] += path.exists()
        return is_whole(path)

    read_json, is_whole = files.read_json, files.is_whole_png
    for module in (records, folder):
        monkeypatch.setattr(module, "read_json", parse)
    monkeypatch.setattr(folder, "is_whole_png", look)
    return found


@pytest.mark.parametrize("mask", ["none", "dynamic"])
def test_a_run_is_made_without_reading_what_it_wrote(
    lab: Lab, looks: Counter[str], mask: str
) -> None:
    assert lab(BRIGHTNESS, f"mask={mask}", "images_per_prompt=4", "limit=1").status == 0
    assert looks["run.json"] == 0
    pictures = [f"{path.name}" for path in lab.only_run().glob("images/*.png")]
    assert len(pictures) == 4 and not any(looks[name] for name in pictures)


def test_a_run_that_is_found_is_read_once(lab: Lab, looks: Counter[str]) -> None:
    asked = (BRIGHTNESS, "images_per_prompt=4", "limit=1")
    assert lab(*asked).status == 0
    looks.clear()
    assert "found" in lab(*asked).out
    assert {name: looks[name] for name in ("run.json", "prompts.json", "state.json")} == {
        "run.json": 1,
        "prompts.json": 1,
        "state.json": 1,
    }


def test_a_run_that_goes_on_reads_its_record_once_and_looks_at_each_picture_once(
    lab: Lab, looks: Counter[str]
) -> None:
    asked = (BRIGHTNESS, "images_per_prompt=4", "limit=1")
    assert lab(*asked).status == 0
    kept, *_, gone = sorted(lab.only_run().glob("images/*.png"))
    gone.unlink()
    looks.clear()
    assert lab(*asked).status == 0
    assert looks["run.json"] == 1 and looks[kept.name] == 1 and looks[gone.name] == 0


@pytest.mark.parametrize(
    ("settings", "per_image"),
    [
        (("mask=none", "guidance.guidance_scale=1"), 2),
        (("mask=none", "guidance.guidance_scale=3"), 4),
        (("mask=dynamic", "guidance.guidance_scale=3"), 4),
        (("mask=static", "guidance.guidance_scale=3"), 8),
        (("mask=dynamic", "guidance=z_sampling"), 5 + 2),
        (("mask=static", "guidance=z_sampling"), 2 * (5 + 2)),
        (("mask=none", "solver=dpmpp_2m"), 4),
    ],
)
def test_the_record_says_what_the_choices_are_and_how_often_the_network_was_called(
    lab: Lab, settings: tuple[str, ...], per_image: int
) -> None:
    assert lab(*settings).status == 0
    record = read_run(lab.only_run()).record
    assert record["evaluations"] == {"rows": 3 * per_image, "images": 3, "backward": 0}
    told = record["choices"]["guidance"]
    assert (told["forward"], told["backward"], told["exact"]) == (per_image, 0, True)
    label = {"mask=none": "DM", "mask=dynamic": "AsynDM", "mask=static": "AsynDM_static"}
    assert record["choices"]["mask"]["label"] == label[settings[0]]
    assert record["choices"]["mask"]["rehearses"] == (settings[0] == "mask=static")


def test_the_record_counts_rows_backward(lab: Lab) -> None:
    """Attend-and-Excite, one gradient in the first of two steps."""
    settings = ("guidance=attend_and_excite", "guidance.refine_at=[]", "guidance.thresholds=[]")
    assert lab(*settings, "mask=none").status == 0
    record = read_run(lab.only_run()).record
    assert record["evaluations"] == {"rows": 3 * 5, "images": 3, "backward": 3}
    told = record["choices"]["guidance"]
    assert (told["forward"], told["backward"], told["exact"]) == (5, 1, True)
    assert record["label"] == "folder-DM-attend_and_excite-2"
