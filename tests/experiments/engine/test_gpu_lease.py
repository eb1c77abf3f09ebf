"""A GPU has one run at a time, unless asked for more: over processes."""

from __future__ import annotations

import subprocess
from contextlib import AbstractContextManager
from pathlib import Path

from tests.experiments.engine.processes import read_line, start_python

HOLD = """
import sys
from pathlib import Path
from experiments.engine.gpu_lease import hold_slot
with hold_slot(["a", "b"], int(sys.argv[2]), Path(sys.argv[1])) as gpu:
    print(gpu, flush=True)
    input()
"""


def start_holder(folder: Path, each: int) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """A program that holds a slot of one of two GPUs until it reads a line."""
    return start_python(HOLD, str(folder), str(each))


def test_a_gpu_has_one_job_unless_asked_for_more(tmp_path: Path) -> None:
    with start_holder(tmp_path, 1) as first, start_holder(tmp_path, 1) as second:
        assert {read_line(first.stdout), read_line(second.stdout)} == {"0\n", "1\n"}
        with start_holder(tmp_path, 1) as third:
            said = read_line(third.stderr)
            assert said == "all 2 GPUs are taken; waiting (jobs_per_gpu=2 shares them)\n"
            second.kill()
            second.wait()
            assert read_line(third.stdout) in ("0\n", "1\n")


def test_shared_gpus_are_filled_evenly(tmp_path: Path) -> None:
    with start_holder(tmp_path, 2) as first, start_holder(tmp_path, 2) as second:
        assert {read_line(first.stdout), read_line(second.stdout)} == {"0\n", "1\n"}
        with start_holder(tmp_path, 2) as third, start_holder(tmp_path, 2) as fourth:
            assert {read_line(third.stdout), read_line(fourth.stdout)} == {"0\n", "1\n"}
