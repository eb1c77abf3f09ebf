"""Who makes what in one folder: each part is made by one process, and none is lost."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from pathlib import Path

from evaluation.runs.locks import LOCK_FILE, clear_claims, hold_tables, is_held, share_out
from tests.lab import ROOT


def test_each_part_is_made_once_and_what_a_dead_process_left_is_taken_over(tmp_path: Path) -> None:
    made: list[int] = []
    parts = share_out(tmp_path, ["a", "b", "c"], lambda i: i not in made)
    for i, _ in parts:
        holder = tmp_path / ".claims" / "abc"[i]
        assert is_held(holder)
        if i == 0:
            assert list(share_out(tmp_path, ["b"], lambda _: False)) == []
        made.append(i)
    assert made == [0, 1, 2] and not any(map(is_held, (tmp_path / ".claims").iterdir()))
    clear_claims(tmp_path)
    assert not list(tmp_path.iterdir())

    code = (
        "import sys, time; from pathlib import Path; from evaluation.runs.locks import share_out\n"
        "for i in share_out(Path(sys.argv[1]), ['a'], lambda i: True): "
        "print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert other.stdout is not None and other.stdout.readline() == b"held\n"
    mine = share_out(tmp_path, ["a", "b"], lambda i: True)
    assert next(mine).number == 1
    other.kill()
    assert next(mine).number == 0 and next(mine, None) is None
    other.wait()


def test_threads_of_one_process_take_turns_and_one_may_hold_the_tables_twice(
    tmp_path: Path,
) -> None:
    inside: list[str] = []

    def hold() -> None:
        with hold_tables(tmp_path):
            inside.append("other")

    with hold_tables(tmp_path):
        other = threading.Thread(target=hold)
        other.start()
        with hold_tables(tmp_path):
            other.join(0.3)
            inside.append("own")
    other.join(10)
    assert inside == ["own", "other"] and not is_held(tmp_path / LOCK_FILE)


def test_a_part_that_was_taken_over_is_held_until_its_work_is_done(tmp_path: Path) -> None:
    parts = share_out(tmp_path, ["a", "b"], lambda i: True)
    first = next(parts).held.pop_all()
    assert next(parts).number == 1
    claims = [tmp_path / ".claims" / name for name in "ab"]
    assert [is_held(claim) for claim in claims] == [True, True]
    parts.close()
    assert [is_held(claim) for claim in claims] == [True, False]
    first.close()
    assert not is_held(claims[0])


def test_a_lock_that_cannot_be_opened_for_writing_is_still_seen_to_be_held(tmp_path: Path) -> None:
    """A folder is such a one, also for root."""
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    assert is_held(tmp_path)
    os.close(held)
    assert not is_held(tmp_path)
