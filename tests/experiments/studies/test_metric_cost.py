"""What BLIP-VQA costs, against the naive way."""

from __future__ import annotations

import pytest

from experiments.studies.metric_cost import main as cost


def test_the_cost_is_told_and_both_ways_agree(capsys: pytest.CaptureFixture[str]) -> None:
    assert cost(["--pairs", "10"]) == 0
    said = capsys.readouterr().out
    assert "ratio" in said and "largest difference of a score 0.000" in said
    assert cost(["--pairs", "0"]) == 1
