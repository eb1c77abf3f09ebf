"""Networks compiled by torch.compile against themselves uncompiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import (
    ControlNetModel,
    FluxControlNetModel,
    FluxControlNetPipeline,
    FluxPipeline,
    SD3ControlNetModel,
    StableDiffusion3ControlNetPipeline,
    StableDiffusion3Pipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
)
from torch import Tensor

import asyndm
from asyndm.compilation import check_compiled, explain_errors, has_compiled
from asyndm.compiled_levels import CompiledRows, find_class
from asyndm.errors import UserError
from asyndm.guidance import PerturbedAttention
from asyndm.levels import make_time_rows
from asyndm.networks import find_denoiser, find_family
from asyndm.records import StepRecord
from tests.library.networks.cases import measure_distance, sample_dm, sample_ours, sample_stock
from tests.library.traces import find_traces
from tests.pipelines import flux, sd, sd3
from tests.pipelines.registry import PIPELINES
from tests.pipelines.shared import finish

LAYOUTS = [
    (["a red dog", "a dog and a cat"], [["dog"], ["dog", "cat"]]),
    (["the cat on the red house", "a house"], [["cat", "house"], ["house"]]),
    (["a blue house and a dog in the cat", "a dog and a dog"], [["house", "dog", "cat"], ["dog"]]),
    (["a cat", "a cat"], [["cat"], ["cat"]]),
    (["the blue dog and the red cat", "dog"], [["blue dog", "red cat"], ["dog"]]),
    (["house", "a red dog on the blue house"], [["house"], ["red dog", "blue house"]]),
]
"""Six times two prompts whose subjects are one to three, of one and two words, at other places."""
UNET: dict[str, Any] = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}


def make_smallest(name: str) -> Any:
    """As few layers as there can be: dynamo takes about a second for each."""
    if name == "sd":
        return finish(StableDiffusionPipeline(**sd.make_parts(**UNET)), 0)
    if name == "sd35":
        parts = sd3.make_parts(num_layers=1, dual_attention_layers=(0,), qk_norm="rms_norm")
        return finish(StableDiffusion3Pipeline(**parts), 0)
    return finish(FluxPipeline(**flux.make_parts(num_layers=1, num_single_layers=1)), 0)


class Backend:
    """Counts the graphs and runs them as they are."""

    def __init__(self) -> None:
        torch._dynamo.reset()
        self.graphs = 0

    def __call__(self, graph: Any, inputs: object) -> Callable[..., Any]:
        self.graphs += 1
        forward: Callable[..., Any] = graph.forward
        return forward


def compile_in_place(pipe: Any, **settings: Any) -> None:
    find_denoiser(pipe).compile(**settings)


def compile_forward(pipe: Any, **settings: Any) -> None:
    network = find_denoiser(pipe)
    network.forward = torch.compile(network.forward, **settings)


def wrap(pipe: Any, **settings: Any) -> None:
    name = "unet" if hasattr(pipe, "unet") else "transformer"
    setattr(pipe, name, torch.compile(getattr(pipe, name), **settings))


def compile_blocks(pipe: Any, **settings: Any) -> None:
    find_denoiser(pipe).compile_repeated_blocks(**settings)


def sample_all(name: str, pipe: Any) -> tuple[list[Tensor], list[StepRecord]]:
    """The latents of all layouts, and the records of all their steps."""
    records: list[StepRecord] = []
    settings: dict[str, Any] = {"num_inference_steps": 4, "callback": records.append}
    return [
        sample_ours(name, pipe, prompts, subjects, **settings) for prompts, subjects in LAYOUTS
    ], records


def find_hooks(pipe: Any) -> dict[str, Any]:
    """Without a module's further attributes, among which torch notes that it is compiled."""
    return {name: found[:3] for name, found in find_traces(find_denoiser(pipe)).items()}


@pytest.mark.parametrize(
    ("name", "compiled"),
    [("sd", compile_in_place), ("sd35", wrap), ("flux", compile_forward)],
)
def test_compiled_is_the_same_and_six_layouts_of_tokens_are_one_graph(
    name: str, compiled: Any
) -> None:
    pipe = make_smallest(name)
    expected, records = sample_all(name, pipe)
    backend = Backend()
    compiled(pipe, backend=backend, fullgraph=True)
    before = find_hooks(pipe)
    made, read = sample_all(name, pipe)
    assert backend.graphs == 1
    for ours, theirs in zip(made, expected, strict=True):
        assert torch.equal(ours, theirs)
    assert measure_distance(expected[0], expected[1]) > 0.01
    for own, other in zip(read, records, strict=True):
        assert own.maps is not None and other.maps is not None
        assert torch.equal(own.maps, other.maps) and own.maps.abs().max() > 0
        assert torch.equal(own.timesteps, other.timesteps)
    assert any(len(step.timesteps.unique()) > 1 for step in records)
    assert find_hooks(pipe) == before
    if name == "flux":  # another graph, since no attention is read: dynamo does not see hooks go
        made = sample_dm(name, pipe, num_inference_steps=2)
        assert torch.equal(made, sample_stock(name, make_smallest(name), num_inference_steps=2))
        assert backend.graphs == 2


