"""What large results folders cost: seconds and peak memory of the commands that read them, as a
Markdown table.

python -m experiments.studies.scale
python -m experiments.studies.scale --images 1000 100000 --commands report --limit 60

The folder holds a run of DM and one of AsynDM, with half of the images each, a prompt an image,
scored by two metrics. Tables are as real runs leave them, and no two pictures or traces are alike:
a few small ones, each copy with a number in it. Making them takes as long as reporting them, and
leaves them in the system's memory. All folders stay until the end, as a disk that has just lost
many files is slow to make others: 100,000 images take some 2 GB. Each command has a process of its
own, and what it says is shown only where it fails.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile

from asyndm.errors import UserError
from evaluation.choices import CONF
from evaluation.commands import Parser, command_line
from experiments.studies.scale.folders import make_runs

SIZES, LIMIT = (1_000, 10_000, 100_000), 200.0
"""Images, and seconds after which a command is ended."""
GRID = ("seed=range(0,100)", "curve.concavity=0.1,0.2,0.3,0.4", "num_inference_steps=4,5,6,7,8")
COMMANDS = (
    ("score", ("evaluation.score", "{runs}", "metric=exact")),
    ("report", ("experiments.report", "{runs}")),
    ("report --html", ("experiments.report", "{runs}", "--html", "{page}")),
    ("status", ("experiments.status", "{runs}")),
    ("status --verify", ("experiments.status", "{runs}", "--verify")),
    (
        "run --dry-run, 2,000 jobs",
        ("experiments.run", "-m", "--dry-run", "output_dir={runs}", *GRID),
    ),
)
"""Name and arguments of each, where ``{runs}`` is the folder and ``{page}`` one to write to."""
POLL = 0.02
"""Seconds between two looks at a process's memory."""


@dataclass(frozen=True)
class Cost:
    """Of one command: seconds, and the most memory it held in MB. Both are None where it was
    ended."""

    seconds: float | None
    memory: float | None


def measure_command(arguments: Sequence[str], limit: float) -> Cost:
    """Runs ``python -m ...`` in a process of its own, ended after `limit` seconds.

    Raises:
        UserError: it fails; with the last line it said.
    """
    path = os.pathsep.join((str(CONF.parent), str(CONF.parent / "src")))
    began, peak = time.monotonic(), 0.0
    with (
        TemporaryFile("w+") as errors,
        subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=CONF.parent,
            env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.DEVNULL,
            stderr=errors,
        ) as process,
    ):
        while process.poll() is None:
            peak = max(peak, _read_peak(process.pid))
            if time.monotonic() - began > limit:
                process.kill()
                return Cost(None, None)
            time.sleep(POLL)
        seconds = time.monotonic() - began
        if process.returncode:
            errors.seek(0)
            last = (errors.read().strip().splitlines() or [f"status {process.returncode}"])[-1]
            raise UserError(f"python -m {' '.join(arguments)}: {last}")
    return Cost(seconds, peak)


def _read_peak(pid: int) -> float:
    """The most memory a process has held so far, in MB, as Linux tells; 0 once it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    found = re.search(r"^VmHWM:\s*(\d+) kB", status, re.MULTILINE)
    return int(found[1]) / 1000 if found else 0.0


def measure_commands(
    root: Path, images: int, names: Sequence[str], limit: float
) -> dict[str, Cost]:
    """Every command's cost over a folder made for it below `root`; each is told when it is
    known."""
    folders = {"runs": str(root / f"runs-{images}"), "page": str(root / f"page-{images}")}
    make_runs(Path(folders["runs"]), images)
    found = {}
    for name, command in COMMANDS:
        if name in names:
            found[name] = measure_command([part.format(**folders) for part in command], limit)
            line = f"{images:,} images, {name}: {_format_cost(found[name], limit)}"
            print(line, file=sys.stderr, flush=True)
    return found


def format_markdown(found: Mapping[int, Mapping[str, Cost]], limit: float) -> str:
    """A row a command, a column a number of images."""
    heads = ["", *(f"{images:,} images" for images in found)]
    lines = ["| " + " | ".join(heads) + " |", "| " + " | ".join("---" for _ in heads) + " |"]
    for name in next(iter(found.values())):
        cells = [_format_cost(costs[name], limit) for costs in found.values()]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    return "\n".join(lines)


def _format_cost(cost: Cost, limit: float) -> str:
    if cost.seconds is None:
        return f"ended after {limit:.0f} s"
    return f"{cost.seconds:.1f} s, {cost.memory:,.0f} MB"


@command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    names = [name for name, _ in COMMANDS]
    parser = Parser("experiments.studies.scale", __doc__)
    parser.add_argument(
        "--images", nargs="+", type=int, default=SIZES, metavar="N", help="of the folders"
    )
    parser.add_argument("--commands", nargs="+", choices=names, default=names, help="only these")
    parser.add_argument(
        "--limit", type=float, default=LIMIT, metavar="SECONDS", help="for each command"
    )
    chosen = parser.read(arguments)
    if few := [images for images in chosen.images if images < 2]:
        raise UserError(f"--images {few[0]}: must be at least 2, one for each run")
    with TemporaryDirectory(prefix="asyndm-scale-") as root:
        found = {
            images: measure_commands(Path(root), images, chosen.commands, chosen.limit)
            for images in dict.fromkeys(chosen.images)
        }
    print(format_markdown(found, chosen.limit))
    return 0
