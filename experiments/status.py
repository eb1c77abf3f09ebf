"""How far the runs of a folder are: done, running, failed or stale, how fast, and what is left.

python -m experiments.status runs
python -m experiments.status runs --failed     # the last lines and the traceback of what broke
python -m experiments.status runs --verify  # reads every picture: is it the listed one?
watch -n 10 python -m experiments.status runs

A run is stale where its process went without a word (killed, a machine lost). The exit status is 0
if all is done, 1 if not, and 2 where there is nothing to tell of. The same ``experiments.run``
command makes what is missing or changed.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyndm.command import as_typed
from asyndm.errors import UserError
from asyndm.terminal import ends_quietly, printable
from evaluation.commands import Parser
from evaluation.messages import counted, describe
from evaluation.narrow import terminal_width
from evaluation.runs.files import read_json
from evaluation.runs.folder import RUN_FILE, SHARDS, STATE_FILE, read_state
from evaluation.runs.locks import is_held
from evaluation.runs.records import is_number
from experiments.engine.folder import refuse_foreign
from experiments.engine.heartbeat import BEAT, alive_file
from experiments.engine.verify import faults

SILENCE = 12 * BEAT
"""Seconds without a heartbeat after which a process of another machine counts as lost, if its lock
says nothing."""
BROKEN = ("failed", "stale", "interrupted", "incomplete")
WIDTH = 100
"""Characters of a text from a file that a cell of the table shows."""
HEAD = ("run", "state", "images", "images/s", "left", "doing")
NAME, LEAST, FEWEST, NARROWEST = 24, 8, 3, 40
"""Characters of a run's name that are worth more than a column, and that are always shown; columns
always shown; and characters that no table is squeezed below."""
SHARD = r"[0-9]{1,5}-of-[0-9]{1,5}"


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
        return (
            self.left / self.rate if self.rate and self.state == "running" and self.left else None
        )


def run_folders(root: Path) -> list[Path]:
    """The folders of all runs in a folder or below it, also of those that have not begun.

    Raises:
        UserError: no such folder, or no run in it.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: {'a file, not a folder of runs' if root.exists() else 'no such folder'}"
        )
    states = {path.parent for path in root.rglob(STATE_FILE)} | {
        path.parent for path in root.rglob(RUN_FILE)
    }
    shards = list(root.rglob(f"{SHARDS}/*-of-*.json"))
    folders = sorted(states | {path.parent.parent for path in shards})
    if not folders:
        raise UserError(f"{root}: no runs there; make some with python -m experiments.run")
    return folders


def of_run(folder: Path) -> list[Part]:
    """The run, or its shards where they do not make up all of it yet.

    Raises:
        ForeignFile: it was made by a newer version; a folder or a pipe where a file of the run
            should be.
    """
    refuse_foreign(folder)
    told, there = read_state(folder), _pictures(folder)
    if told["state"] != "done" and (shards := _shards(folder)):
        return [_shard(folder, path) for path in shards]
    state = _state(folder / STATE_FILE, told)
    total = int(_number(told, "total", there))
    if state == "done" and there < total:
        state = "incomplete"
    return [_part(folder.name, state, there, total, told)]


def _shards(folder: Path) -> list[Path]:
    """The state files of all shards, there or not, of the last division; none where the whole run
    was last asked for."""
    there = [
        path for path in (folder / SHARDS).glob("*-of-*.json") if re.fullmatch(SHARD, path.stem)
    ]
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
    except (OSError, UserError, ValueError, TypeError):
        told = {"state": "pending"}
    name = f"{folder.name} {path.stem.replace('-of-', '/')}"
    return _part(
        name, _state(path, told), int(_number(told, "there")), int(_number(told, "part")), told
    )


def _number(told: dict[str, Any], key: str, otherwise: float = 0) -> float:
    """A count or a time of a state file; `otherwise` where it says none that can be."""
    value = told.get(key)
    return float(value) if is_number(value) else otherwise


def _part(name: str, state: str, there: int, total: int, told: dict[str, Any]) -> Part:
    seconds = _number(told, "seconds") - _number(told, "loaded")
    rate = _number(told, "made") / seconds if seconds > 0 and state != "pending" else 0.0
    return Part(
        name,
        state,
        there,
        total,
        rate,
        str(told.get("phase", "")) if state == "running" else "",
        told,
    )


def _state(file: Path, told: dict[str, Any]) -> str:
    """What the file says, but "stale" where it says "running" and nobody does."""
    state = str(told.get("state", "pending"))
    if state != "running":
        return state
    with suppress(OSError):  # a lock of a disk that can only be read
        if is_held(alive_file(file)):
            return state
    silent = abs(time.time() - _number(told, "updated")) > SILENCE
    return "stale" if silent or told.get("host") == socket.gethostname() else "running"


def _pictures(folder: Path) -> int:
    try:
        names = os.listdir(folder / "images")
    except OSError:
        return 0
    return sum(name.endswith(".png") for name in names)


