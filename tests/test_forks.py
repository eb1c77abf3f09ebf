"""Copies of the process that tests run in can do what it could."""

from __future__ import annotations

from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.forks import Fork


def go_backward() -> int:
    x = torch.ones(3, requires_grad=True)
    torch.autograd.backward((x * x).sum())
    return 0


def test_a_copy_goes_backward_after_a_gpu_was_feigned(tmp_path: Path) -> None:
    with FakeTensorMode():
        torch.ones(3)
    go_backward()
    fork = Fork(go_backward, tmp_path)
    _, error = fork.communicate()
    assert fork.returncode == 0, error
