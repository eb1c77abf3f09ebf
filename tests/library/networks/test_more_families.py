"""FLUX.2, Chroma, AuraFlow, CogView4, Lumina 2, Z-Image, HiDream and Hunyuan-DiT on their tiny
pipelines."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import asyndm
from asyndm.attention import Reading
from asyndm.curves import Quadratic
from asyndm.errors import UserError
from asyndm.levels import time_rows
from asyndm.masks import NoMask
from asyndm.networks import denoiser, find_family
from asyndm.previews import decode
from asyndm.scheduler import AsynchronousScheduler, Method, StepRecord
from asyndm.session import Session
from asyndm.subjects import Subject
from tests.pipelines.registry import PIPELINES

NAMES = (
    *("flux2", "flux2_klein", "chroma", "auraflow", "cogview4", "lumina2", "zimage", "hidream"),
    "hunyuandit",
)
RELATED = {
    "ChromaImg2ImgPipeline": "chroma",
    "ZImageImg2ImgPipeline": "zimage",
    "ZImageInpaintPipeline": "zimage",
}
PROMPTS = ("a rabbit on the carpet", "the red dog and a cat")
SUBJECTS = (("rabbit",), ("red dog", "cat"))
LONG = "a red house and a blue house and a dog in the red carpet and a rabbit"
SHAPES = {
    **dict.fromkeys(NAMES, (128, 192)),
    "zimage padded": (128, 160),
    "hidream square": (160, 160),
}
"""Pictures by their size, of which some need tokens that are no places of theirs."""


@cache
def built(name: str) -> Any:
    return PIPELINES[name].build()


def call(name: str, prompts: tuple[str, ...] = PROMPTS, pipe: Any = None, **changes: Any) -> Any:
    """The pipeline's latents; its prompts are a fresh list, as Z-Image writes into the one it is
    given."""
    tiny = PIPELINES[name]
    generators = [torch.Generator().manual_seed(i) for i in range(len(prompts))]
    return tiny.run(
        built(name) if pipe is None else pipe,
        list(prompts),
        **{"generator": generators, "output_type": "latent", **changes},
    )


def inside(
    name: str, pipe: Any, prompts: tuple[str, ...], subjects: Any = None, **settings: Any
) -> AbstractContextManager[None]:
    """The pipeline is asynchronous; how it reads a prompt is stated as its call does."""
    return asyndm.asynchronous(
        pipe, list(prompts), subjects, **PIPELINES[name].arguments, **settings
    )


def distance(ours: Tensor, other: Tensor) -> float:
    return float((ours - other).abs().max() / other.abs().max())


class Stop(Exception):
    pass


@contextmanager
def first_call(network: nn.Module, end: bool = True) -> Iterator[list[Tensor]]:
    """The network's output at its first evaluation, after which the pipeline is left."""
    seen: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        made = output[0] if isinstance(output, tuple) else output.sample
        seen.append(torch.stack(list(made)).squeeze(2) if isinstance(made, list) else made)
        if end:
            raise Stop

    handle = network.register_forward_hook(keep)
    try:
        yield seen
    except Stop:
        pass
    finally:
        handle.remove()


@pytest.mark.parametrize("name", NAMES)
def test_dm_is_the_stock_pipeline(name: str) -> None:
    pipe = built(name)
    stock = call(name, eta=0.0) if name == "hunyuandit" else call(name)
    with inside(name, pipe, PROMPTS, mask=NoMask(), eta=0.0):
        assert torch.equal(call(name), stock)
    again = call(name, eta=0.0) if name == "hunyuandit" else call(name)
    assert torch.equal(again, stock)


@pytest.mark.parametrize("kind", RELATED)
def test_dm_is_the_stock_pipeline_of_other_pictures(kind: str) -> None:
    from tests.pipelines.shared import picture, right_half

    name = RELATED[kind]
    pipe = getattr(diffusers, kind)(**built(name).components)
    pipe.set_progress_bar_config(disable=True)
    more: dict[str, Any] = {"image": [picture(seed=1), picture(seed=2)], "strength": 0.6}
    if "Inpaint" in kind:
        more["mask_image"] = [right_half()] * 2
    stock = call(name, pipe=pipe, **more)
    with inside(name, pipe, PROMPTS, mask=NoMask()):
        assert torch.equal(call(name, pipe=pipe, **more), stock)
    with inside(name, pipe, PROMPTS, SUBJECTS):
        assert distance(call(name, pipe=pipe, **more), stock) > 1e-3
    assert torch.equal(call(name, pipe=pipe, **more), stock)


