"""GenEval's metadata file as a prompt set, and what is wrong in it told with its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asyndm.errors import UserError
from asyndm.subjects import Subject, find_span, locate
from evaluation.runs.prompts.geneval import GenEvalPrompts
from evaluation.runs.prompts.sets import Prompt, make_text_id
from tests.conftest import make_tokenizer


def make_thing(name: str, **more: Any) -> dict[str, Any]:
    return {"class": name, "count": 1, **more}


def write_rows(folder: Path, *rows: Any) -> str:
    path = folder / "metadata.jsonl"
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return str(path)


def read_prompt(folder: Path, text: str, *include: dict[str, Any], tag: str = "t") -> Prompt:
    row = {"tag": tag, "include": list(include), "prompt": text}
    return GenEvalPrompts(write_rows(folder, row)).load()[0]


def test_a_file_becomes_prompts(tmp_path: Path) -> None:
    rows = [
        {
            "tag": "colors",
            "include": [make_thing("kite", color="red")],
            "prompt": "a photo of a red kite",
        },
        {
            "tag": "counting",
            "include": [{"class": "bus", "count": 3}],
            "exclude": [{"class": "bus", "count": 4}],
            "prompt": "a photo of three buses",
        },
    ]
    path = write_rows(tmp_path, rows[0], "", rows[1], "")
    first, second = GenEvalPrompts(path).load()
    text = "a photo of a red kite"
    assert first == Prompt(make_text_id(text), text, (Subject("kite"),), "colors", ("a red kite",))
    assert second.subjects == (Subject("buses"),) and second.phrases == ("three buses",)
    assert second.kind == "counting" and second.prompt_id == make_text_id("a photo of three buses")
    assert GenEvalPrompts(path, limit=1).load() == [first]
    assert GenEvalPrompts(write_rows(tmp_path, *reversed(rows))).load() == [second, first]


def test_subjects_and_phrases_follow_the_text_not_the_order_of_the_file(tmp_path: Path) -> None:
    prompt = read_prompt(
        tmp_path, "a photo of an owl left of a Hot  Air", make_thing("hot  air"), make_thing("owl")
    )
    assert [subject.text for subject in prompt.subjects] == ["owl", "Hot  Air"]
    assert prompt.phrases == ("an owl", "a Hot  Air")


def test_a_class_within_a_longer_one_is_told_from_it(tmp_path: Path) -> None:
    text = "a photo of a green hot dog and a brown dog"
    prompt = read_prompt(
        tmp_path, text, make_thing("dog", color="brown"), make_thing("hot dog", color="green")
    )
    assert prompt.subjects == (Subject("hot dog"), Subject("dog", occurrence=2))
    assert prompt.phrases == ("a green hot dog", "a brown dog")
    assert find_span(text, prompt.subjects[1]) == (len(text) - 3, len(text))
    prompt = read_prompt(
        tmp_path, "a photo of a tv remote below a tv", make_thing("tv"), make_thing("tv remote")
    )
    assert prompt.subjects == (Subject("tv remote"), Subject("tv", occurrence=2))


def test_a_colour_that_is_a_class_as_well(tmp_path: Path) -> None:
    prompt = read_prompt(
        tmp_path, "a photo of an orange orange", make_thing("orange", color="orange")
    )
    assert prompt.subjects == (Subject("orange", occurrence=2),) and prompt.phrases == (
        "an orange orange",
    )


def test_a_class_that_the_text_does_not_name_is_no_subject(tmp_path: Path) -> None:
    prompt = read_prompt(
        tmp_path, "a photo of two humans and a catfish", make_thing("person"), make_thing("cat")
    )
    assert prompt.subjects == () and prompt.phrases == ()


@pytest.mark.parametrize(
    ("text", "name", "subject"),
    [
        ("a photo of two people", "person", "people"),
        ("a photo of two persons", "person", "persons"),
        ("a photo of two knives", "knife", "knives"),
        ("a photo of two sheep", "sheep", "sheep"),
        # as the file has them
        ("a photo of two knifes", "knife", "knifes"),
        ("a photo of two toothbrushs", "toothbrush", "toothbrushs"),
        ("a photo of two computer mouses", "computer mouse", "computer mouses"),
        ("a photo of two traffic lights", "traffic light", "traffic lights"),
    ],
)
def test_plurals_by_grammar_and_as_the_file_makes_them(
    tmp_path: Path, text: str, name: str, subject: str
) -> None:
    prompt = read_prompt(tmp_path, text, make_thing(name))
    assert prompt.subjects == (Subject(subject),) and prompt.phrases == (f"two {subject}",)


def test_a_verb_and_another_spelling(tmp_path: Path) -> None:
    text = "a nurse cares for a RED\u00a0car and a\u2019s car"
    prompt = read_prompt(tmp_path, text, make_thing("car", color="Red"))
    assert prompt.subjects == (Subject("car"), Subject("car", occurrence=2))
    assert prompt.phrases == ("a RED\u00a0car", "car")


def test_a_class_beyond_the_limit_does_not_stop_a_prompt(tmp_path: Path) -> None:
    prompt = read_prompt(tmp_path, "a dog and " + "a " * 80 + "dog", make_thing("dog"))
    with pytest.warns(UserWarning, match="left out 'dog#2'"):
        assert locate(make_tokenizer(), prompt.text, prompt.subjects, limit=77) == [[2], []]


GOOD = '{"tag": "t", "include": [{"class": "cat", "count": 1}], "prompt": "a cat"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "expected a mapping with tag, include and prompt, found \\[1\\]"),
        ('{"tag": "t", "include": [{"class": "cat"}]}', "prompt is missing"),
        ('{"include": [{"class": "cat"}], "prompt": "a cat"}', "tag is missing"),
        ('{"tag": "t", "prompt": "a cat"}', "include must be a list of things"),
        ('{"tag": "t", "prompt": "a cat", "include": []}', "include must be a list of things"),
        ('{"tag": "t", "prompt": "a cat", "include": ["cat"]}', "expected a class .* found 'cat'"),
        ('{"tag": "t", "prompt": "a cat", "include": [{"class": " "}]}', "expected a class"),
        ('{"tag": "t", "prompt": "a", "include": [{"class": "a", "color": 1}]}', "perhaps a color"),
        (GOOD, "same id as .*metadata.jsonl, line 1"),
    ],
)
def test_a_bad_line_is_told_with_its_number(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(UserError, match=f"metadata.jsonl, line 3: .*{message}"):
        GenEvalPrompts(write_rows(tmp_path, GOOD, "", line)).load()


def test_a_missing_file_is_refused() -> None:
    with pytest.raises(UserError, match=r"nowhere\.jsonl: no such metadata file"):
        GenEvalPrompts("nowhere.jsonl").load()
