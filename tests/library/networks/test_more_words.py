"""Token positions of FLUX.2, Chroma, AuraFlow, CogView4, Lumina 2, Z-Image, HiDream, Hunyuan-DiT:
those of the words that their encoders read."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from asyndm.attention import Reading
from asyndm.errors import UserError
from asyndm.networks import find_denoiser, find_family
from asyndm.subjects import Subject
from tests.library.networks.cases import build
from tests.library.networks.more_cases import (
    NAMES,
    PROMPTS,
    SUBJECTS,
    catch_first_call,
    make_asynchronous,
    run_call,
)
from tests.pipelines.registry import PIPELINES


def encode(name: str, prompt: str) -> list[list[int]]:
    """The token ids that each text encoder receives for a prompt."""
    pipe, seen = build(name), dict[str, list[int]]()
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
    with catch_first_call(find_denoiser(pipe)):
        run_call(name, (prompt,))
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
    pipe, tiny = build(name), PIPELINES[name]
    texts = encode(name, prompt)
    wanted = [Subject.parse(each) for each in subjects]
    found = find_family(pipe).positions(pipe, prompt, wanted, Reading(), tiny.arguments)
    for subject, tokens in zip(wanted, found, strict=True):
        for words in spell(name, texts, tokens):
            assert words.strip() == subject.text
    if name != "cogview4":
        assert len({token for tokens in found for token in tokens}) == sum(map(len, found))


def spell(name: str, texts: list[list[int]], tokens: list[int]) -> list[str]:
    """The words at these positions, in each text of which they are."""
    pipe = build(name)
    if name == "hidream":
        length = 40
        parts = [[t - i * length for t in tokens if t // length == i] for i in range(3)]
        ids = [texts[2], texts[3], texts[3]]
        return [
            read_words(tokenizer, each, places)
            for tokenizer, each, places in zip(
                (pipe.tokenizer_3, pipe.tokenizer_4, pipe.tokenizer_4), ids, parts, strict=True
            )
        ]
    if name == "hunyuandit":
        second = [t - 77 for t in tokens if t >= 77]
        return [
            read_words(pipe.tokenizer, texts[0], [t for t in tokens if t < 77]),
            read_words(pipe.tokenizer_2, texts[1], second),
        ]
    return [
        read_words(
            pipe.tokenizer, texts[0], [t - 8 for t in tokens] if name == "auraflow" else tokens
        )
    ]


def read_words(tokenizer: Any, ids: list[int], places: list[int]) -> str:
    return str(tokenizer.decode([ids[place] for place in places]))


@pytest.mark.parametrize("name", NAMES)
def test_words_beyond_reach_are_refused(name: str) -> None:
    pipe, tiny = build(name), PIPELINES[name]
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
    pipe = build("hunyuandit")
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
    from tests.pipelines.shared import draw_picture

    pipe = build("flux2")
    with pytest.raises(UserError, match="rewritten"):
        find_family(pipe).positions(
            pipe, "a dog", [Subject("dog")], Reading(), {"caption_upsample_temperature": 0.1}
        )
    with (
        pytest.raises(UserError, match="to go by"),
        make_asynchronous("flux2", pipe, PROMPTS, SUBJECTS),
    ):
        run_call("flux2", image=[draw_picture()])
