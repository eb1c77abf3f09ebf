"""Two processes that ask for the same GPU have it one after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from experiments.gpu_check.parts import Part, Setting
from experiments.gpu_check.rows import Row

CHECK = "leases"
PATIENCE = 60.0
"""Seconds after which a process that says nothing is given up."""
ROOT = Path(__file__).parents[2]
LEASE = """
import torch
from experiments.engine.gpu_lease import lease_gpu
with lease_gpu("cuda", 1):
    torch.zeros(1, device="cuda")
    print(torch.cuda.current_device(), flush=True)
    input()
"""
SLOT = """
from experiments.engine.gpu_lease import find_lock_folder, hold_slot
with hold_slot(["feigned"], 1, find_lock_folder()) as gpu:
    print(gpu, flush=True)
    input()
"""


def list_parts(setting: Setting) -> Iterator[Part]:
    """One."""
    yield Part(CHECK, "two processes", partial(lease, setting), 30, modules=("filelock",))


def lease(setting: Setting) -> Iterator[Row]:
    """The second waits, says so, and has the GPU when the first has ended. Their locks lie in a
    folder of their own: runs of this machine are not held up."""
    code, how = (LEASE, "") if setting.on_gpu else (SLOT, "feigned GPU")
    with TemporaryDirectory() as folder, ExitStack() as stack:
        first = stack.enter_context(_start(code, folder))
        given = _read(first, first.stdout)
        second = stack.enter_context(_start(code, folder))
        said = _read(second, second.stderr, "taken; waiting")
        waited = float(bool(said))
        yield Row(CHECK, "two processes", "the second waits", waited, least=1.0, note=said or how)
        _end(first)
        got = float(_read(second, second.stdout) == given != "")
        yield Row(CHECK, "two processes", "then has the same GPU", got, least=1.0, note=how)
        _end(second)


@contextmanager
def _start(code: str, folder: str) -> Iterator[subprocess.Popen[str]]:
    """A program that holds a GPU until it reads a line, and is killed at the end or when it has
    been silent for too long. It sees a single GPU."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), *sys.path])
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={
            **os.environ,
            "PYTHONPATH": path,
            "TMPDIR": folder,
            "CUDA_VISIBLE_DEVICES": visible,
        },
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def _read(process: subprocess.Popen[str], stream: IO[str] | None, sign: str = "") -> str:
    """The next line that says so; nothing where it never comes."""
    assert stream is not None
    timer = threading.Timer(PATIENCE, process.kill)
    timer.start()
    try:
        return next((line.strip() for line in stream if sign in line), "")
    finally:
        timer.cancel()


def _end(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
