"""One run folder and many processes: shards, 64 writers, and what status says of them."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from PIL import Image

from evaluation.metrics import Score
from evaluation.pictures import Picture
from evaluation.runs.folder import IMAGES_FILE, RunFolder, read_run, read_state
from evaluation.runs.locks import is_held
from evaluation.runs.prompts import Prompt
from evaluation.runs.row_files import read_rows
from evaluation.runs.rows import ImageRow
from evaluation.scoring import add_missing
from experiments.engine.progress import Part, find_folders, read_parts
from experiments.run import main
from experiments.status import main as status
from tests.experiments.metrics import Brightness
from tests.experiments.test_faults import read_results
from tests.forks import Fork
from tests.lab import ROOT, Lab

BRIGHTNESS = "+metric.brightness._target_=tests.experiments.metrics.Brightness"
SETTINGS = ("images_per_prompt=5", "batch_size=2", BRIGHTNESS)


def list_parts(root: Path) -> list[Part]:
    return [part for folder in find_folders(root) for part in read_parts(folder)]


def test_shards_make_the_run_byte_for_byte(lab: Lab, tmp_path: Path) -> None:
    assert lab(*SETTINGS).status == 0
    wanted = read_results(lab.only_run())
    other = Lab(tmp_path / "parts", lab.pipeline, lab.capture)
    other.folder.mkdir()
    (other.folder / "prompts.yaml").write_text((lab.folder / "prompts.yaml").read_text())
    for number in (3, 1, 2):
        result = other(*SETTINGS, f"shard={number}/3")
        assert result.status == 0 and f"shard {number}/3" in result.out
        folder = other.only_run()
        made = {3: 4, 1: 10, 2: 15}[number]
        assert f"{made} of 15 images there" in result.out
        assert len(read_run(folder).images) == len(read_run(folder).scores) == made
        assert read_state(folder)["state"] == ("done" if number == 2 else "pending")
    assert read_results(folder) == wanted
    assert {path.name for path in (folder / "shards").glob("*.json")} == {
        f"{n}-of-3.json" for n in (1, 2, 3)
    }
    for again in ("shard=1/3", "shard=null", "shard=7/9"):
        assert "  found  " in other(*SETTINGS, again).out


def test_a_shard_without_a_batch_says_so(lab: Lab) -> None:
    result = lab("batch_size=2", "shard=3/3")
    assert result.status == 0
    assert result.lines == [
        "folder-AsynDM-quadratic-0.5-2: nothing for shard 3/3: the run has 2 batches of 2; a "
        "smaller batch_size makes more"
    ]


def test_pictures_of_the_embedded_model_are_the_same_on_any_number_of_cores(tmp_path: Path) -> None:
    def sample_on(threads: int) -> Fork:
        def sample() -> int:
            torch.set_num_threads(threads)
            settings = ("limit=3", "num_inference_steps=6")
            return main([*settings, f"output_dir={tmp_path / str(threads)}"])

        return Fork(sample, ROOT)

    assert [fork.wait(timeout=120) for fork in map(sample_on, (1, 2))] == [0, 0]
    found = [read_results(next((tmp_path / threads).glob("shapes-*"))) for threads in "12"]
    assert found[0] == found[1] and len(found[0]) > 6


@pytest.mark.parametrize("shard", ["0/3", "4/3", "1", "1/0", "a/b", "1/-2"])
def test_a_shard_that_is_none(lab: Lab, shard: str) -> None:
    result = lab(f"shard={shard}")
    assert result.status == 1
    assert result.lines == [f"error: shard={shard}: give K/N with K from 1 to N, as in shard=1/8"]


def test_64_jobs_lose_no_row(lab: Lab) -> None:
    settings = ("images_per_prompt=30", "batch_size=1", "num_inference_steps=1", BRIGHTNESS)
    processes = [lab.fork(*settings, f"shard={number}/64") for number in range(1, 65)]
    said = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0] * 64, said
    run = read_run(lab.only_run())
    assert run.state == "done" and len(run.images) == len(run.scores) == 90
    assert [len(out.splitlines()) for out, _ in said] == [1] * 64
    assert run.record["timings"]["images_sampled"] == 90
    assert [row.key for row in run.images] == [row.key for row in run.scores]
    assert {path.stem for path in (run.folder / "images").iterdir()} == {
        Path(row.file).stem for row in run.images
    }


def test_a_failure_lets_go_of_its_part_while_it_is_still_told(tmp_path: Path) -> None:
    class Broken(Brightness):
        def score(self, images: object, prompts: object) -> list[Score]:
            raise ValueError("no idea")

    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    pictures = [Picture(tmp_path / "a.png", Prompt("a", "a cat"))]
    with pytest.raises(ValueError, match="no idea") as failure:
        add_missing(RunFolder(tmp_path).scores, Broken(), pictures, "r", 1)
    claim = tmp_path / ".claims" / "brightness-00000"
    assert failure.tb is not None and claim.exists() and not is_held(claim)


def test_a_picture_that_a_killed_process_made_and_did_not_list_is_listed(lab: Lab) -> None:
    lab(*SETTINGS)
    folder = lab.only_run()
    wanted = read_results(folder)
    lines = (folder / IMAGES_FILE).read_text().splitlines(keepends=True)
    (folder / IMAGES_FILE).write_text("".join(lines[:4] + lines[6:]))
    (folder / "images" / Path(read_run(folder).images[-1].file).name).unlink()
    assert lab(*SETTINGS).status == 0 and read_results(folder) == wanted


def write_state(folder: Path, **content: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "state.json").write_text(json.dumps({"label": folder.name, "total": 10, **content}))


def test_status_tells_each_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    here, now = socket.gethostname(), time.time()
    write_state(tmp_path / "a", state="pending")
    working = {
        "state": "running",
        "phase": "sampling",
        "made": 4,
        "seconds": 3.0,
        "loaded": 1.0,
        "updated": now,
    }
    for name, host in (("b", here), ("c", here), ("d", "elsewhere")):
        write_state(tmp_path / name, **working, host=host)
        (tmp_path / name / "images").mkdir()
        for i in range(4):
            (tmp_path / name / "images" / f"{i}.png").touch()
    write_state(tmp_path / "e", **{**working, "updated": now - 3600}, host="elsewhere")
    write_state(
        tmp_path / "f",
        state="failed",
        traceback="Traceback: no",
        log=["a warning"],
        pid=7,
        host="there",
    )
    write_state(tmp_path / "g", state="done")
    write_state(tmp_path / "h", state="done", total=0)
    write_state(tmp_path / "i", state="done", total="many", seconds=None, made={})
    with FileLock(tmp_path / "b" / ".state.alive"):
        told = {part.name: part for part in list_parts(tmp_path)}
        assert status([str(tmp_path)]) == 1
    assert {name: part.state for name, part in told.items()} == {
        "a": "pending",
        "b": "running",
        "c": "stale",
        "d": "running",
        "e": "stale",
        "f": "failed",
        "g": "incomplete",
        "h": "done",
        "i": "done",
    }
    assert (told["b"].there, told["b"].rate, told["b"].seconds_left) == (4, 2.0, 3.0)
    said = capsys.readouterr().out
    assert "b    running       4/10      2.00   3 s  sampling" in said
    assert said.splitlines()[-1] == (
        "2 done, 2 running, 1 pending, 1 failed, 2 stale, 1 incomplete; 22 images left, 6 s at "
        "4.00 images/s; --failed tells why"
    )
    assert status([str(tmp_path), "--failed"]) == 1
    said = capsys.readouterr().out
    assert "== f: failed, 0 of 10 images, process 7 on there\na warning\nTraceback: no" in said
    assert "== c: stale, 4 of 10 images" in said and "== a" not in said


def test_status_tells_of_shards(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    lab(*SETTINGS, "shard=2/3")
    told = [
        (part.name.split()[1], part.state, part.there, part.total) for part in list_parts(lab.runs)
    ]
    assert told == [("1/3", "pending", 0, 0), ("2/3", "done", 5, 5), ("3/3", "pending", 0, 0)]
    capsys.readouterr()
    assert status([str(lab.runs)]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "1 done, 2 pending"
    (lab.only_run() / "state.json").write_text('{"state": "interrupted", "total": 15}')
    assert [(part.state, part.there) for part in list_parts(lab.runs)] == [("interrupted", 5)]
    lab(*SETTINGS, "shard=1/3")
    assert [part.state for part in list_parts(lab.runs)] == ["done", "done", "pending"]
    lab(*SETTINGS, "shard=3/3")
    assert [(part.state, part.there) for part in list_parts(lab.runs)] == [("done", 15)]


def test_status_is_0_when_all_is_done_and_2_where_there_is_nothing(
    lab: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lab("-m", "mask=none,dynamic")
    capsys.readouterr()
    assert status([str(lab.runs)]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 done"
    assert status([str(lab.runs), "--failed"]) == 0 and capsys.readouterr().out == "none failed\n"
    (tmp_path / "empty").mkdir()
    assert status([str(tmp_path / "empty")]) == 2 and "no runs there" in capsys.readouterr().err
    assert status([str(tmp_path / "none")]) == 2 and "no such folder" in capsys.readouterr().err


def test_a_sweep_announces_what_it_will_make(lab: Lab) -> None:
    process = lab.fork(
        "-m", "mask=none,global,dynamic", "images_per_prompt=40", "num_inference_steps=20"
    )
    deadline = time.monotonic() + 60
    while len(list(lab.runs.rglob("state.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    process.communicate()
    told = sorted(
        part.state for path in lab.runs.rglob("state.json") for part in read_parts(path.parent)
    )
    assert told in (["pending", "pending", "pending"], ["pending", "pending", "stale"])
    assert all(part.total == 120 for part in list_parts(lab.runs))


def test_a_process_without_the_lock_tells_nothing(lab: Lab) -> None:
    lab(BRIGHTNESS)
    folder = lab.only_run()
    before = read_state(folder)
    (folder / "grid.png").unlink()
    with FileLock(folder / ".state.alive"):
        assert lab(BRIGHTNESS).status == 0
    assert read_state(folder) == before and (folder / "grid.png").exists()
    assert len(read_rows(folder / IMAGES_FILE, ImageRow)) == 3
    assert os.path.exists(folder / ".lock")
