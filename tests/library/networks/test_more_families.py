"""FLUX.2, Chroma, AuraFlow, CogView4, Lumina 2, Z-Image, HiDream and Hunyuan-DiT on their tiny
pipelines: stock where all pixels are in step, and a level for each token."""

from __future__ import annotations

import inspect
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from asyndm.curves import Quadratic
from asyndm.masks import NoMask
from asyndm.method import Method
from asyndm.networks import find_denoiser, find_family
from asyndm.previews import decode
from asyndm.records import StepRecord
from asyndm.scheduler import AsynchronousScheduler
from asyndm.session import Session
from tests.library.networks.cases import build, measure_distance
from tests.library.networks.more_cases import (
    LONG,
    NAMES,
    PROMPTS,
    SHAPES,
    SUBJECTS,
    Stop,
    catch_first_call,
    make_asynchronous,
    run_call,
)
from tests.pipelines.registry import PIPELINES

RELATED = {
    "ChromaImg2ImgPipeline": "chroma",
    "ZImageImg2ImgPipeline": "zimage",
    "ZImageInpaintPipeline": "zimage",
}


@pytest.mark.parametrize("name", NAMES)
def test_dm_is_the_stock_pipeline(name: str) -> None:
    pipe = build(name)
    stock = run_call(name, eta=0.0) if name == "hunyuandit" else run_call(name)
    with make_asynchronous(name, pipe, PROMPTS, mask=NoMask(), eta=0.0):
        assert torch.equal(run_call(name), stock)
    again = run_call(name, eta=0.0) if name == "hunyuandit" else run_call(name)
    assert torch.equal(again, stock)


@pytest.mark.parametrize("kind", RELATED)
def test_dm_is_the_stock_pipeline_of_other_pictures(kind: str) -> None:
    from tests.pipelines.shared import draw_picture, draw_right_half

    name = RELATED[kind]
    pipe = getattr(diffusers, kind)(**build(name).components)
    pipe.set_progress_bar_config(disable=True)
    more: dict[str, Any] = {"image": [draw_picture(seed=1), draw_picture(seed=2)], "strength": 0.6}
    if "Inpaint" in kind:
        more["mask_image"] = [draw_right_half()] * 2
    stock = run_call(name, pipe=pipe, **more)
    with make_asynchronous(name, pipe, PROMPTS, mask=NoMask()):
        assert torch.equal(run_call(name, pipe=pipe, **more), stock)
    with make_asynchronous(name, pipe, PROMPTS, SUBJECTS):
        assert measure_distance(run_call(name, pipe=pipe, **more), stock) > 1e-3
    assert torch.equal(run_call(name, pipe=pipe, **more), stock)


class Moved(AsynchronousScheduler):
    """Begins with a rung added to each token's."""

    by: Tensor

    def begin(self, grid: tuple[int, int], evaluations: int | None) -> None:
        super().begin(grid, evaluations)
        assert self.rungs is not None
        self.rungs = self.rungs + self.by


