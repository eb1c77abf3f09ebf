"""What a check is made of: parts that run or fail each for itself."""

from __future__ import annotations

import gc
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec

import torch

from asyndm.errors import join_lines, read_first_line
from evaluation.memory import is_out_of_memory
from experiments.gpu_check.rows import FAILED, NOT_RUN, Row

NO_COMPILER = re.compile(
    r"(Failed to find C compiler|No working C\+\+ compiler"
    r"|Command '\['[^']*(gcc|clang|cc)'.* returned non-zero)[^\n]*"
)
"""What Triton and Inductor say where there is none, or where it lacks Python's headers."""
LONGEST = 300
"""Characters of an error in a row."""


@dataclass(frozen=True)
class Setting:
    """Where the checks run.

    Args:
        device: of the networks.
        small: tiny networks and few pictures, which a CPU has done within a minute.
        deadline: by `time.monotonic`, when all should be done.
    """

    device: torch.device
    small: bool
    deadline: float

    @property
    def left(self) -> float:
        """Seconds to the deadline."""
        return self.deadline - time.monotonic()

    @property
    def on_gpu(self) -> bool:
        """Whether there is a GPU to be checked."""
        return self.device.type == "cuda"

    @property
    def dtypes(self) -> tuple[torch.dtype, ...]:
        """What a network is run in."""
        if self.on_gpu:
            return torch.float32, torch.float16, torch.bfloat16
        return torch.float32, torch.bfloat16

    def find_memory(self) -> float:
        """GiB that are free on the device; a CPU's are not asked for."""
        return torch.cuda.mem_get_info(self.device)[0] / 2**30 if self.on_gpu else float("inf")


class Missing(Exception):
    """Something that a part needs is not here; the text says what."""


class OutOfTime(BaseException):
    """The time of all checks is over. No `Exception`, which a library at work might catch."""


@dataclass(frozen=True)
class Part:
    """Some rows that are made together.

    Args:
        check, case: what it tries.
        make: yields the rows.
        seconds: that it takes, about.
        memory: GiB that it needs.
        modules: packages that it needs beyond torch, diffusers and transformers.
        aimed: whether it has a target, and so is run before those that have none.
    """

    check: str
    case: str
    make: Callable[[], Iterable[Row]]
    seconds: float = 0.0
    memory: float = 0.0
    modules: tuple[str, ...] = ()
    aimed: bool = False


def run_part(part: Part, setting: Setting) -> Iterator[Row]:
    """The part's rows as they are made; where it cannot run, or breaks, or must be broken off, one
    row says why."""
    reason = _find_hindrance(part, setting)
    if reason:
        yield Row(part.check, part.case, NOT_RUN, note=reason)
        return
    try:
        rows = iter(part.make())
        while row := _advance(rows, setting.left):
            yield row
    except OutOfTime:
        yield Row(part.check, part.case, NOT_RUN, note="no time: broken off when it was over")
    except Exception as error:  # whatever it is, the other parts are to run
        yield _describe_failure(part, error)
    if setting.on_gpu:  # networks refer to themselves, and the next part needs their memory
        gc.collect()
        torch.cuda.empty_cache()


def _advance(rows: Iterator[Row], seconds: float) -> Row | None:
    """The next row.

    Raises:
        OutOfTime: it takes longer.
    """
    with _stop_after(max(0.01, seconds)):
        return next(rows, None)


@contextmanager
def _stop_after(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _find_hindrance(part: Part, setting: Setting) -> str:
    absent = [name for name in part.modules if find_spec(name) is None]
    if absent:
        return f"missing: {', '.join(absent)}"
    free = setting.find_memory()
    if part.memory > free:
        return f"too little memory: needs {part.memory:.0f} GiB, {free:.0f} GiB are free"
    if setting.left <= max(0.0, part.seconds):
        left = max(0.0, setting.left)
        return f"no time: takes about {part.seconds:.0f} s, {left:.0f} s are left"
    return ""


def _describe_failure(part: Part, error: Exception) -> Row:
    said = read_first_line(error)
    if isinstance(error, (Missing, ModuleNotFoundError)):
        named = getattr(error, "name", None) or said
        return Row(part.check, part.case, NOT_RUN, note=f"missing: {named}")
    if is_out_of_memory(error):
        return Row(part.check, part.case, NOT_RUN, note=f"too little memory: {said}")
    if found := NO_COMPILER.search(str(error)):
        return Row(part.check, part.case, NOT_RUN, note=f"missing: a compiler: {found[0]}")
    told = f"{type(error).__name__}: {join_lines(error)}"
    return Row(part.check, part.case, FAILED, note=told[:LONGEST])
