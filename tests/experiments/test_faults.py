"""What breaks a run is really done to it: nothing finished is lost, the next run completes, and the
end is the same.

With FAULT_TABLE=FILE in the environment, a row for each fault is added to that file.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from evaluation.runs.folder import IMAGES_FILE, SCORES_FILE, read_prompts, read_run, read_state
from experiments.run import main
from experiments.status import main as status
from tests.experiments import breaking
from tests.experiments.breaking import (
    limit_memory,
    linger,
    obey_permissions,
    overflow,
    raise_after,
    say_there_is_room,
)
from tests.forks import Fork
from tests.lab import PROMPTS, Lab

SLOW = "+metric.brightness._target_=tests.experiments.metrics.Slow"
IMAGES, STEPS = 12, 4
SETTINGS = ("images_per_prompt=4", f"num_inference_steps={STEPS}", "batch_size=2", SLOW)
Results = dict[str, bytes]


def read_results(folder: Path) -> Results:
    """The pictures and tables of a run."""
    files = [folder / IMAGES_FILE, folder / SCORES_FILE, folder / "grid.png", folder / "strip.png"]
    for name in ("images", "traces", "previews"):
        files += sorted((folder / name).glob("[!.]*"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.exists()}


@pytest.fixture(scope="module")
def finished(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run to which nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "prompts.yaml").write_text(PROMPTS)
    quiet = Lab(folder, pipeline_folder)
    assert main(quiet.arguments(*SETTINGS)) == 0
    return quiet.only_run()


@dataclass
class Fault:
    """A run that is broken and then asked for again."""

    lab: Lab
    finished: Path
    wanted: Results

    def run_broken(self, *overrides: str, hook: Callable[[], object] = int) -> Fork:
        """A process of its own, after the hook."""
        return self.lab.fork(*SETTINGS, *overrides, hook=hook)

    def wait_until(self, reached: Callable[[Path], bool]) -> Path:
        """Waits for the run's folder to come that far."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            folders = [p for p in self.lab.runs.glob("*-*") if not p.name.startswith(".")]
            if folders and reached(folders[0]):
                return folders[0]
            time.sleep(0.02)
        raise AssertionError("the run never came that far")

    def mend(self, what: str, how: str, *overrides: str) -> list[str]:
        """Asks for the run again: what was whole is kept to the bit, and the end is that of an
        undisturbed run."""
        folder = self.lab.only_run()
        before = {
            path.name: (path.stat().st_mtime_ns, path.read_bytes())
            for path in folder.glob("images/[!.]*.png")
            if path.read_bytes() == self.wanted[f"images/{path.name}"]
        }
        result = self.lab(*SETTINGS, *overrides)
        assert result.status == 0, result.error
        assert all(
            (folder / "images" / name).stat().st_mtime_ns == t for name, (t, _) in before.items()
        )
        found = read_results(folder)
        assert {name for name in self.wanted if found.get(name) != self.wanted[name]} == set()
        assert found.keys() == self.wanted.keys() and not list(folder.rglob(".*.tmp"))
        assert read_run(folder).state == "done" and status([str(self.lab.runs)]) == 0
        if table := os.environ.get("FAULT_TABLE"):
            with Path(table).open("a") as file:
                file.write(
                    f"| {what} | {how} | 0 of {len(before)} | {IMAGES - len(before)} | yes |\n"
                )
        return result.lines


@pytest.fixture
def fault(lab: Lab, finished: Path) -> Fault:
    return Fault(lab, finished, read_results(finished))


def has_some_images(folder: Path) -> bool:
    return len(list(folder.glob("images/[!.]*.png"))) >= 3


def has_some_scores(folder: Path) -> bool:
    path = folder / SCORES_FILE  # begun with the first batch; the next time can be the last
    return path.exists() and len(path.read_text().splitlines()) >= 3


@pytest.mark.parametrize(
    ("where", "reached"), [("sampling", has_some_images), ("scoring", has_some_scores)]
)
@pytest.mark.parametrize(
    ("sent", "exit_status", "state"),
    [
        (signal.SIGINT, 130, "interrupted"),
        (signal.SIGTERM, 143, "interrupted"),
        (signal.SIGKILL, -9, "running"),
    ],
)
def test_signals(
    fault: Fault,
    sent: signal.Signals,
    exit_status: int,
    state: str,
    where: str,
    reached: Callable[[Path], bool],
) -> None:
    lasting = IMAGES if where == "scoring" else 3
    process = fault.run_broken(hook=partial(linger, lasting * STEPS))
    folder = fault.wait_until(reached)
    process.send_signal(sent)
    _, error = process.communicate(timeout=180)
    assert process.returncode == exit_status, error
    told = read_state(folder)
    assert told["state"] == state and status([str(fault.lab.runs)]) == 1
    if state == "interrupted":
        assert "the same command goes on from here" in error and where in told["phase"]
    assert 3 <= len(list(folder.glob("images/[!.]*.png"))) <= IMAGES
    fault.mend(f"{sent.name} during {where}", f"exit status {exit_status}, state {state}")