class Moved(AsynchronousScheduler):
    """Begins with a rung added to each token's."""

    by: Tensor

    def begin(self, grid: tuple[int, int], evaluations: int | None) -> None:
        super().begin(grid, evaluations)
        assert self.rungs is not None
        self.rungs = self.rungs + self.by


def evaluated(
    name: str, by: Tensor, prompts: tuple[str, ...] = PROMPTS, size: tuple[int, int] = (128, 192)
) -> Tensor:
    """The output at each token in the first evaluation, (copies, B, tokens, values), where tokens
    are moved.

    Text stands with the slowest, which are not moved: its own change would be everywhere.
    """
    pipe = built(name)
    method = Method(
        Quadratic(0.5), NoMask(), torch.full((len(prompts), 1), 0.5, dtype=torch.float64)
    )
    scheduler = Moved(pipe.scheduler, method, images=range(len(prompts)))
    scheduler.by = by
    session = Session(pipe, find_family(pipe), scheduler, text_level="slowest")
    with first_call(denoiser(pipe)) as seen, session.open():
        call(name, prompts, height=size[0], width=size[1])
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
    still = evaluated(name, torch.zeros(2, height, width), prompts, size)
    for image, row, column in (
        (0, 0, 0),
        (1, 3, 5),
        (0, height - 1, width - 1),
        (1, 5, 0),
        (0, 0, width - 1),
    ):
        by = torch.zeros(2, height, width)
        by[image, row, column] = -1.7
        change = (evaluated(name, by, prompts, size) - still).norm(dim=-1)
        assert (change[:, image].argmax(-1) == row * width + column).all()
        assert change[:, 1 - image].amax() < 1e-3 * change.amax()


@pytest.mark.parametrize("name", NAMES)
def test_one_level_everywhere_is_a_scalar_timestep(name: str) -> None:
    """The pipeline alone, whose timesteps begin where all tokens are moved to."""
    pipe, (height, width) = built(name), PIPELINES[name].grid
    moved = evaluated(name, torch.full((2, height, width), -1.0))
    told: list[Tensor] = []
    family, network = find_family(pipe), denoiser(pipe)

    def swap(module: nn.Module, args: Any, kwargs: Any) -> Any:
        """Of the first call the arguments, with the timestep of the second."""
        bound = inspect.signature(type(network).forward).bind(network, *args, **kwargs).arguments
        bound.pop("self")
        if not told:
            told.append(bound)
            return None
        if len(told) == 1 and not torch.equal(bound[family.timestep], told[0][family.timestep]):
            told.append(bound[family.timestep])
            raise Stop
        return None

    handle = network.register_forward_pre_hook(swap, with_kwargs=True)
    try:
        call(name)
    except Stop:
        pass
    finally:
        handle.remove()
    first, timestep = told
    with torch.no_grad():
        output = network(**{**first, family.timestep: timestep})[0]
    stock = torch.stack(list(output)).squeeze(2) if isinstance(output, list) else output
    assert stock.numel() == moved.numel()
    assert torch.equal(stock.flatten().sort().values, moved.flatten().sort().values)


def encoded(name: str, prompt: str) -> list[list[int]]:
    """The token ids that each text encoder receives for a prompt."""
    pipe, seen = built(name), dict[str, list[int]]()
    handles = []
    for part in ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4"):
        if (encoder := getattr(pipe, part, None)) is None:
            continue

        def keep(module: nn.Module, args: Any, kwargs: Any, part: str = part) -> None:
            ids = kwargs["input_ids"] if "input_ids" in kwargs else args[0]
            if part not in seen:
                mask = kwargs.get("attention_mask")
                row = ids[0] if name != "zimage" else ids[0][mask[0].bool()]
                seen[part] = row.tolist()

        handles.append(encoder.register_forward_pre_hook(keep, with_kwargs=True))
    with first_call(denoiser(pipe)):
        call(name, (prompt,))
    for handle in handles:
        handle.remove()
    return [seen[part] for part in sorted(seen)]