def test_blocks_compiled_one_by_one() -> None:
    """Those in which attention is read run as they are."""
    pipe = make_smallest("flux")
    expected, records = sample_all("flux", pipe)
    backend = Backend()
    compile_blocks(pipe, backend=backend)
    made, read = sample_all("flux", pipe)
    assert backend.graphs == 2  # of the single block: for the first number of rows, and for any
    for ours, theirs in zip(made, expected, strict=True):
        assert torch.equal(ours, theirs)
    for own, other in zip(read, records, strict=True):
        assert own.maps is not None and other.maps is not None
        assert torch.equal(own.maps, other.maps)


def make_with_controlnet(name: str) -> Any:
    if name == "sd":
        parts = sd.make_parts(**UNET)
        controlnet: Any = ControlNetModel.from_unet(
            parts["unet"], conditioning_embedding_out_channels=(8, 8)
        )
        return finish(StableDiffusionControlNetPipeline(**parts, controlnet=controlnet), 0)
    if name == "sd3":
        parts = sd3.make_parts(num_layers=1)
        controlnet = SD3ControlNetModel(**sd3.TRANSFORMER, num_layers=1)
        return finish(StableDiffusion3ControlNetPipeline(**parts, controlnet=controlnet), 0)
    parts, layers = flux.make_parts(), {"num_layers": 1, "num_single_layers": 0}
    controlnet = FluxControlNetModel(**{**flux.TRANSFORMER, **layers})
    return finish(FluxControlNetPipeline(**parts, controlnet=controlnet), 0)


@pytest.mark.parametrize("name", ["sd", "sd3", "flux"])
def test_compiled_controlnets(name: str) -> None:
    pipe, backend = make_with_controlnet(name), Backend()
    expected = sample_ours(f"{name}_controlnet", pipe)
    pipe.controlnet.compile(backend=backend, fullgraph=True)
    assert torch.equal(sample_ours(f"{name}_controlnet", pipe), expected)
    assert backend.graphs == 1


@pytest.mark.parametrize("compiled", [compile_in_place, compile_forward, wrap, compile_blocks])
def test_a_guidance_with_hooks_runs_the_network_as_it_is(compiled: Any) -> None:
    pipe, backend = make_smallest("sd"), Backend()
    settings: dict[str, Any] = {"guidance": PerturbedAttention(), "num_inference_steps": 2}
    expected = sample_ours("sd", pipe, **settings)
    compiled(pipe, backend=backend)
    called = pipe.unet
    before = sorted(vars(called))
    assert torch.equal(sample_ours("sd", pipe, **settings), expected)
    assert backend.graphs == 0
    assert has_compiled(called) and sorted(vars(called)) == before


@pytest.mark.parametrize("compiled", [compile_in_place, compile_forward, wrap, compile_blocks])
def test_families_without_such_a_test_are_refused(compiled: Any) -> None:
    pipe = PIPELINES["qwen"].build()
    compiled(pipe, backend="eager")
    with pytest.raises(UserError, match="compiled by torch.compile"):
        sample_ours("qwen", pipe)
    with (
        pytest.raises(UserError, match="compiled by torch.compile"),
        asyndm.asynchronous(pipe, "a dog", ["dog"]),
    ):
        raise AssertionError("the context was entered")


def test_of_a_torch_that_is_too_old_only_blocks_without_time_are_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch, "__version__", "2.13.1+cpu")
    pipe = make_smallest("sd")
    compile_blocks(pipe, backend="eager")
    check_compiled(pipe.unet, find_family(pipe))
    pipe.unet.mid_block.compile(backend="eager")
    with pytest.raises(UserError, match=r"mid_block is compiled: .*\(or use torch 2.14\)"):
        check_compiled(pipe.unet, find_family(pipe))


def add_rows(rows: Tensor, x: Tensor) -> Tensor:
    return x + rows[:, None, None, None]


def test_what_is_not_known_is_refused_by_the_graph_as_well() -> None:
    kind = find_class(CompiledRows, torch.nn.Identity())
    timesteps = torch.arange(16.0, dtype=torch.float64).view(1, 4, 4)
    rows = make_time_rows(timesteps, Tensor.float, network="It", picture=True, wrap=kind.insert)
    assert torch.equal(
        torch.compile(add_rows, backend=Backend(), fullgraph=True)(rows, torch.zeros(1, 2, 4, 4)),
        timesteps.float()[:, None].expand(1, 2, 4, 4),
    )
    strange = torch.zeros(1, 2, 5, 5)
    with pytest.raises(UserError, match="known for tokens 4x4.*the network has 5x5"):
        torch.compile(add_rows, backend=Backend())(rows, strange)
    with pytest.raises(UserError, match="without fullgraph=True"), explain_errors():
        torch.compile(add_rows, backend=Backend(), fullgraph=True)(rows, strange)


def test_a_single_row_is_two_in_the_graph() -> None:
    """One would be a constant of it, and the first step of a picture another graph."""
    kind = find_class(CompiledRows, torch.nn.Identity())
    backend = Backend()
    compiled = torch.compile(add_rows, backend=backend, fullgraph=True)
    for count in (1, 2, 5):
        timesteps = (torch.arange(16) % count).double().view(1, 4, 4)
        rows = make_time_rows(timesteps, Tensor.float, network="It", picture=True, wrap=kind.insert)
        assert torch.equal(compiled(rows, torch.zeros(1, 1, 4, 4)), timesteps.float()[:, None])
    assert backend.graphs == 1
