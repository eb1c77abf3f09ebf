"""Token positions against the ids that the text encoders really received."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor

from asyndm.attention import Reading
from asyndm.errors import UserError
from asyndm.networks import find_denoiser, find_family, list_families
from asyndm.subjects import as_subject
from tests.library.networks.cases import build, make_call, sample_dm, sample_ours

PROMPT = "a Dog and a rabbit, the dog"
SUBJECTS = ["dog", "rabbit", "a rabbit", "dog#2"]

Sequence = list[int]


def catch_first_rows(name: str, **changes: Any) -> dict[str, Sequence]:
    """What each text encoder was given for the first prompt: the ids of its first call, without
    trailing batch."""
    pipe, seen = build(name), dict[str, Sequence]()
    handles = []
    for part in ("text_encoder", "text_encoder_2", "text_encoder_3", "text_encoder_4"):
        encoder = getattr(pipe, part, None)
        if encoder is None:
            continue

        def keep(module: Any, args: Any, kwargs: Any, part: str = part) -> None:
            ids: Tensor = args[0] if args else kwargs["input_ids"]
            seen.setdefault(part, ids[0].tolist())

        handles.append(encoder.register_forward_pre_hook(keep, with_kwargs=True))
    try:
        sample_dm(name, prompts=[PROMPT], seeds=[0], num_inference_steps=2, **changes)
    finally:
        for handle in handles:
            handle.remove()
    return seen


Seen = list[tuple[Any, int]]
"""The tokenizer and id of each token that the network attends to."""


def find_tokens(pipe: Any, tokenizer: str, ids: Sequence) -> Seen:
    return [(getattr(pipe, tokenizer), number) for number in ids]


def clip(pipe: Any, rows: dict[str, Sequence]) -> Seen:
    if "text_encoder_2" in rows:  # the same places, whose channels lie beside those of the first
        kept = [int(number) for number in rows["text_encoder"]]
        words = pipe.tokenizer.decode(kept, skip_special_tokens=True)
        other = pipe.tokenizer_2.decode(rows["text_encoder_2"], skip_special_tokens=True)
        assert other.rstrip("# ") == words.strip()
    return find_tokens(pipe, "tokenizer", rows["text_encoder"])


def clip_and_t5(pipe: Any, rows: dict[str, Sequence]) -> Seen:
    return clip(pipe, rows) + find_tokens(pipe, "tokenizer_3", rows["text_encoder_3"])


def t5_beside_clip(pipe: Any, rows: dict[str, Sequence]) -> Seen:
    return find_tokens(pipe, "tokenizer_2", rows["text_encoder_2"])


def only(pipe: Any, rows: dict[str, Sequence]) -> Seen:
    return find_tokens(pipe, "tokenizer", rows["text_encoder"])


def sana(pipe: Any, rows: dict[str, Sequence]) -> Seen:
    """The first token and the last 23 of what Gemma read."""
    ids = rows["text_encoder"]
    return find_tokens(pipe, "tokenizer", [ids[0], *ids[-23:]])


def qwen(pipe: Any, rows: dict[str, Sequence]) -> Seen:
    return find_tokens(pipe, "tokenizer", rows["text_encoder"][34:])


def auraflow(pipe: Any, rows: dict[str, Sequence]) -> Seen:
    return [(pipe.tokenizer, -1)] * 8 + only(pipe, rows)


def hidream(pipe: Any, rows: dict[str, Sequence]) -> Seen:
    llama = find_tokens(pipe, "tokenizer_4", rows["text_encoder_4"])
    return find_tokens(pipe, "tokenizer_3", rows["text_encoder_3"]) + llama + llama


def hunyuandit(pipe: Any, rows: dict[str, Sequence]) -> Seen:
    return only(pipe, rows) + t5_beside_clip(pipe, rows)


CASES: dict[str, Callable[[Any, dict[str, Sequence]], Seen]] = {
    "sd": clip,
    "sdxl": clip,
    "sd3": clip_and_t5,
    "sd35": clip_and_t5,
    "sd3_clips": clip,
    "flux": t5_beside_clip,
    "flux_schnell": t5_beside_clip,
    "pixart": only,
    "pixart_alpha": only,
    "sana": sana,
    "qwen": qwen,
    "chroma": only,
    "auraflow": auraflow,
    "cogview4": only,  # padded on the left, and counted from its end
    "lumina2": only,
    "zimage": only,
    "hidream": hidream,
    "hunyuandit": hunyuandit,
    "flux2": only,
    "flux2_klein": only,
}
TIMES = {"sd3": 2, "sd35": 2, "hidream": 3, "hunyuandit": 2}
"""In how many texts, one behind the other, the network is told a prompt."""


def positions(name: str, prompt: str, subjects: list[str], **arguments: Any) -> list[list[int]]:
    pipe = build(name)
    call = make_call(name, pipe, [prompt], **arguments)
    said = [as_subject(word) for word in subjects]
    return find_family(pipe).positions(pipe, prompt, said, Reading(), call)


def spell(seen: Seen, places: list[int]) -> str:
    pieces = [
        tokenizer.convert_ids_to_tokens(number) for tokenizer, number in (seen[p] for p in places)
    ]
    return "".join(pieces).translate(dict.fromkeys(map(ord, "▁Ġ#"))).replace("</w>", "").lower()


@pytest.mark.parametrize("name", CASES)
def test_the_encoder_reads_the_subject_where_it_is_said_to_be(name: str) -> None:
    seen = CASES[name](build(name), catch_first_rows(name))
    found = positions(name, PROMPT, SUBJECTS)
    times = TIMES.get(name, 1)
    for word, places in zip(("dog", "rabbit", "arabbit", "dog"), found, strict=True):
        assert spell(seen, places) == word * times
        assert len(set(places)) == len(places)
    assert len(found[1]) > times
    assert found[3][-1] > found[0][-1]


@pytest.mark.parametrize("name", CASES)
def test_a_subject_beyond_what_the_encoder_reads_is_refused_before_it_runs(name: str) -> None:
    pipe, ran = build(name), list[Any]()
    handle = find_denoiser(pipe).register_forward_pre_hook(lambda module, args: ran.append(args))
    long = "a red dog " + "and a red house " * 400 + "and a cat"
    try:
        with pytest.raises(UserError, match="'cat' lies beyond"):
            sample_ours(name, prompts=[long], subjects=["cat"], seeds=[0])
        assert not ran
        assert positions(name, long, ["dog"])[0]
    finally:
        handle.remove()


def test_every_family_says_where_words_are_and_finds_them() -> None:
    missing = {type(family) for family in list_families()} - {
        type(find_family(build(name))) for name in CASES
    }
    assert not missing


def test_the_text_of_sd3_may_be_cut_off_for_clip_and_read_by_t5() -> None:
    prompt = "a " + "the house and " * 8 + "dog"
    (place,) = positions("sd3", prompt, ["dog"], max_sequence_length=40)
    assert len(place) == 1 and place[0] >= 77
    pipe = build("sd3")
    assert (
        spell(find_tokens(pipe, "tokenizer_3", pipe.tokenizer_3(prompt).input_ids), [place[0] - 77])
        == "dog"
    )


def test_another_text_for_t5_is_where_its_words_are_looked_for() -> None:
    (same,), (other,) = (
        positions("flux", "the dog", ["dog"], **more)
        for more in ({}, {"prompt_2": "a red blue dog"})
    )
    assert (same, other) == ([1], [3])


def test_without_an_instruction_sana_reads_the_prompt_alone() -> None:
    changes = {"complex_human_instruction": None}
    ids = catch_first_rows("sana", **changes)["text_encoder"]
    (place,) = positions("sana", PROMPT, ["dog#2"], **changes)
    assert inspect.signature(build("sana").__call__).parameters["complex_human_instruction"].default
    assert spell(find_tokens(build("sana"), "tokenizer", ids), place) == "dog"
