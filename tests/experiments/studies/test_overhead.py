"""What a run costs beside sampling, measured on a tiny pipeline."""

from __future__ import annotations

import re

import pytest

from experiments.studies.overhead import main
from tests.lab import Lab


def test_both_sides_are_timed(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*lab.arguments("limit=2"), "--repeats", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    pattern = r"sampling [\d.]+ s, run [\d.]+ s, ratio [\d.]+"
    assert len(lines) == 3 and all(re.fullmatch(pattern, line) for line in lines[:2])
    assert lines[2].startswith("2 images; median ratio ") and not lab.runs.exists()
