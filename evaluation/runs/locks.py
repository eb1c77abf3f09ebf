"""Several processes in one folder: whose turn it is to write, and who makes what. A lock ends with
its holder, however that ends; where processes of several machines share a folder, its file system
must pass on locks (NFS 4 and Lustre do).
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock, Timeout

LOCK_FILE, CLAIMS = ".lock", ".claims"
_turns = threading.RLock()
"""Threads of this process share a lock's object, which lets both pass and does not count them
safely: they take turns before it."""


def get_lock(path: Path) -> FileLock:
    """The lock of that file, one object a process, so that who holds it may take it again."""
    return FileLock(path, is_singleton=True, thread_local=False)


@contextmanager
def hold_tables(folder: Path) -> Iterator[None]:
    """Holds the folder's tables for this process: for as long as reading, merging and writing
    takes."""
    folder.mkdir(parents=True, exist_ok=True)
    with _turns, get_lock(folder / LOCK_FILE):
        yield


def is_held(path: Path) -> bool:
    """Whether a process that lives holds the lock of that file."""
    if not path.exists():
        return False
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except OSError:
        return _is_held_by_writer(path)
    lock.release()
    return False


def _is_held_by_writer(path: Path) -> bool:
    """`is_held` where this process may not write: on a disk that is read-only, or in another's
    folder."""
    try:
        import fcntl

        opened = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (ImportError, OSError):
        return False
    try:
        fcntl.flock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    finally:
        os.close(opened)
    return False


class Share(NamedTuple):
    """A part of some work that is this process's: its number, and the claim on it.

    The claim ends when the next part is asked for; who goes on with a part beside the next one
    takes it over, ``held.pop_all()``, and closes it when done.
    """

    number: int
    held: ExitStack


def share_out(
    folder: Path, parts: Sequence[str], is_missing: Callable[[int], bool]
) -> Generator[Share, None, None]:
    """Goes through the missing parts of some work that any number of processes do together, each
    part by one of them.

    The parts that others are at come last, once they are done with them: what is then still
    missing, because they died or failed, is this process's to do. After the last part nothing is
    missing that could be made.

    Args:
        folder: where the work is kept.
        parts: a name for each.
        is_missing: asked before a part is claimed, and again when it is held.

    Yields:
        A part, held until the next one is asked for, or this is closed: an exception keeps what it
        went through alive, so use ``contextlib.closing``.
    """
    claims = folder / CLAIMS
    busy: list[int] = []
    for wait in (False, True):
        for number in busy if wait else range(len(parts)):
            if not is_missing(number):
                continue
            if (lock := _claim(claims / parts[number], wait)) is None:
                busy.append(number)
                continue
            with ExitStack() as held:
                held.callback(lock.release)
                if is_missing(number):
                    yield Share(number, held)


def _claim(path: Path, wait: bool) -> FileLock | None:
    """The held lock of that file; None where another process holds it and this one shall not
    wait."""
    lock = get_lock(path)
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=-1 if wait else 0)
            return lock
        except Timeout:
            return None
        except FileNotFoundError:  # the folder was cleared in between
            continue


def clear_claims(folder: Path) -> None:
    """Removes the files of claims, where all is made: a process that still waits for one finds
    nothing missing."""
    shutil.rmtree(folder / CLAIMS, ignore_errors=True)
