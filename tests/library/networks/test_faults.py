"""What must never come out as another picture: threads, hooks that do not run, numbers that are
none, unclear tokens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import asyndm
from asyndm.errors import UserError
from asyndm.networks import find_denoiser
from asyndm.records import StepRecord
from asyndm.sampler import BrokenImages
from tests.library.networks.cases import (
    PROMPTS,
    SEEDS,
    SUBJECTS,
    build,
    make_call,
    measure_distance,
    sample_ours,
    sample_stock,
)
from tests.library.traces import find_traces
from tests.pipelines.registry import PIPELINES


def run_in_threads(*works: Any) -> list[Any]:
    """What each returned or raised."""
    results: list[Any] = [None] * len(works)

    def run(i: int) -> None:
        try:
            results[i] = works[i]()
        except Exception as error:
            results[i] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_threads_with_one_pipeline_take_turns(name: str) -> None:
    pipe = PIPELINES[name].build()

    def one(i: int) -> Any:
        return sample_ours(name, pipe, ["a red dog"], ["dog"], [i], num_inference_steps=3 + i)

    alone = [one(i) for i in range(3)]
    before = find_traces(find_denoiser(pipe))
    results = run_in_threads(*(partial(one, i) for i in range(3)))
    assert [result for result in results if isinstance(result, Exception)] == []
    assert all(map(torch.equal, results, alone))
    assert find_traces(find_denoiser(pipe)) == before


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_a_stock_call_in_another_thread_is_refused_while_the_pipeline_is_asynchronous(
    name: str,
) -> None:
    pipe = PIPELINES[name].build()
    expected, own = sample_stock(name, pipe), sample_ours(name, pipe, PROMPTS[:1], ["dog"], [3])
    before = find_traces(find_denoiser(pipe))
    errors: list[Any] = []

    def interfere(record: StepRecord) -> None:
        if record.step == 2:
            errors.extend(run_in_threads(lambda: sample_stock(name, pipe)))

    made = sample_ours(name, pipe, PROMPTS[:1], ["dog"], [3], callback=interfere)
    assert [type(error) for error in errors] == [UserError]
    assert "another thread" in str(errors[0])
    assert torch.equal(made, own)
    assert find_traces(find_denoiser(pipe)) == before
    assert torch.equal(sample_stock(name, pipe), expected)


@pytest.mark.parametrize("name", ["sd", "qwen"])
def test_a_pipeline_that_shares_the_network_waits_or_is_refused(name: str) -> None:
    """Another pipeline around the same network, as ``from_pipe`` makes it, has the stock
    scheduler."""
    pipe = PIPELINES[name].build()
    other = type(pipe)(
        **pipe.components, **({"requires_safety_checker": False} if name == "sd" else {})
    )
    other.set_progress_bar_config(disable=True)
    expected = sample_stock(name, other)
    with asyndm.asynchronous(pipe, "a dog", ["dog"]):
        pass
    errors: list[Any] = []

    def interfere(record: StepRecord) -> None:
        if record.step == 2:
            errors.extend(run_in_threads(lambda: sample_stock(name, other)))

    sample_ours(name, pipe, PROMPTS[:1], ["dog"], [3], callback=interfere)
    assert [type(error) for error in errors] == [UserError]
    assert torch.equal(sample_stock(name, other), expected)


def test_a_second_context_in_one_thread_is_refused() -> None:
    pipe = build("sd")
    with asyndm.asynchronous(pipe, "a dog", ["dog"]):
        with pytest.raises(UserError, match="asynchronous already"):
            sample_ours("sd")
    assert torch.isfinite(sample_ours("sd")).all()


@pytest.mark.parametrize("name", ["sd", "sd3", "flux"])
def test_a_network_whose_hooks_do_not_run_is_an_error(name: str) -> None:
    """As with a copy of a forward that something else has kept, or a network that was compiled
    unnoticed."""
    pipe = PIPELINES[name].build()
    network = find_denoiser(pipe)

    class Bypassing(type(network)):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return self.forward(*args, **kwargs)

    network.__class__ = Bypassing
    Bypassing.__name__ = type(network).__mro__[1].__name__
    with pytest.raises(UserError, match="without being told a timestep per pixel"):
        sample_ours(name, pipe)
    with pytest.raises(UserError, match="without being told a timestep per pixel"):
        sample_ours(name, pipe, subjects=None, mask=asyndm.NoMask())


@contextmanager
def break_decoder(pipe: Any, value: float, broken: int) -> Iterator[None]:
    """One of the batch's pictures, counted over the calls, comes out of the autoencoder as no
    numbers.

    That of Qwen-Image clamps what it decodes: infinity is its white there, and NaN alone gets
    through.
    """
    count = 0

    def spoil(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal count
        output = output.clone()
        for i in range(len(output)):
            if count == broken:
                output[i, 0, ..., 0, 0] = value
            count += 1
        return output

    handle = pipe.vae.decoder.register_forward_hook(spoil)
    try:
        yield
    finally:
        handle.remove()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("one_by_one", [False, True])
@pytest.mark.parametrize("name", ["sd", "sdxl", "flux", "sana", "qwen"])
def test_pictures_that_are_no_numbers_are_named_and_the_others_kept(
    name: str, one_by_one: bool, value: float
) -> None:
    if (name, value) == ("qwen", float("inf")):
        return
    pipe = build(name)
    call: dict[str, Any] = {
        "output_type": "pil",
        "batch_invariant": one_by_one,
        "num_inference_steps": 2,
    }
    whole = sample_ours(name, **call)
    with (
        break_decoder(pipe, value, broken=1),
        pytest.raises(BrokenImages, match="images 1 came out") as caught,
    ):
        sample_ours(name, **call)
    kept, lost = caught.value.images
    assert lost is None and isinstance(kept, Image.Image)
    assert np.abs(np.asarray(kept, int) - np.asarray(whole[0], int)).max() <= 1


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_broken_weights_name_every_picture(name: str) -> None:
    pipe = PIPELINES[name].build()
    pipe.vae.decoder.conv_out.bias.fill_(float("nan"))
    for output_type in ("pil", "np", "pt"):
        with pytest.raises(BrokenImages, match="images 0, 1 came out") as caught:
            sample_ours(name, pipe, output_type=output_type)
        assert caught.value.images == [None, None]
    assert torch.isfinite(sample_ours(name, pipe)).all()
    with pytest.raises(BrokenImages), asyndm.asynchronous(pipe, PROMPTS, SUBJECTS):
        pipe(prompt=list(PROMPTS), **make_call(name, pipe, PROMPTS, output_type="pil"))


def test_latents_that_overflow_are_broken_pictures() -> None:
    pipe = PIPELINES["sd"].build()
    pipe.unet.conv_out.bias.fill_(float("inf"))
    with pytest.raises(BrokenImages, match="images 0, 1"):
        sample_ours("sd", pipe, output_type="pil")


TOKENS = 8 * 12
"""Of the image, in the tiny pipelines of transformers."""


@pytest.mark.parametrize(
    ("name", "length"), [("flux", TOKENS), ("sd3", TOKENS - 77), ("chroma", TOKENS)]
)
def test_as_many_text_as_image_tokens_are_an_error_that_names_the_remedy(
    name: str, length: int
) -> None:
    sample_stock(name)
    before = find_traces(find_denoiser(build(name)))
    with pytest.raises(UserError, match="max_sequence_length"):
        sample_ours(name, max_sequence_length=length)
    assert find_traces(find_denoiser(build(name))) == before
    made = sample_ours(name, max_sequence_length=length - 1)
    assert measure_distance(made, sample_stock(name, max_sequence_length=length - 1)) > 0.01


def test_another_number_of_images_than_stated_is_an_error() -> None:
    pipe = build("flux")
    call = make_call("flux", pipe, PROMPTS[:1])
    with pytest.raises(UserError, match="num_images_per_prompt"):
        with asyndm.asynchronous(pipe, PROMPTS[:1], ["dog"]):
            pipe(prompt=PROMPTS[:1], num_images_per_prompt=2, **call)


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux", "qwen", "pixart", "sana"])
def test_calling_the_pipeline_in_the_context_is_what_sample_makes(name: str) -> None:
    pipe = build(name)
    call = make_call(name, pipe, PROMPTS)
    arguments = {key: value for key, value in call.items() if key == "max_sequence_length"}
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    with asyndm.asynchronous(pipe, list(PROMPTS), SUBJECTS, eta=0.0, **arguments):
        made = pipe(prompt=list(PROMPTS), generator=generators, **call).images
    assert torch.equal(made, sample_ours(name))
