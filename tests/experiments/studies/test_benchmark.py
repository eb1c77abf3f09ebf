from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from experiments.studies import benchmark

CPU = torch.device("cpu")
TINY = {
    "unet": (
        benchmark.UNETS,
        {
            "block_out_channels": (32,) * 4,
            "attention_head_dim": (1,) * 4,
            "cross_attention_dim": 16,
        },
    ),
    "sd35": (
        benchmark.SD35,
        {
            "num_layers": 2,
            "num_attention_heads": 1,
            "joint_attention_dim": 16,
            "dual_attention_layers": (0,),
        },
    ),
    "flux": (
        benchmark.FLUX,
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
    monkeypatch.setattr(benchmark, "LATENT", 16)
    subject = benchmark.NETWORKS[name]("tiny", CPU, torch.float32)
    subject.pipe.set_progress_bar_config(disable=True)
    levels: list[int] = []

    def count(record: object) -> None:
        levels.append(len(record.timesteps.unique()))  # type: ignore[attr-defined]

    session = benchmark.asynchronous(subject.pipe)
    session.scheduler.callback = count
    with torch.no_grad(), session.open():
        benchmark.timed_call(subject, 4, CPU, benchmark.Timing())
    assert max(levels) == benchmark.LEVELS
    stock, ours = benchmark.compare(subject, CPU, 1, 3)
    assert len(stock.seconds) == len(ours.seconds) == 2 and min(stock.seconds + ours.seconds) > 0


def test_bad_arguments_end_with_one_line() -> None:
    command = [sys.executable, "-m", "experiments.studies.benchmark"]
    for arguments, message in (
        (["--device", "cuda:99"], "device=cuda:99: this machine has"),
        (["--network", "unet,vit"], "--network vit: choose from unet, sd35, flux"),
    ):
        ended = subprocess.run([*command, *arguments], check=False, capture_output=True, text=True)
        assert ended.returncode == 2 and message in ended.stderr.splitlines()[-1]
