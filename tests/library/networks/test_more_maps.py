"""Attention maps of FLUX.2, Chroma, AuraFlow, CogView4, Lumina 2, Z-Image, HiDream and Hunyuan-DiT
against the softmax written out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from asyndm.attention import Reading
from asyndm.curves import Quadratic
from asyndm.masks import NoMask
from asyndm.method import Method
from asyndm.networks import find_denoiser, find_family
from asyndm.records import StepRecord
from asyndm.scheduler import AsynchronousScheduler
from asyndm.session import Session
from asyndm.subjects import Subject
from tests.library.networks.cases import build
from tests.library.networks.more_cases import (
    SHAPES,
    catch_first_call,
    run_call,
)
from tests.pipelines.registry import PIPELINES


class Recorder(TorchFunctionMode):
    """What the layers hand to the attention kernel."""

    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor, Tensor | None, float | None]] = []
        self.inside = False
        self.layers = layers

    @contextmanager
    def watching(self) -> Iterator[None]:
        def enter(module: nn.Module, args: Any) -> None:
            self.inside = True

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            self.inside = False

        handles = [layer.register_forward_pre_hook(enter) for layer in self.layers]
        handles += [layer.register_forward_hook(leave) for layer in self.layers]
        with self:
            yield
        for handle in handles:
            handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.inside and func is F.scaled_dot_product_attention:
            named = dict(zip(("query", "key", "value", "attn_mask"), args, strict=False)) | kwargs
            mask = named.get("attn_mask")
            self.calls.append((named["query"], named["key"], mask, named.get("scale")))
        return func(*args, **kwargs)


def compute_explicitly(
    pipe: Any,
    calls: list[Any],
    tokens: list[list[list[int]]],
    lengths: list[int],
    keys: str,
    n: int,
) -> Tensor:
    """(B, S, tokens): softmax of the layers' own q and k in full, then the subjects' columns of the
    image's rows."""
    family = find_family(pipe)
    maps = torch.zeros(len(tokens), max(map(len, tokens)), n)
    first = family.conditional(len(calls[0][0]) // len(tokens), pipe) * len(tokens)
    for query, key, mask, scale in calls:
        scores = (
            query.double() @ key.double().mT * (query.shape[-1] ** -0.5 if scale is None else scale)
        )
        if mask is not None:
            scores = (
                scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
            )
        for image, subjects in enumerate(tokens):
            own, total = scores[first + image], key.shape[2]
            length = lengths[first + image] if lengths else total
            begin = total - max(lengths) if family.text_first is False else 0
            if lengths:
                own = own[:, length : length + n] if family.text_first else own[:, :n]
            if keys == "text":
                columns = torch.arange(total)
                own = own.masked_fill((columns < begin) | (columns >= begin + length), -torch.inf)
            share = own.softmax(-1)
            for i, places in enumerate(subjects):
                at = [begin + place % length for place in places]
                maps[image, i] += share[:, :, at].mean((0, 2)) / len(calls)
    return maps


def measure_texts(pipe: Any, run: Callable[[], Any]) -> list[int]:
    """Of each sequence of the network's first batch, as the pipeline's masks and lists have
    them."""
    family, network, lengths = find_family(pipe), find_denoiser(pipe), list[int]()

    def measure(module: nn.Module, args: Any, kwargs: Any) -> None:
        arguments = (
            inspect.signature(type(network).forward).bind(network, *args, **kwargs).arguments
        )
        if family.text_first is not None and not lengths:
            length = family.text_length(arguments)
            lengths.extend(
                [length] * family.batch(arguments) if isinstance(length, int) else length
            )

    handle = network.register_forward_pre_hook(measure, with_kwargs=True)
    with catch_first_call(network):
        run()
    handle.remove()
    return lengths


def run_synchronously(
    pipe: Any, reader: Any, records: list[StepRecord]
) -> AbstractContextManager[None]:
    """DM of two images whose attention is read."""
    method = Method(Quadratic(0.5), NoMask(), torch.full((2, 1), 0.5, dtype=torch.float64))
    scheduler = AsynchronousScheduler(
        pipe.scheduler, method, eta=0.0, callback=records.append, images=range(2)
    )
    return Session(pipe, find_family(pipe), scheduler, reader).open()


@pytest.mark.parametrize("keys", ["joint", "text"])
@pytest.mark.parametrize("shape", SHAPES)
def test_maps_are_the_softmax_in_full(shape: str, keys: str) -> None:
    name, (height, width) = shape.split()[0], SHAPES[shape]
    pipe, tiny = build(name), PIPELINES[name]
    family = find_family(pipe)
    prompts = ("a rabbit", "the red dog and the cat in the blue house and a dog on the house")
    subjects = [[Subject("rabbit")], [Subject("red dog"), Subject("cat")]]
    reading = Reading(keys=keys)
    tokens = [
        family.positions(pipe, prompt, said, reading, tiny.arguments)
        for prompt, said in zip(prompts, subjects, strict=True)
    ]

    def run() -> Any:
        return run_call(name, prompts, height=height, width=width)

    lengths = measure_texts(pipe, run)
    reader = family.attention(find_denoiser(pipe), tokens, reading)
    recorder, records = Recorder(reader.layers), list[StepRecord]()
    with catch_first_call(find_denoiser(pipe)), recorder.watching():
        run()
    stock = run()
    with run_synchronously(pipe, None, []):
        alone = run()
    with run_synchronously(pipe, reader, records):
        assert torch.equal(run(), alone)  # reading moves nothing
    # η is the pipeline's to say, and there by default 1
    assert torch.equal(alone, stock) or name == "hunyuandit"
    maps = records[0].maps
    assert maps is not None and maps.shape == (2, 2, height // 16, width // 16)
    own = compute_explicitly(pipe, recorder.calls, tokens, lengths, keys, height * width // 256)
    torch.testing.assert_close(maps.flatten(2), own, rtol=1e-3, atol=1e-6)
    assert (maps[0, 1] == 0).all() and maps[0, 0].std() > 0