@pytest.mark.parametrize(
    ("prompt", "subjects"),
    [
        ("a rabbit and a red dog", ("rabbit", "red dog")),
        ("the cat and the cat on the carpet", ("cat#2", "carpet")),
        ("a dog", ("dog",)),
    ],
)
@pytest.mark.parametrize("name", NAMES)
def test_positions_are_those_of_the_words_the_encoder_reads(
    name: str, prompt: str, subjects: tuple[str, ...]
) -> None:
    pipe, tiny = built(name), PIPELINES[name]
    texts = encoded(name, prompt)
    wanted = [Subject.parse(each) for each in subjects]
    found = find_family(pipe).positions(pipe, prompt, wanted, Reading(), tiny.arguments)
    for subject, tokens in zip(wanted, found, strict=True):
        for words in spelled(name, texts, tokens):
            assert words.strip() == subject.text
    if name != "cogview4":
        assert len({token for tokens in found for token in tokens}) == sum(map(len, found))


def spelled(name: str, texts: list[list[int]], tokens: list[int]) -> list[str]:
    """The words at these positions, in each text of which they are."""
    pipe = built(name)
    if name == "hidream":
        length = 40
        parts = [[t - i * length for t in tokens if t // length == i] for i in range(3)]
        ids = [texts[2], texts[3], texts[3]]
        return [
            words(tokenizer, each, places)
            for tokenizer, each, places in zip(
                (pipe.tokenizer_3, pipe.tokenizer_4, pipe.tokenizer_4), ids, parts, strict=True
            )
        ]
    if name == "hunyuandit":
        second = [t - 77 for t in tokens if t >= 77]
        return [
            words(pipe.tokenizer, texts[0], [t for t in tokens if t < 77]),
            words(pipe.tokenizer_2, texts[1], second),
        ]
    return [
        words(pipe.tokenizer, texts[0], [t - 8 for t in tokens] if name == "auraflow" else tokens)
    ]


def words(tokenizer: Any, ids: list[int], places: list[int]) -> str:
    return str(tokenizer.decode([ids[place] for place in places]))


@pytest.mark.parametrize("name", NAMES)
def test_words_beyond_reach_are_refused(name: str) -> None:
    pipe, tiny = built(name), PIPELINES[name]
    prompt = "a dog " + "and a red house " * 90 + "and a cat"
    arguments = {
        **tiny.arguments,
        "max_sequence_length": {"flux2": 120, "lumina2": 256}.get(name, 60),
    }
    place = find_family(pipe).positions
    assert place(pipe, prompt, [Subject("dog")], Reading(), arguments)[0]
    with pytest.raises(UserError, match="beyond"):
        place(pipe, prompt, [Subject("cat")], Reading(), arguments)


def test_a_word_that_one_of_two_encoders_reads() -> None:
    pipe = built("hunyuandit")
    prompt = "a " + "red " * 100 + "dog"
    (tokens,) = find_family(pipe).positions(pipe, prompt, [Subject("dog")], Reading(), {})
    assert tokens == [77 + 101]
    both = find_family(pipe).positions(pipe, "a dog", [Subject("dog")], Reading(), {})
    for part, wanted in (("clip", [2]), ("t5", [78])):
        (tokens,) = find_family(pipe).positions(
            pipe, "a dog", [Subject("dog")], Reading(text=part), {}
        )
        assert tokens == wanted and set(tokens) < set(both[0])


def test_what_changes_prompt_or_tokens_of_flux2_is_refused() -> None:
    from tests.pipelines.shared import picture

    pipe = built("flux2")
    with pytest.raises(UserError, match="rewritten"):
        find_family(pipe).positions(
            pipe, "a dog", [Subject("dog")], Reading(), {"caption_upsample_temperature": 0.1}
        )
    with pytest.raises(UserError, match="to go by"), inside("flux2", pipe, PROMPTS, SUBJECTS):
        call("flux2", image=[picture()])


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


def explicit(
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


def text_lengths(pipe: Any, run: Callable[[], Any]) -> list[int]:
    """Of each sequence of the network's first batch, as the pipeline's masks and lists have
    them."""
    family, network, lengths = find_family(pipe), denoiser(pipe), list[int]()

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
    with first_call(network):
        run()
    handle.remove()
    return lengths


def synchronous(pipe: Any, reader: Any, records: list[StepRecord]) -> AbstractContextManager[None]:
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
    pipe, tiny = built(name), PIPELINES[name]
    family = find_family(pipe)
    prompts = ("a rabbit", "the red dog and the cat in the blue house and a dog on the house")
    subjects = [[Subject("rabbit")], [Subject("red dog"), Subject("cat")]]
    reading = Reading(keys=keys)
    tokens = [
        family.positions(pipe, prompt, said, reading, tiny.arguments)
        for prompt, said in zip(prompts, subjects, strict=True)
    ]

    def run() -> Tensor:
        return call(name, prompts, height=height, width=width)

    lengths = text_lengths(pipe, run)
    reader = family.attention(denoiser(pipe), tokens, reading)
    recorder, records = Recorder(reader.layers), list[StepRecord]()
    with first_call(denoiser(pipe)), recorder.watching():
        run()
    stock = run()
    with synchronous(pipe, None, []):
        alone = run()
    with synchronous(pipe, reader, records):
        assert torch.equal(run(), alone)  # reading moves nothing
    assert (
        torch.equal(alone, stock) or name == "hunyuandit"
    )  # η is the pipeline's to say, and there by default 1
    maps = records[0].maps
    assert maps is not None and maps.shape == (2, 2, height // 16, width // 16)
    own = explicit(pipe, recorder.calls, tokens, lengths, keys, height * width // 256)
    torch.testing.assert_close(maps.flatten(2), own, rtol=1e-3, atol=1e-6)
    assert (maps[0, 1] == 0).all() and maps[0, 0].std() > 0


@pytest.mark.parametrize("name", NAMES)
def test_an_image_is_the_same_in_company(name: str) -> None:
    pipe = built(name)
    with inside(name, pipe, PROMPTS, SUBJECTS, eta=0.0):
        together = call(name)
    for i in range(2):
        with inside(name, pipe, PROMPTS[i : i + 1], SUBJECTS[i], eta=0.0):
            alone = call(name, PROMPTS[i : i + 1], generator=[torch.Generator().manual_seed(i)])
        assert distance(together[i], alone[0]) < 1e-4
    assert distance(together, call(name)) > 1e-2


@pytest.mark.parametrize("name", NAMES)
def test_records_and_pictures_of_them(name: str) -> None:
    pipe, tiny, records = built(name), PIPELINES[name], list[StepRecord]()
    with inside(name, pipe, PROMPTS, SUBJECTS, eta=0.0, callback=records.append):
        images = call(name, output_type="pil")
    assert [record.step for record in records] == [1, 2, 3, 4, 5]
    for record in records:
        assert record.timesteps.shape == (2, *tiny.grid)
        assert record.sample.shape == record.latents.shape
    grid = tuple(records[0].timesteps.shape[-2:])
    for ours, theirs in zip(decode(pipe, records[-1].latents, grid), images, strict=True):
        assert ours.size == theirs.size == (tiny.size[1], tiny.size[0])
        assert np.abs(np.asarray(ours).astype(int) - np.asarray(theirs)).max() <= 1
    assert len(decode(pipe, records[1].sample, grid)) == 2


@pytest.mark.parametrize("lengths", [3, [3, 1], [1, 3]])
@pytest.mark.parametrize(("text_first", "padding"), [(True, 0), (False, 0), (False, 2)])
def test_rows_of_texts_of_their_own_length(lengths: Any, text_first: bool, padding: int) -> None:
    timesteps = torch.arange(10, dtype=torch.float64).view(2, 1, 5)
    text = torch.tensor([50.0, 60.0], dtype=torch.float64)
    made: Any = time_rows(
        timesteps,
        Tensor.float,
        network="It",
        text=text,
        text_length=lengths,
        text_first=text_first,
        padding=padding,
    )
    values = made.as_subclass(Tensor)
    for image, length in enumerate([lengths] * 2 if isinstance(lengths, int) else lengths):
        row = values[made.places.rows[(8 + padding,)][image]].tolist()
        begin = length if text_first else 0
        assert row[begin : begin + 5] == timesteps[image, 0].tolist()
        assert set(row[:begin] + row[begin + 5 :]) == {text[image].item()}
        alone = values[made.places.rows[(5 + padding,)][image]].tolist()
        assert alone == timesteps[image, 0].tolist() + [text[image].item()] * padding
        assert values[made.places.rows[(3,)][image]].tolist() == [text[image].item()] * 3
