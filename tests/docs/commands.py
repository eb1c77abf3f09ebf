"""The commands of the documentation, run where their modules are imported already."""

from __future__ import annotations

import runpy
import sys


def run_python(words: list[str]) -> int:
    """``python -m`` in this process. Returns its exit status."""
    assert words[:2] == ["python", "-m"]
    sys.argv = [words[2], *words[3:]]
    try:
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0
