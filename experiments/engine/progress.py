"""How far runs are, as their folders tell: which part of which run is done, running or broken."""

from __future__ import annotations

import os
import re
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyndm.errors import UserError
from evaluation.runs.files import read_json
from evaluation.runs.folder import SHARDS, STATE_FILE, RunFolder, read_state
from evaluation.runs.locks import is_held
from evaluation.runs.records import RUN_FILE, is_number
from experiments.engine.heartbeat import BEAT, find_alive_file

SILENCE = 12 * BEAT
"""Seconds without a heartbeat after which a process of another machine counts as lost, if its lock
says nothing."""
BROKEN = ("failed", "stale", "interrupted", "incomplete")
"""States of a part whose missing images nobody is making."""
SHARD = re.compile(r"[0-9]{1,5}-of-[0-9]{1,5}")


@dataclass(frozen=True)
class Part:
    """A run or one shard of it, as its state file tells.

    Attributes:
        name: the run's folder, and the shard.
        state: "done", "running", "pending", or one of `BROKEN`.
        there, total: images that are made, and that there are to be.
        rate: images a second, 0 where it is not known.
        phase: what it is doing, if it runs.
        content: what the state file says.
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
        """Images that are not made."""
        return max(0, self.total - self.there)

    @property
    def seconds_left(self) -> float | None:
        """None where it is not known, or nothing is left."""
        if not self.rate or not self.left or self.state != "running":
            return None
        return self.left / self.rate


def find_folders(root: Path) -> list[Path]:
    """The folders of all runs in a folder or below it, also of those that have not begun.

    Raises:
        UserError: no such folder, or no run in it.
    """
    if not root.is_dir():
        raise UserError(
            f"{root}: {'a file, not a folder of runs' if root.exists() else 'no such folder'}"
        )
    folders = {path.parent for name in (STATE_FILE, RUN_FILE) for path in root.rglob(name)}
    folders |= {path.parent.parent for path in root.rglob(f"{SHARDS}/*-of-*.json")}
    if not folders:
        raise UserError(f"{root}: no runs there; make some with python -m experiments.run")
    return sorted(folders)


def read_parts(folder: Path) -> list[Part]:
    """The run, or its shards where they do not make up all of it yet.

    Raises:
        ForeignFile: it was made by a newer version; a folder or a pipe where a file of the run
            should be.
    """
    RunFolder(folder).refuse_foreign()
    content, there = read_state(folder), _count_pictures(folder)
    if content["state"] != "done" and (shards := _find_shards(folder)):
        return [_read_shard(folder, path) for path in shards]
    state = _judge_state(folder / STATE_FILE, content)
    total = int(_read_number(content, "total", there))
    if state == "done" and there < total:
        state = "incomplete"
    return [_build_part(folder.name, state, there, total, content)]


def _find_shards(folder: Path) -> list[Path]:
    """The state files of all shards, there or not, of the last division; none where the whole run
    was last asked for."""
    there = [path for path in (folder / SHARDS).glob("*-of-*.json") if SHARD.fullmatch(path.stem)]
    last = max(there, key=_read_time, default=None)
    if last is None or _read_time(folder / STATE_FILE) > _read_time(last):
        return []
    count = last.stem.partition("-of-")[2]
    return [folder / SHARDS / f"{number}-of-{count}.json" for number in range(1, int(count) + 1)]


def _read_time(file: Path) -> float:
    """When it was last written; before all others if it is not there."""
    try:
        return file.stat().st_mtime
    except OSError:
        return -1.0


def _read_shard(folder: Path, path: Path) -> Part:
    try:
        content = dict(read_json(path))
    except (OSError, UserError, ValueError, TypeError):
        content = {"state": "pending"}
    name = f"{folder.name} {path.stem.replace('-of-', '/')}"
    there, total = (int(_read_number(content, key)) for key in ("there", "part"))
    return _build_part(name, _judge_state(path, content), there, total, content)


def _read_number(content: dict[str, Any], key: str, otherwise: float = 0) -> float:
    """A count or a time of a state file; `otherwise` where it says none that can be."""
    value: Any = content.get(key)
    return float(value) if is_number(value) else otherwise


def _build_part(name: str, state: str, there: int, total: int, content: dict[str, Any]) -> Part:
    # loading the model is not part of the rate: what is left is made without it
    seconds = _read_number(content, "seconds") - _read_number(content, "loaded")
    is_known = seconds > 0 and state != "pending"
    rate = _read_number(content, "made") / seconds if is_known else 0.0
    phase = str(content.get("phase", "")) if state == "running" else ""
    return Part(name, state, there, total, rate, phase, content)


def _judge_state(file: Path, content: dict[str, Any]) -> str:
    """What the file says, but "stale" where it says "running" and nobody does."""
    state = str(content.get("state", "pending"))
    if state != "running":
        return state
    with suppress(OSError):  # a lock of a disk that can only be read
        if is_held(find_alive_file(file)):
            return state
    # clocks of two machines may differ either way
    is_silent = abs(time.time() - _read_number(content, "updated")) > SILENCE
    return "stale" if is_silent or content.get("host") == socket.gethostname() else "running"


def _count_pictures(folder: Path) -> int:
    try:
        names = os.listdir(folder / "images")
    except OSError:
        return 0
    return sum(name.endswith(".png") for name in names)
