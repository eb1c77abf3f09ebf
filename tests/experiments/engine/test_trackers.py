"""Weights & Biases gets the same numbers; whatever happens to it, the run is made."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from evaluation.runs.folder import Run
from experiments.engine.plan import Plan
from experiments.engine.trackers import Tracker, WandbTracker
from tests.lab import BRIGHTNESS, COUNTING, Lab


def read_wandb(path: Path) -> Iterator[Any]:
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
    unusual = ["guidance=cfg_plus_plus", "solver=dpmpp_2m"]
    result = lab("-m", "mask=none,dynamic", *unusual, "tracker=wandb", "tracker.images=2", COUNTING)
    assert result.status == 0 and result.lines == []
    files = sorted(lab.runs.rglob("*.wandb"))
    assert len(files) == 2
    groups, tags = set(), set()
    for path in files:
        run_id = path.stem.removeprefix("run-")
        records = list(read_wandb(path))
        begun = next(record.run for record in records if record.WhichOneof("record_type") == "run")
        config = {item.key: item.value_json for item in begun.config.update}
        assert (
            begun.run_id == run_id
            and f'"{run_id}"' in config["run_id"]
            and '"eta"' in config["identity"]
        )
        groups.add(begun.run_group)
        history = [
            record.history for record in records if record.WhichOneof("record_type") == "history"
        ]
        keys = {item.key or ".".join(item.nested_key) for step in history for item in step.item}
        assert {"brightness", "scores", "samples", "grid", "strip"} <= {
            key.split(".")[0] for key in keys
        }
        numbers = {item.key or ".".join(item.nested_key): item for item in history[-1].item}
        assert float(numbers["evaluations"].value_json) == 2 * lab.steps
        assert float(numbers["backward"].value_json) == 0
        assert float(numbers["brightness_surplus"].value_json) == 2
        media = [file.name for file in path.parent.rglob("media/images/*.png")]
        assert sum(name.startswith("samples") for name in media) == 2
        assert list(path.parent.rglob("media/table/scores*.json"))
        artifact = next(
            record.artifact for record in records if record.WhichOneof("record_type") == "artifact"
        )
        logged = {
            Path(entry.path).name: Path(entry.local_path) for entry in artifact.manifest.contents
        }
        content = json.loads(logged["scores.table.json"].read_text())
        rows = [dict(zip(content["columns"], row, strict=True)) for row in content["data"]]
        assert [Path(row["image"]["path"]).name in logged for row in rows[:2]] == [True, True]
        assert rows[2]["image"] is None and all(0 < row["brightness"] < 1 for row in rows)
        assert {(row["brightness_surplus"], row["brightness_missing"]) for row in rows} == {(2, 0)}
        tags.add(tuple(begun.tags))
    names = [setting.partition("=")[2] for setting in unusual]
    assert tags == {
        ("folder", "DM", "file", *names),
        ("folder", "AsynDM", "file", "quadratic", *names),
    }
    assert len(groups) == 1 and groups.pop().startswith("sweep-")


def test_a_found_run_is_told_to_a_tracker_that_has_not_had_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PROJECT", "RUN_GROUP", "NAME", "TAGS"):
        monkeypatch.setenv(f"WANDB_{name}", f"my {name.lower()}")
    lab(BRIGHTNESS)
    for _ in range(2):
        result = lab(BRIGHTNESS, "tracker=wandb", "tracker.group=given", "tracker.tags=[a,b]")
        assert result.status == 0 and result.lines == [] and "  found  " in result.out
    (path,) = lab.runs.rglob("*.wandb")
    records = list(read_wandb(path))
    begun = next(record.run for record in records if record.WhichOneof("record_type") == "run")
    assert (begun.project, begun.display_name, begun.run_group) == (
        "my project",
        "my name",
        "given",
    )
    assert list(begun.tags) == ["a", "b"]
    histories = [r.history for r in records if r.WhichOneof("record_type") == "history"]
    keys = {item.key or ".".join(item.nested_key) for history in histories for item in history.item}
    assert {"brightness", "scores", "samples"} <= {key.split(".")[0] for key in keys}


@pytest.mark.fault(
    what="WANDB_MODE=disabled, or tracker.mode=disabled",
    kind="another tool's own settings",
    now="nothing is written; what is given as tracker.mode counts more than the environment",
)
@pytest.mark.parametrize("how", ["WANDB_MODE", "WANDB_DISABLED", "tracker.mode"])
def test_a_disabled_tracker_writes_nothing(
    lab: Lab, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "online" if how == "tracker.mode" else "")
    monkeypatch.setenv(how, "true" if how == "WANDB_DISABLED" else "disabled")
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = lab("tracker=wandb", *["tracker.mode=disabled"] * (how == "tracker.mode"))
    assert result.status == 0 and result.lines == [] and not list(lab.folder.rglob("*wandb*"))


@pytest.mark.parametrize(
    ("given", "said", "mode"),
    [
        (None, None, "offline"),
        (None, "online", "online"),
        (None, "dryrun", "offline"),
        ("offline", "online", "offline"),
        ("online", "disabled", "online"),
    ],
)
def test_what_is_given_counts_more_than_the_environment(
    given: Any, said: str | None, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if said is not None:
        monkeypatch.setenv("WANDB_MODE", said)
    assert WandbTracker(mode=given).mode == mode


@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_an_unknown_mode_of_the_environment_is_refused(
    lab: Lab, multirun: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "ofline")
    result = lab(*multirun, "tracker=wandb")
    assert result.status == 1 and result.out == "" and not list(lab.folder.rglob("*.png"))
    message = "error: WANDB_MODE=ofline: choose from offline, online, shared, disabled"
    assert result.lines == [message]


def test_a_missing_package_is_a_warning(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    result = lab("tracker=wandb")
    assert result.status == 0 and "3 images" in result.out
    (line,) = result.lines
    assert line.startswith("warning: WandbTracker gave up (ModuleNotFoundError")
    assert line.endswith("; the run goes on; pip install --group wandb, in the checkout")


def test_a_tracker_that_dies_leaves_nothing_open_and_is_told_again(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish, failed = WandbTracker.finish, list[Any]()

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
    result = lab(
        "tracker._target_=tests.experiments.engine.test_trackers.Dying", f"+tracker.at={at}"
    )
    assert result.status == 0 and "3 images" in result.out
    assert result.lines == [
        "warning: Dying gave up (ConnectionError: gone); the run goes on; the same command tells "
        "it again"
    ]
    assert "  found  " in lab().out