def test_a_killed_run_is_stale(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    process = fault.run_broken(hook=partial(linger, 3 * STEPS))
    folder = fault.wait_until(has_some_images)
    capsys.readouterr()
    assert status([str(fault.lab.runs)]) == 1 and "  running  " in capsys.readouterr().out
    process.kill()
    process.communicate()
    assert status([str(fault.lab.runs)]) == 1 and "  stale  " in capsys.readouterr().out
    assert status([str(folder), "--failed"]) == 1
    assert "gone without a word while sampling" in capsys.readouterr().out


def test_an_exception_in_the_middle(fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    process = fault.run_broken(hook=partial(raise_after, 5 * STEPS))
    _, error = process.communicate(timeout=180)
    assert process.returncode == 1 and "error: the network broke" in error
    told = read_state(fault.lab.only_run())
    assert told["state"] == "failed" and "in break_network" in told["traceback"]
    status([str(fault.lab.runs), "--failed"])
    said = capsys.readouterr().out
    assert (
        ": failed, " in said
        and "RuntimeError: the network broke" in said
        and "something odd" in said
    )
    fault.mend("exception in the network", "told in one line, traceback and log kept")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system: needs root")
@pytest.mark.parametrize("kilobytes", [150, 180])
def test_a_full_disk(fault: Fault, kilobytes: int) -> None:
    with mount_folder(fault.lab.runs, f"size={kilobytes}k") as remount:
        process = fault.run_broken(hook=say_there_is_room)
        _, error = process.communicate(timeout=180)
        assert process.returncode == 1 and "No space left on device" in error, error
        assert not [
            p
            for p in fault.lab.only_run().glob("images/[!.]*.png")
            if not is_whole(p, fault.wanted)
        ]
        remount("size=64m")
        fault.mend(f"disk full ({kilobytes} kB)", "told in one line")


@pytest.mark.fault(
    what="a finished run on a disk that can only be read, asked for again, with `-m` or without",
    kind="disks that can only be read",
    now="is found; what is not there is refused in one line before anything is sampled",
)
def test_a_folder_that_becomes_unwritable(fault: Fault) -> None:
    def obey_at_leisure() -> None:
        obey_permissions()
        linger(3 * STEPS)

    process = fault.run_broken(hook=obey_at_leisure)
    folder = fault.wait_until(has_some_images)
    (folder / "images").chmod(0o555)
    _, error = process.communicate(timeout=180)
    assert process.returncode == 1 and "Permission denied" in error, error
    assert read_state(folder)["state"] == "failed"
    fault.lab.runs.chmod(0o555)
    again = fault.run_broken("eta=0", hook=obey_permissions)
    _, error = again.communicate(timeout=180)
    assert again.returncode == 1
    assert re.search(
        r"^error: output_dir=.*: cannot be written to \(Permission denied\)", error, re.M
    )
    for path in (fault.lab.runs, folder / "images"):
        path.chmod(0o755)
    fault.mend("folder becomes read-only", "told in one line; refused before sampling while it is")
    check_read_only(fault)


def check_read_only(fault: Fault) -> None:
    folders = [path for path in (fault.lab.runs, *fault.lab.runs.rglob("*")) if path.is_dir()]
    for path in folders:
        path.chmod(0o555)
    asked = [fault.run_broken(*options, hook=obey_permissions) for options in ((), ("-m",))]
    said = [process.communicate(timeout=180) for process in asked]
    for path in folders:
        path.chmod(0o755)
    assert [process.returncode for process in asked] == [0, 0], said
    assert all("  found  " in out for out, _ in said)


@contextmanager
def mount_folder(folder: Path, options: str) -> Iterator[Callable[[str], None]]:
    """A small file system in memory at a folder, and what changes its options."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode:
        pytest.skip(f"cannot mount: {made.stderr.decode().strip()}")

    def remount(changed: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{changed}", str(folder)], check=True)

    try:
        yield remount
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def is_whole(picture: Path, wanted: Results) -> bool:
    return picture.read_bytes() == wanted[f"images/{picture.name}"]


CUT: dict[str, Callable[[bytes], bytes]] = {
    "cut in a row": lambda content: content[: len(content) * 2 // 3],
    "cut in a number": lambda content: content.rstrip()[:-1],
    "cut after a row": lambda content: b"\n".join(content.split(b"\n")[:9]) + b"\n",
    "zeros at the end": lambda content: content[:-200] + b"\0" * 200,
    "emptied": lambda content: b"",
}


@pytest.mark.parametrize("cut", CUT)
@pytest.mark.parametrize("name", [IMAGES_FILE, SCORES_FILE])
def test_a_half_written_table(fault: Fault, name: str, cut: str) -> None:
    restore_run(fault)
    path = fault.lab.only_run() / name
    path.write_bytes(CUT[cut](path.read_bytes()))
    fault.mend(f"{name} {cut}", "its whole rows are kept, the others made anew")


def restore_run(fault: Fault) -> Path:
    """A finished run."""
    folder = fault.lab.runs / fault.finished.name
    shutil.copytree(fault.finished, folder)
    return folder


def test_half_written_pictures_and_records(fault: Fault) -> None:
    folder = restore_run(fault)
    images = sorted(folder.glob("images/*.png"))
    images[0].write_bytes(images[0].read_bytes()[:50])
    images[5].write_bytes(b"")
    (folder / "images" / f".{images[7].name}.99999.tmp").write_bytes(b"part")
    (folder / "state.json").write_text('{"state": "do')
    fault.mend("half-written PNGs and state", "made anew, in their whole batch")
    (folder / "grid.png").unlink()
    (folder / "run.json").write_text((folder / "run.json").read_text()[:300])
    (folder / "prompts.json").write_text("[")
    lines = fault.mend("half-written run.json and prompts.json", "written anew")
    assert any("run.json: not JSON" in line and "written anew" in line for line in lines)
    assert len(read_prompts(folder / "prompts.json")) == 3
    (folder / "prompts.json").write_text("[")
    assert fault.lab(*SETTINGS).status == 0 and len(read_prompts(folder / "prompts.json")) == 3


def test_two_drivers_on_one_sweep(fault: Fault) -> None:
    sweep = ("-m", "mask=none,dynamic")
    both = [fault.run_broken(*sweep), fault.run_broken(*sweep)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], "".join(error for _, error in said)
    folders = sorted(p for p in fault.lab.runs.glob("*-*") if not p.name.startswith("."))
    made = [read_run(folder).record["timings"]["images_sampled"] for folder in folders]
    assert len(folders) == 2 and made == [IMAGES, IMAGES]
    shutil.rmtree(
        next(
            folder
            for folder in folders
            if f"DM-{STEPS}" in folder.name and "Asyn" not in folder.name
        )
    )
    fault.mend("two drivers on one sweep", "they share it, each picture made once")


@pytest.mark.parametrize("jump", [-3 * 86400, 86400])
def test_clock_jumps(fault: Fault, jump: int, capsys: pytest.CaptureFixture[str]) -> None:
    process = fault.run_broken(hook=partial(breaking.jump, jump, 6 * STEPS))
    folder = fault.wait_until(lambda folder: len(list(folder.glob("images/[!.]*.png"))) >= 7)
    capsys.readouterr()
    assert status([str(folder)]) == 1 and "  running  " in capsys.readouterr().out
    process.kill()
    process.communicate()
    fault.mend(
        f"clock jumps by {jump // 86400} days", "killed there; locks tell who lives, no clock"
    )


def test_one_image_of_no_numbers(fault: Fault) -> None:
    process = fault.run_broken(hook=partial(overflow, 5, STEPS))
    _, error = process.communicate(timeout=180)
    assert process.returncode == 1 and "error: no numbers in 1 image, the first " in error, error
    folder = fault.lab.only_run()
    assert len(list(folder.glob("images/[!.]*.png"))) == IMAGES - 1
    assert len(read_run(folder).images) == IMAGES - 1
    fault.mend("NaN latents of one image", "all others made, the bad one named")


def test_memory_for_one_image_only(fault: Fault) -> None:
    process = fault.run_broken(hook=partial(limit_memory, 1))
    _, error = process.communicate(timeout=180)
    assert process.returncode == 0, error
    lines = fault.mend("CUDA out of memory", "batches halve, same pictures")
    assert lines == []
    shutil.rmtree(fault.lab.only_run())
    process = fault.run_broken(hook=partial(limit_memory, 0))
    _, error = process.communicate(timeout=180)
    assert process.returncode == 1 and "error: out of memory with a single image: choose" in error


def test_wandb_dies_midway(fault: Fault) -> None:
    pytest.importorskip("wandb")
    process = fault.run_broken("tracker=wandb")
    fault.wait_until(has_some_images)
    killed = [pid for pid in find_descendants(process.pid) if "wandb" in read_command(pid)]
    assert killed
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "warning: WandbTracker gave up" in error
    fault.mend("W&B's process killed midway", "one warning, the run goes on")


def find_descendants(pid: int) -> list[int]:
    """The processes a process started, and those they started."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += [int(child), *find_descendants(int(child))]
    return found


def read_command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