def table(found: Sequence[Part], width: int | None = None) -> str:
    """A line a run, then how many are in which state, and when all is made if all goes on as it
    does.

    Args:
        found: the runs.
        width: of the terminal: names are cut in the middle, and columns left out from the right, as
            far as it takes.
    """
    rows = [HEAD, *(_cells(part) for part in found)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    last = totals(found)
    if width is not None:
        width = max(width, NARROWEST)
        while len(widths) > FEWEST and _room(widths, width) < min(widths[0], NAME):
            widths.pop()
        widths[0] = min(widths[0], max(LEAST, _room(widths, width)))
        last = textwrap.fill(last, width)
    lines = [
        "  ".join(
            _cut(c, w).ljust(w) if i < 2 or i == 5 else c.rjust(w)
            for i, (c, w) in enumerate(zip(row, widths, strict=False))
        )
        for row in rows
    ]
    return "\n".join(line.rstrip() for line in [*lines, "", last])


def _room(widths: Sequence[int], width: int) -> int:
    """What columns of these widths leave a name."""
    return width - sum(wide + 2 for wide in widths[1:])


def _cut(text: str, width: int) -> str:
    """Its beginning and its end, which holds the run's id."""
    if len(text) <= width:
        return text
    end = width // 2
    return f"{text[: width - end - 1]}…{text[-end:]}"


def _cells(part: Part) -> tuple[str, ...]:
    return (
        _cell(part.name),
        _cell(part.state),
        f"{part.there:,}/{part.total:,}" if part.total else "",
        f"{part.rate:.2f}" if part.rate else "",
        "" if part.seconds_left is None else duration(part.seconds_left),
        _cell(part.phase),
    )


def _cell(text: str) -> str:
    """A text of a file in one line of its table."""
    line = printable(" ".join(text.split()))
    return line if len(line) <= WIDTH else f"{line[: WIDTH - 3]}..."


def totals(found: Sequence[Part]) -> str:
    """The last line of the table."""
    counts = Counter(part.state for part in found)
    order = ("done", "running", "pending", *BROKEN)
    said = ", ".join(f"{counts[state]} {state}" for state in order if counts[state])
    left = sum(part.left for part in found if part.state in ("running", "pending"))
    rate = sum(part.rate for part in found if part.state == "running")
    when = (
        f"; {counted(left, 'image')} left, {duration(left / rate)} at {rate:.2f} images/s"
        if rate and left
        else ""
    )
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
            log = content.get("log", [])
            where = f"process {content.get('pid', '?')} on {content.get('host', '?')}"
            lines = [
                f"== {part.name}: {part.state}, {part.there:,} of {part.total:,} images, {where}"
            ]
            if part.state == "stale":
                lines.append(f"gone without a word while {content.get('phase', 'at work')}")
            lines += [*map(str, log if isinstance(log, list) else [log])]
            lines.append(str(content.get("traceback", "")).rstrip())
            told.append("\n".join(line for line in lines if line))
    return printable("\n\n".join(told))


def show(folders: Sequence[Path], failed: bool) -> int:
    """Prints how far they are, or why they broke; what cannot be told of is named.

    Returns:
        The exit status.
    """
    found, left_out = list[Part](), 0
    for folder in folders:
        try:
            found += of_run(folder)
        except (UserError, OSError) as error:
            left_out += 1
            print(f"error: {describe(error)}", file=sys.stderr)
    if not found:
        return 2
    print((failures(found) or "none failed") if failed else table(found, terminal_width()))
    return 0 if not left_out and all(part.state == "done" for part in found) else 1


def verify(folders: Sequence[Path]) -> int:
    """Prints a line for each picture that is not the one its run lists, and how many there are.

    Returns:
        The exit status: 2 where none is listed.
    """
    right = wrong = unread = 0
    for folder in folders:
        try:
            for path, fault in faults(folder):
                right, wrong = right + (not fault), wrong + bool(fault)
                if fault:
                    print(printable(f"{fault}: {path}".replace("\n", "\\n")))
        except (UserError, OSError) as error:
            unread += 1
            print(f"error: {describe(error)}", file=sys.stderr)
    hint = as_typed("; the same experiments.run command makes them anew") if wrong else ""
    print(f"{counted(right, 'picture')} as listed, {wrong:,} not{hint}")
    return 1 if wrong or unread else 0 if right else 2


@ends_quietly()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status: 0 all done, 1 not all, 2 nothing to tell of."""
    parser = Parser("experiments.status", __doc__)
    parser.add_argument("folder", type=Path, help="a run, or a folder of runs")
    parser.add_argument(
        "--failed", action="store_true", help="print what is known of those that broke"
    )
    parser.add_argument(
        "--verify", action="store_true", help="name pictures that are changed, cut or missing"
    )
    chosen = parser.read(arguments)
    try:
        folders = run_folders(chosen.folder)
        return verify(folders) if chosen.verify else show(folders, chosen.failed)
    except (UserError, OSError) as error:
        print(f"error: {describe(error)}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
