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


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["maks=none"], "maks: no such setting (did you mean mask?)"),
        (["mask=nope"], "mask=nope: no such choice (did you mean none?)"),
        (["limit=x"], "limit=x: Value 'x' of type 'str' could not be converted to Integer"),
        (["--repeats", "0"], "--repeats 0: must be at least 1"),
    ],
)
def test_bad_arguments_end_with_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
