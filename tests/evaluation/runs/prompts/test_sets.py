"""What prompt sets hold."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from asyndm.errors import UserError
from asyndm.subjects import Subject, find_span
from evaluation.runs.prompts.sets import (
    AnimalActivity,
    Prompt,
    PromptSet,
    ReferencePrompts,
    ShapesPrompts,
)
from tests.evaluation.runs.prompts.lists import write


def test_a_prompt_survives_json() -> None:
    prompt = Prompt("p.1", "a dog and a dog", (Subject("dog", 0.25, 2),), "pair", ("a dog",))
    assert Prompt.from_dict(json.loads(json.dumps(asdict(prompt)))) == prompt


@pytest.mark.parametrize("prompt_id", ["", "../up", "a b", "-a", "ä", "x" * 81])
def test_an_id_that_cannot_name_a_file_is_refused(prompt_id: str) -> None:
    with pytest.raises(UserError, match="id "):
        Prompt(prompt_id, "a cat")


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("bird", "'bird' is not in"),
        ("do", "'do' is not in"),
        ("dog#3", "2 time"),
        ("a  cat", "not in"),
    ],
)
def test_a_subject_that_is_not_in_the_prompt_is_refused(subject: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Prompt("p", "A Dog and a dog", (Subject.parse(subject),))


def test_a_subject_is_found_in_any_case_and_as_a_phrase() -> None:
    Prompt("p", "A Red Car, a dog.", (Subject("red car"), Subject("Dog")))


def test_animal_activity_pairs_every_animal_with_every_activity() -> None:
    prompts = AnimalActivity(["dog", "ape"], {"riding a bike": "bike", "singing": "singing"}).load()
    assert {p.text: p.phrases for p in prompts} == {
        "a dog riding a bike": ("a dog", "a bike"),
        "an ape riding a bike": ("an ape", "a bike"),
        "a dog singing": ("a dog", "singing"),
        "an ape singing": ("an ape", "singing"),
    }
    found = {prompt.text: [subject.text for subject in prompt.subjects] for prompt in prompts}
    assert found == {
        "a dog riding a bike": ["dog", "bike"],
        "a dog singing": ["dog", "singing"],
        "an ape riding a bike": ["ape", "bike"],
        "an ape singing": ["ape", "singing"],
    }
    with pytest.raises(UserError, match="'car' is not in"):
        AnimalActivity(["dog"], {"riding a bike": "car"}).load()


@pytest.mark.parametrize(
    ("repeated", "message"),
    [
        (ShapesPrompts(kinds=["one", "one"]), "kind 'one', prompt .*: same id as kind 'one'"),
        (
            AnimalActivity(["dog", "ape", "dog"], {"singing": "singing"}),
            "prompt 'a dog singing': same id",
        ),
        (ShapesPrompts(kinds=["one", "one"], limit=1), "same id"),
    ],
)
def test_the_same_prompt_twice_is_refused(repeated: PromptSet, message: str) -> None:
    with pytest.raises(UserError, match=message) as raised:
        repeated.load()
    assert "\n" not in str(raised.value)


def write_reference(folder: Path, items: object, texts: object) -> ReferencePrompts:
    return ReferencePrompts(
        write(folder, "prompts.json", json.dumps(texts)),
        write(folder, "items.json", json.dumps(items)),
        True,
    )


def test_reference_files_are_read_as_words(tmp_path: Path) -> None:
    texts = ["a cat and a cat ", "A cross-section view of a brain.", "a red hat, green gloves"]
    places = {texts[0]: [1, 4], texts[1]: [6], texts[2]: [2, 4]}
    numbers = {texts[0]: [0.7, 0.3], texts[1]: [0.5], texts[2]: [1, 0]}
    given = write_reference(tmp_path, {"item_idx": places, "item_k": numbers}, texts)
    prompts = given.load()
    assert [prompt.subjects for prompt in prompts] == [
        (Subject("cat", 0.7), Subject("cat", 0.3, 2)),
        (Subject("brain", 0.5),),
        (Subject("hat", 1.0), Subject("gloves", 0.0)),
    ]
    assert prompts[0].text == "a cat and a cat"
    plain = ReferencePrompts(given.prompts_path, given.items_path).load()
    assert {subject.concavity for prompt in plain for subject in prompt.subjects} == {None}


def test_reference_prompts_that_differ_in_outer_blanks_are_refused(tmp_path: Path) -> None:
    items = {"item_idx": {"a cat": [1], "a cat ": [1]}, "item_k": {"a cat": [0.5], "a cat ": [0.5]}}
    with pytest.raises(UserError, match="prompt 'a cat ': same id as .*prompt 'a cat' "):
        write_reference(tmp_path, items, ["a cat", "a cat "]).load()
    assert len(write_reference(tmp_path, items, ["a cat", "a cat"]).load()) == 1


@pytest.mark.parametrize(
    ("items", "texts", "message"),
    [
        ({"item_idx": {"a cat": [2]}}, ["a cat"], "2 is not the place of a word"),
        ({"item_idx": {"a cat": ["cat"]}}, ["a cat"], "'cat' is not the place"),
        ({"item_idx": {}}, ["a cat"], "no list for the prompt 'a cat'"),
        (
            {"item_idx": {"a cat": [1]}, "item_k": {"a cat": [0.5, 0.5]}},
            ["a cat"],
            "item_k needs 1",
        ),
        ({"item_idx": {"a cat": [1]}, "item_k": {"a cat": ["x"]}}, ["a cat"], "item_k needs 1"),
        ({"a cat": [1]}, ["a cat"], 'expected {"item_idx"'),
        ({"item_idx": {"a cat": [1]}}, {"a cat": 1}, "expected a JSON list"),
    ],
)
def test_malformed_reference_files_are_refused(
    tmp_path: Path, items: object, texts: object, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        write_reference(tmp_path, items, texts).load()


def test_a_reference_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "broken.json", '["a cat",\n')
    with pytest.raises(UserError, match="line 2: not JSON"):
        ReferencePrompts(path, path).load()


def test_reference_places_where_words_have_no_spaces(tmp_path: Path) -> None:
    text = "大猫 猫, cafe\u0301 猫"
    given = write_reference(
        tmp_path, {"item_idx": {text: [1, 3]}, "item_k": {text: [0.5, 0.5]}}, [text]
    )
    (prompt,) = given.load()
    assert [find_span(text, subject) for subject in prompt.subjects] == [
        (3, 4),
        (text.rindex("猫"), len(text)),
    ]


def test_shapes_take_turns_and_their_splits_share_nothing() -> None:
    sets = {split: ShapesPrompts(split).load() for split in ("train", "val", "test")}
    texts = {split: {prompt.text for prompt in prompts} for split, prompts in sets.items()}
    assert (
        not texts["train"] & texts["val"]
        and not texts["val"] & texts["test"]
        and not texts["train"] & texts["test"]
    )
    for prompts in sets.values():
        assert len({prompt.prompt_id for prompt in prompts}) == len(prompts)
    few = Counter(prompt.kind for prompt in ShapesPrompts(limit=16).load())
    assert set(few.values()) == {2}
    assert {prompt.kind for prompt in ShapesPrompts(kinds=["two", "count"]).load()} == {
        "two",
        "count",
    }


@pytest.mark.parametrize("wrong", [ShapesPrompts("tests"), ShapesPrompts(kinds=["twos"])])
def test_shapes_refuse_unknown_words(wrong: ShapesPrompts) -> None:
    with pytest.raises(UserError, match="choose from"):
        wrong.load()
