"""Weights & Biases gets the same numbers; whatever happens to it, the run is made."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from evaluation.results import Run
from experiments.plan import Plan
from experiments.trackers import Tracker, WandbTracker
from tests.lab.conftest import Lab

BRIGHTNESS = "+metric.brightness._target_=tests.lab.metrics.Brightness"


def wandb_records(path: Path) -> Iterator[Any]:
    """The records of a .wandb file: a 7-byte header, then 32 KiB blocks of chunks of protobuf."""
    from wandb.proto import wandb_internal_pb2 as protocol

    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        length, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield protocol.Record.FromString(record)  # type: ignore[attr-defined]
            record = b""


def test_wandb_offline_holds_config_group_metrics_and_pictures(lab: Lab) -> None:
    result = lab("-m", "mask=none,dynamic", "tracker=wandb", "tracker.images=2", BRIGHTNESS)
    assert result.status == 0 and result.lines == []
    files = sorted(lab.runs.rglob("*.wandb"))
    assert len(files) == 2
    groups = set()
    for path in files:
        run_id = path.stem.removeprefix("run-")
        records = list(wandb_records(path))
        begun = next(record.run for record in records if record.WhichOneof("record_type") == "run")
        config = {item.key: item.value_json for item in begun.config.update}
        assert begun.run_id == run_id and f'"{run_id}"' in config["run_id"] and '"eta"' in config["identity"]
        groups.add(begun.run_group)
        history = [record.history for record in records if record.WhichOneof("record_type") == "history"]
        keys = {item.key or ".".join(item.nested_key) for step in history for item in step.item}
        assert {"brightness", "scores", "samples", "grid", "strip"} <= {key.split(".")[0] for key in keys}
        media = [file.name for file in path.parent.rglob("media/images/*.png")]
        assert sum(name.startswith("samples") for name in media) == 2
        assert list(path.parent.rglob("media/table/scores*.json"))
    assert len(groups) == 1 and groups.pop().startswith("sweep-")


def test_a_found_run_is_told_to_a_tracker_that_has_not_had_it(lab: Lab) -> None:
    lab(BRIGHTNESS)
    for _ in range(2):
        result = lab(BRIGHTNESS, "tracker=wandb")
        assert result.status == 0 and result.lines == [] and "  found  " in result.out
    (path,) = lab.runs.rglob("*.wandb")
    histories = [r.history for r in wandb_records(path) if r.WhichOneof("record_type") == "history"]
    keys = {item.key or ".".join(item.nested_key) for history in histories for item in history.item}
    assert {"brightness", "scores", "samples"} <= {key.split(".")[0] for key in keys}


def test_a_missing_package_is_a_warning(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = lab("tracker=wandb")
    assert result.status == 0 and "3 images" in result.out
    assert len(result.lines) == 1 and result.lines[0].startswith(
        "warning: WandbTracker gave up (ModuleNotFoundError"
    )


def test_a_tracker_that_dies_leaves_nothing_open_and_is_told_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, failed = WandbTracker.finish, []

    def fails_once(self: WandbTracker, *arguments: Any) -> None:
        if not failed:
            failed.append(self.run)
            raise ConnectionError("gone")
        finish(self, *arguments)

    monkeypatch.setattr(WandbTracker, "finish", fails_once)
    sweep = ["-m", "mask=none,global", BRIGHTNESS, "tracker=wandb"]
    assert "WandbTracker gave up" in lab(*sweep).error
    files = {path.parents[2].name: path for path in lab.runs.rglob("*.wandb")}
    assert len(files) == 2 and sys.modules["wandb"].run is None
    marks = {path.parents[1].name for path in lab.runs.rglob("complete-offline")}
    assert len(marks) == 1
    assert lab(*sweep).lines == []
    assert {path.parents[1].name for path in lab.runs.rglob("complete-offline")} == set(files)


class Dying(Tracker):
    """Dies where it is told to."""

    def __init__(self, at: str) -> None:
        self.at = at

    def _die(self, here: str) -> None:
        if here == self.at:
            raise ConnectionError("gone\nfor good")

    def start(self, plan: Plan) -> None:
        self._die("start")

    def finish(self, plan: Plan, run: Run, summary: Mapping[str, float]) -> None:
        self._die("finish")

    def close(self) -> None:
        self._die("close")


@pytest.mark.parametrize("at", ["start", "finish", "close"])
def test_a_tracker_that_dies_is_a_warning(lab: Lab, at: str) -> None:
    result = lab("tracker._target_=tests.lab.test_trackers.Dying", f"+tracker.at={at}")
    assert result.status == 0 and "3 images" in result.out
    assert result.lines == ["warning: Dying gave up (ConnectionError: gone); the run goes on"]
    assert "  found  " in lab().out
