"""How far the runs of a folder are: done, running, failed or stale, how fast, and what is left.

python -m experiments.status runs
python -m experiments.status runs --failed     # the last lines and the traceback of what broke
watch -n 10 python -m experiments.status runs

A run is stale where its process went without a word (killed, a machine lost). The exit status is 0 if all is done, 1 if
not, and 2 where there is nothing to tell of. The same ``experiments.run`` command makes what is missing.
"""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyndm.errors import UserError
from evaluation.locks import is_held
from evaluation.results import RUN_FILE, SHARDS, STATE_FILE, read_json, read_state
from experiments.state import BEAT, alive_file

SILENCE = 12 * BEAT
"""Seconds without a heartbeat after which a process of another machine counts as lost, if its lock says nothing."""
BROKEN = ("failed", "stale", "interrupted", "incomplete")


@dataclass(frozen=True)
class Part:
    """A run or one shard of it, as its state file tells.

    `there` of `total` images are made; `rate` is in images a second, 0 where it is not known.
    """

    name: str
    state: str
    there: int
    total: int
    rate: float = 0.0
    phase: str = ""
    content: dict[str, Any] | None = None

    @property
    def left(self) -> int:
        return max(0, self.total - self.there)

    @property
    def seconds_left(self) -> float | None:
        return self.left / self.rate if self.rate and self.state == "running" and self.left else None


def parts(root: Path) -> list[Part]:
    """All runs below a folder, and the shards of those that are not done.

    Raises:
        UserError: no such folder, or no run in it.
    """
    if not root.is_dir():
        raise UserError(f"{root}: {'a file, not a folder of runs' if root.exists() else 'no such folder'}")
    states = {path.parent for path in root.rglob(STATE_FILE)} | {path.parent for path in root.rglob(RUN_FILE)}
    shards = list(root.rglob(f"{SHARDS}/*-of-*.json"))
    folders = sorted(states | {path.parent.parent for path in shards})
    if not folders:
        raise UserError(f"{root}: no runs there; make some with python -m experiments.run")
    return [part for folder in folders for part in of_run(folder)]


def of_run(folder: Path) -> list[Part]:
    """The run, or its shards where they do not make up all of it yet."""
    told, there = read_state(folder), _pictures(folder)
    if told["state"] != "done" and (shards := _shards(folder)):
        return [_shard(folder, path) for path in shards]
    state = _state(folder / STATE_FILE, told)
    total = int(_number(told, "total", there))
    if state == "done" and there < total:
        state = "incomplete"
    return [_part(folder.name, state, there, total, told)]


def _shards(folder: Path) -> list[Path]:
    """The state files of all shards, there or not, of the last division; none where the whole run was last asked for."""
    there = [path for path in (folder / SHARDS).glob("*-of-*.json") if re.fullmatch(r"\d+-of-\d+", path.stem)]
    last = max(there, key=_written, default=None)
    if last is None or _written(folder / STATE_FILE) > _written(last):
        return []
    count = last.stem.partition("-of-")[2]
    return [folder / SHARDS / f"{number}-of-{count}.json" for number in range(1, int(count) + 1)]


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except OSError:
        return -1.0


def _shard(folder: Path, path: Path) -> Part:
    try:
        told = dict(read_json(path))
    except (FileNotFoundError, UserError, ValueError, TypeError):
        told = {"state": "pending"}
    name = f"{folder.name} {path.stem.replace('-of-', '/')}"
    return _part(name, _state(path, told), int(_number(told, "there")), int(_number(told, "part")), told)


def _number(told: dict[str, Any], key: str, otherwise: float = 0) -> float:
    value = told.get(key, otherwise)
    return value if isinstance(value, int | float) else otherwise


def _part(name: str, state: str, there: int, total: int, told: dict[str, Any]) -> Part:
    seconds = _number(told, "seconds") - _number(told, "loaded")
    rate = _number(told, "made") / seconds if seconds > 0 and state != "pending" else 0.0
    return Part(
        name, state, there, total, rate, str(told.get("phase", "")) if state == "running" else "", told
    )


def _state(file: Path, told: dict[str, Any]) -> str:
    """What the file says, but "stale" where it says "running" and nobody does."""
    state = str(told.get("state", "pending"))
    if state != "running" or is_held(alive_file(file)):
        return state
    silent = abs(time.time() - _number(told, "updated")) > SILENCE
    return "stale" if silent or told.get("host") == socket.gethostname() else "running"


def _pictures(folder: Path) -> int:
    try:
        names = os.listdir(folder / "images")
    except OSError:
        return 0
    return sum(name.endswith(".png") for name in names)


def table(found: Sequence[Part]) -> str:
    """A line a run, then how many are in which state, and when all is made if all goes on as it does."""
    head = ("run", "state", "images", "images/s", "left", "doing")
    rows = [head, *(_cells(part) for part in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    lines = [
        "  ".join(
            c.ljust(w) if i < 2 or i == 5 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in [*lines, "", totals(found)])


def _cells(part: Part) -> tuple[str, ...]:
    return (
        part.name,
        part.state,
        f"{part.there:,}/{part.total:,}" if part.total else "",
        f"{part.rate:.2f}" if part.rate else "",
        "" if part.seconds_left is None else duration(part.seconds_left),
        part.phase,
    )


def totals(found: Sequence[Part]) -> str:
    """The last line of the table."""
    counts = Counter(part.state for part in found)
    order = ("done", "running", "pending", *BROKEN)
    said = ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
    left = sum(part.left for part in found if part.state in ("running", "pending"))
    rate = sum(part.rate for part in found if part.state == "running")
    when = f"; {left:,} images left, {duration(left / rate)} at {rate:.2f} images/s" if rate and left else ""
    hint = "; --failed tells why" if any(counts[state] for state in BROKEN) else ""
    return f"{said}{when}{hint}"


def duration(seconds: float) -> str:
    """3671 -> "1 h 01 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60:,} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def failures(found: Iterable[Part]) -> str:
    """What is known of each part that broke."""
    told = []
    for part in found:
        if part.state in BROKEN:
            content = part.content or {}
            where = f"process {content.get('pid', '?')} on {content.get('host', '?')}"
            lines = [f"== {part.name}: {part.state}, {part.there:,} of {part.total:,} images, {where}"]
            if part.state == "stale":
                lines.append(f"gone without a word while {content.get('phase', 'at work')}")
            lines += [*content.get("log", []), str(content.get("traceback", "")).rstrip()]
            told.append("\n".join(line for line in lines if line))
    return "\n\n".join(told)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status: 0 all done, 1 not all, 2 nothing to tell of."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.status",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a run, or a folder of runs")
    parser.add_argument("--failed", action="store_true", help="print what is known of those that broke")
    chosen = parser.parse_args(arguments)
    try:
        found = parts(chosen.folder)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    told = failures(found) if chosen.failed else table(found)
    print(told or "none failed")
    return 0 if all(part.state == "done" for part in found) else 1


if __name__ == "__main__":
    sys.exit(main())