def evaluate(
    name: str, by: Tensor, prompts: tuple[str, ...] = PROMPTS, size: tuple[int, int] = (128, 192)
) -> Tensor:
    """The output at each token in the first evaluation, (copies, B, tokens, values), where tokens
    are moved.

    Text stands with the slowest, which are not moved: its own change would be everywhere.
    """
    pipe = build(name)
    method = Method(
        Quadratic(0.5), NoMask(), torch.full((len(prompts), 1), 0.5, dtype=torch.float64)
    )
    scheduler = Moved(pipe.scheduler, method, images=range(len(prompts)))
    scheduler.by = by
    session = Session(pipe, find_family(pipe), scheduler, text_level="slowest")
    with catch_first_call(find_denoiser(pipe)) as seen, session.open():
        run_call(name, prompts, height=size[0], width=size[1])
    (output,) = seen
    height, width = by.shape[1:]
    if output.ndim == 4:
        side = output.shape[-2] // height
        output = (
            output.unflatten(3, (width, side))
            .unflatten(2, (height, side))
            .permute(0, 2, 4, 1, 3, 5)
        )
    return output.reshape(-1, len(prompts), height * width, output[0].numel() // (height * width))


@pytest.mark.parametrize("shape", SHAPES)
def test_a_moved_token_moves_most(shape: str) -> None:
    """Of its own image, in all copies; others move by rounding alone, which Lumina's norms raise to
    1e-4."""
    name, size = shape.split()[0], SHAPES[shape]
    prompts = ("a dog", LONG) if name in ("lumina2", "zimage") else PROMPTS
    height, width = size[0] // 16, size[1] // 16
    still = evaluate(name, torch.zeros(2, height, width), prompts, size)
    for image, row, column in (
        (0, 0, 0),
        (1, 3, 5),
        (0, height - 1, width - 1),
        (1, 5, 0),
        (0, 0, width - 1),
    ):
        by = torch.zeros(2, height, width)
        by[image, row, column] = -1.7
        change = (evaluate(name, by, prompts, size) - still).norm(dim=-1)
        assert (change[:, image].argmax(-1) == row * width + column).all()
        assert change[:, 1 - image].amax() < 1e-3 * change.amax()


@pytest.mark.parametrize("name", NAMES)
def test_one_level_everywhere_is_a_scalar_timestep(name: str) -> None:
    """The pipeline alone, whose timesteps begin where all tokens are moved to."""
    pipe, (height, width) = build(name), PIPELINES[name].grid
    moved = evaluate(name, torch.full((2, height, width), -1.0))
    first: dict[str, Any] = {}
    levels: list[Tensor] = []
    family, network = find_family(pipe), find_denoiser(pipe)

    def swap(module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Of the first call the arguments, with the timestep of the second."""
        bound = inspect.signature(type(network).forward).bind(network, *args, **kwargs).arguments
        bound.pop("self")
        if not first:
            first.update(bound)
            return None
        if not torch.equal(bound[family.timestep], first[family.timestep]):
            levels.append(bound[family.timestep])
            raise Stop
        return None

    handle = network.register_forward_pre_hook(swap, with_kwargs=True)
    try:
        run_call(name)
    except Stop:
        pass
    finally:
        handle.remove()
    (timestep,) = levels
    with torch.no_grad():
        output = network(**{**first, family.timestep: timestep})[0]
    stock = torch.stack(list(output)).squeeze(2) if isinstance(output, list) else output
    assert stock.numel() == moved.numel()
    assert torch.equal(stock.flatten().sort().values, moved.flatten().sort().values)


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_the_same_in_company(name: str) -> None:
    pipe = build(name)
    with make_asynchronous(name, pipe, PROMPTS, SUBJECTS, eta=0.0):
        together = run_call(name)
    for i in range(2):
        with make_asynchronous(name, pipe, PROMPTS[i : i + 1], SUBJECTS[i], eta=0.0):
            alone = run_call(name, PROMPTS[i : i + 1], generator=[torch.Generator().manual_seed(i)])
        assert measure_distance(together[i], alone[0]) < 1e-4
    assert measure_distance(together, run_call(name)) > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_records_and_pictures_of_them(name: str) -> None:
    pipe, tiny, records = build(name), PIPELINES[name], list[StepRecord]()
    with make_asynchronous(name, pipe, PROMPTS, SUBJECTS, eta=0.0, callback=records.append):
        images = run_call(name, output_type="pil")
    assert [record.step for record in records] == [1, 2, 3, 4, 5]
    for record in records:
        assert record.timesteps.shape == (2, *tiny.grid)
        assert record.sample.shape == record.latents.shape
    height, width = records[0].timesteps.shape[-2:]
    grid = (height, width)
    for ours, theirs in zip(decode(pipe, records[-1].latents, grid), images, strict=True):
        assert ours.size == theirs.size == (tiny.size[1], tiny.size[0])
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1
    assert len(decode(pipe, records[1].sample, grid)) == 2
