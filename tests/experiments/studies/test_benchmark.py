from __future__ import annotations

import pytest
import torch

from experiments.studies.benchmark import command
from experiments.timing.steps import Timing


def test_a_line_tells_both_steps_and_their_ratio(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timings = {"stock": Timing([0.1, 0.1, 0.2]), "AsynDM": Timing([0.1, 0.11, 0.22])}
    monkeypatch.setattr(command, "compare", lambda *arguments: timings)
    command.report("unet", "tiny", torch.device("cpu"), torch.float32, 1, 4)
    assert capsys.readouterr().out == (
        "unet  tiny  cpu float32: stock 100.0 ms, AsynDM 110.0 ms a step, ratio 1.100 "
        "(quartiles of the pairs 1.000 to 1.100, 3 steps)\n"
    )


def test_help_begins_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    described = capsys.readouterr().out.partition("\n\n")[2]
    assert described.startswith("The cost of asynchrony: a step of AsynDM against one of")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda:99"], "device=cuda:99: this machine has"),
        (["--network", "unet,vit"], "--network vit: choose from unet, sdxl, sd35, flux"),
    ],
)
def test_bad_arguments_end_with_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
