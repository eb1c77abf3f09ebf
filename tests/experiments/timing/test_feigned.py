"""The feigned GPU sees who would wait for a real one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from asyndm.masks import ThingsMask
from asyndm.scene import Scene
from asyndm.subjects import Subject
from experiments.timing.cases import NETWORKS
from experiments.timing.feigned import FeignedGPU
from experiments.timing.steps import OURS
from experiments.timing.waits import count_waits

CPU = torch.device("cpu")
GENERATOR = torch.Generator()


def read_list(x: Tensor) -> object:
    return torch.tensor([1.0, 2.0], device=x.device) + x[0]


WAITING: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.max()),
    "if": lambda x: bool((x > 0).any()),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to cpu": lambda x: x.to("cpu"),
    "numpy": lambda x: x.numpy(),
    "nonzero": lambda x: x.nonzero(),
    "boolean index": lambda x: x[x > 0],
    "boolean assignment": lambda x: x.clone().__setitem__(x > 0, x[0]),
    "unique": lambda x: torch.unique(x),
    "list": read_list,
    "host tensor moved": lambda x: torch.ones(3).to(x.device),
    "host tensor moved like": lambda x: torch.ones(3).to(x),
    "host index": lambda x: x[torch.tensor([0, 1])],
    "not pinned": lambda x: torch.ones(3).to(x.device, non_blocking=True),
    "drawn on the host": lambda x: torch.randn(3, generator=GENERATOR, device=x.device),
}
FREE: dict[str, Callable[[Tensor], object]] = {
    "arithmetic": lambda x: (2 * x + 1).softmax(-1),
    "made there": lambda x: torch.zeros(3, device=x.device) + x,
    "made on the host": lambda x: torch.zeros(3).sum().item(),
    "shape": lambda x: x.view(1, -1).expand(2, -1).shape,
    "index there": lambda x: x[torch.arange(2, device=x.device)],
    "cast": lambda x: x.double().to(torch.float16).to(x.device),
    "pinned": lambda x: torch.ones(3).pin_memory().to(x.device, non_blocking=True) + x,
    "scalar of the host": lambda x: x * torch.tensor(2.0),
    "back on the host": lambda x: x.device == torch.zeros(1, device=x.device).device,
}


def watch(act: Callable[[Tensor], object]) -> FeignedGPU:
    x = torch.tensor([[1.0, -2.0, 3.0], [4.0, 5.0, 6.0]])[0]
    gpu = FeignedGPU([x])
    with gpu.enter():
        act(x)
    return gpu


@pytest.mark.parametrize("name", WAITING)
def test_what_needs_a_number_of_the_gpu_waits_once(name: str) -> None:
    gpu = watch(WAITING[name])
    assert gpu.waits.total() == 1 and gpu.mixed == []


@pytest.mark.parametrize("name", FREE)
def test_what_needs_none_does_not(name: str) -> None:
    gpu = watch(FREE[name])
    assert not gpu.waits and gpu.mixed == []


def test_what_was_brought_back_lies_on_the_host() -> None:
    gpu = watch(lambda x: x.cpu().tolist())
    assert gpu.waits == {"cpu (copied)": 1}


@pytest.mark.parametrize("act", [lambda x: x + torch.ones(3), lambda x: torch.cat([x, x.cpu()])])
def test_tensors_of_both_are_told(act: Callable[[Tensor], object]) -> None:
    assert len(watch(act).mixed) == 1


@pytest.mark.parametrize("name", ["unet", "sd35"])
def test_a_step_of_ours_waits_once_in_batches_too(name: str) -> None:
    case = replace(NETWORKS[name]("tiny", CPU, torch.float32), side=16, batch=2)
    waits = count_waits(case, OURS, CPU)
    assert waits.count == 1 and waits.mixed == []
    assert waits.places == "aten._unique2 1"


def test_regions_of_things_are_found_without_a_wait() -> None:
    """But for the counts, which are the host's, once."""
    maps, concavity = torch.rand(2, 3, 8, 8), torch.full((2, 3), 0.5, dtype=torch.float64)
    scene = Scene(concavity, (16, 16), [[Subject("dogs", count=2)]] * 2)
    gpu = FeignedGPU([maps, concavity])
    with gpu.enter():
        weights = ThingsMask(threshold=1.0).initial(scene, lambda: maps)
    assert gpu.waits == {"to (copied)": 1} and gpu.mixed == [] and gpu.holds(weights)


def test_the_noise_of_a_step_is_copied_without_a_wait() -> None:
    case = replace(NETWORKS["unet"]("tiny", CPU, torch.float32), side=16)
    noisy = replace(case, call={**case.call, "eta": 1.0})
    assert count_waits(noisy, OURS, CPU).places == "aten._unique2 1"
