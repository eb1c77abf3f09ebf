from __future__ import annotations

import pytest
import torch

from experiments.studies.benchmark import cases, command

CPU = torch.device("cpu")
TINY = {
    "unet": (
        cases.UNETS,
        {
            "block_out_channels": (32,) * 4,
            "attention_head_dim": (1,) * 4,
            "cross_attention_dim": 16,
        },
    ),
    "sd35": (
        cases.SD35,
        {
            "num_layers": 2,
            "num_attention_heads": 1,
            "joint_attention_dim": 16,
            "dual_attention_layers": (0,),
        },
    ),
    "flux": (
        cases.FLUX,
        {
            "num_layers": 1,
            "num_single_layers": 1,
            "num_attention_heads": 1,
            "joint_attention_dim": 16,
            "attention_head_dim": 128,
        },
    ),
}


@pytest.mark.parametrize("name", TINY)
def test_both_kinds_of_step_are_timed_on_the_same_weights(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes, settings = TINY[name]
    monkeypatch.setitem(sizes, "tiny", settings)
    monkeypatch.setattr(command, "LATENT", 16)
    case = cases.NETWORKS[name]("tiny", CPU, torch.float32)
    case.pipe.set_progress_bar_config(disable=True)
    levels: list[int] = []

    def count(record: object) -> None:
        levels.append(len(record.timesteps.unique()))  # type: ignore[attr-defined]

    session = command.build_session(case.pipe)
    session.scheduler.callback = count
    with torch.no_grad(), session.open():
        command.time_call(case, 4, CPU, command.Timing())
    assert max(levels) == command.LEVELS
    stock, ours = command.compare(case, CPU, 1, 3)
    assert len(stock.seconds) == len(ours.seconds) == 2 and min(stock.seconds + ours.seconds) > 0


def test_help_begins_with_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    described = capsys.readouterr().out.partition("\n\n")[2]
    assert described.startswith("The cost of asynchrony: a step of AsynDM against one of")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "cuda:99"], "device=cuda:99: this machine has"),
        (["--network", "unet,vit"], "--network vit: choose from unet, sd35, flux"),
    ],
)
def test_bad_arguments_end_with_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(arguments)
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
