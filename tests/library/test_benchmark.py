from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from experiments import benchmark

TINY = {"block_out_channels": (32, 32, 32, 32), "attention_head_dim": (1, 1, 1, 1), "cross_attention_dim": 16}


def test_both_kinds_of_step_are_timed_on_the_same_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(benchmark.SIZES, "tiny", TINY)
    monkeypatch.setattr(benchmark, "LATENT", 16)
    cpu = torch.device("cpu")
    stock, ours = benchmark.compare_steps("tiny", cpu, torch.float32, 3)
    assert len(stock) == len(ours) == 3 and min(stock + ours) > 0
    unet = benchmark.build_unet("tiny", cpu, torch.float32)
    other = benchmark.twin(unet)
    assert other.conv_in.weight.data_ptr() == unet.conv_in.weight.data_ptr() and other is not unet


def test_bad_arguments_end_with_one_line() -> None:
    command = [sys.executable, "-m", "experiments.benchmark", "--device"]
    ended = subprocess.run([*command, "cuda:99"], check=False, capture_output=True, text=True)
    assert ended.returncode == 2 and "device=cuda:99: this machine has" in ended.stderr.splitlines()[-1]
