"""Prompts of one's own: what a file says, and that what is wrong in it is told with its line."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from asyndm import inputs
from asyndm.curves import Quadratic
from asyndm.errors import UserError
from asyndm.subjects import Subject, locate
from evaluation.runs.prompts.files import FilePrompts
from evaluation.runs.prompts.sets import Prompt, make_text_id
from tests.conftest import make_tokenizer
from tests.evaluation.runs.prompts.lists import load, write

YAML = """\
- a cat on a mat
- text: a dog and a dog
  id: two-dogs
  subjects: [dog, "dog#2"]
  concavities: [0.3, 0.7]
  kind: pair
  phrases: [a dog, a dog]
"""


ENTRIES = [
    "a cat on a mat",
    {
        "text": "a dog and a dog",
        "id": "two-dogs",
        "subjects": ["dog", "dog#2"],
        "concavities": [0.3, 0.7],
        "kind": "pair",
        "phrases": ["a dog", "a dog"],
    },
]
FILES = {
    "p.yaml": YAML,
    "p.json": json.dumps(ENTRIES, indent=1),
    "p.jsonl": "\n".join(json.dumps(entry) for entry in ENTRIES) + "\n\n",
    "p.csv": "id,text,subjects,concavities,kind,phrases\n,a cat on a mat,,,,\n"
    'two-dogs,a dog and a dog,dog;dog#2,0.3;0.7,pair,"a dog;a dog"\n',
}
"""The same prompts in every format."""


@pytest.mark.parametrize("name", FILES)
def test_every_format_says_the_same(tmp_path: Path, name: str) -> None:
    first, second = FilePrompts(write(tmp_path, name, FILES[name])).load()
    assert first == Prompt(make_text_id("a cat on a mat"), "a cat on a mat")
    subjects = (Subject("dog", 0.3, 1), Subject("dog", 0.7, 2))
    assert second == Prompt("two-dogs", "a dog and a dog", subjects, "pair", ("a dog", "a dog"))


@pytest.mark.parametrize(
    ("cell", "counts"), [("2;1", [2, 1]), ("3.0; 1", [3, 1]), ("", [None, None])]
)
def test_a_table_says_how_many_there_are_of_a_subject(
    tmp_path: Path, cell: str, counts: list[int | None]
) -> None:
    text = f"text,subjects,subject_counts,count\nsome dogs and a cat,dogs;cat,{cell},many\n"
    (prompt,) = load(tmp_path, "p.csv", text)
    assert [subject.count for subject in prompt.subjects] == counts


@pytest.mark.parametrize("name", FILES)
def test_two_equal_words_are_two_subjects_each_with_its_concavity(
    tmp_path: Path, name: str
) -> None:
    """From the file to what the sampler makes of it: the token of each dog, and its ω."""
    _, prompt = FilePrompts(write(tmp_path, name, FILES[name])).load()
    chosen = inputs.list_subjects(prompt.subjects, 1)
    assert locate(make_tokenizer(), prompt.text, chosen[0]) == [[2], [7]]
    assert inputs.make_concavities(chosen, Quadratic(0.5)).tolist() == [[0.3, 0.7]]


def test_a_file_may_say_where_its_phrases_came_from(tmp_path: Path) -> None:
    file = FilePrompts(
        write(tmp_path, "p.csv", "text,phrases,phrases_from\na dog,a dog,rule 1\na cat,,\n")
    )
    assert [prompt.phrases for prompt in file.load()] == [("a dog",), ()]
    (_, said, prompt), _ = file.rows()
    assert said["phrases_from"] == "rule 1" and prompt == Prompt(
        make_text_id("a dog"), "a dog", phrases=("a dog",)
    )


def test_limit_takes_the_first(tmp_path: Path) -> None:
    path = write(tmp_path, "p.yaml", YAML)
    assert [prompt.text for prompt in FilePrompts(path, limit=1).load()] == ["a cat on a mat"]
    with pytest.raises(UserError, match="limit=0"):
        FilePrompts(path, limit=0).load()


def test_a_prompt_has_the_seed_and_the_negative_prompt_of_its_row(tmp_path: Path) -> None:
    table = "Prompt,Negative Prompt,seed\na cat,a dog,7.0\na cat,,8\na cat,,\n"
    first, second, third = load(tmp_path, "p.csv", table)
    key = make_text_id("a cat")
    assert first == Prompt(f"{key}-7", "a cat", negative_prompt="a dog", seed=7)
    assert second == Prompt(f"{key}-8", "a cat", seed=8) and third == Prompt(key, "a cat")
    with pytest.raises(UserError, match="line 3: same id as .*line 2 "):
        load(tmp_path, "p.csv", "text,negative_prompt\na cat,\na cat,a dog\n")


def test_a_number_is_part_of_a_subject_where_the_prompt_has_it_so(tmp_path: Path) -> None:
    path = write(tmp_path, "p.yaml", '- {text: "player with jersey #7", subjects: ["jersey #7"]}\n')
    (prompt,) = FilePrompts(path).load()
    assert prompt.subjects == (Subject("jersey #7"),)
    assert Prompt.from_dict(json.loads(json.dumps(asdict(prompt)))) == prompt


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("p.yaml", "- a cat\n- {text: a dog, subjects: [bird]}\n", "line 2: .*'bird' is not in"),
        ("p.yaml", "- a cat\n- {text: a dog, subject: [dog]}\n", "line 2: unknown key 'subject'"),
        ("p.yaml", "- a cat\n- {subjects: [dog]}\n", "line 2: text is missing"),
        ("p.yaml", "- a cat\n- 7\n", "line 2: expected a text or a mapping"),
        ("p.yaml", "- a cat\n- a cat\n", "line 2: same id as .*line 1 "),
        ("p.yaml", "- a cat\n- {text: a dog, id: a/b}\n", "line 2: id 'a/b'"),
        (
            "p.yaml",
            "- {text: a dog, subjects: [dog], concavities: [0.1, 0.2]}\n",
            "line 1: 2 concavities for 1",
        ),
        (
            "p.yaml",
            "- {text: a dog, subjects: [dog], subject_counts: [1, 2]}\n",
            "line 1: 2 subject_counts for 1",
        ),
        (
            "p.yaml",
            "- {text: a dog, subjects: [dog], subject_counts: [1.5]}\n",
            "line 1: subject_counts must be whole numbers",
        ),
        ("p.yaml", "- {text: a dog, subjects: [dog], concavities: [1.2]}\n", "line 1: .*concavity"),
        (
            "p.yaml",
            "- {text: a dog, subjects: [dog], concavities: [much]}\n",
            "line 1: concavities must be",
        ),
        ("p.yaml", "- {text: a dog, subjects: [1]}\n", "line 1: subjects must be"),
        ("p.yaml", "- a cat\n- {text: [\n", "line 3: not YAML"),
        ("p.yaml", "- a cat\n- a\a dog\n", r"line 2: not YAML \(the control character '\\x07'\)"),
        ("p.yaml", "- a cat\n- text: 2024-02-31\n", "line 2: not YAML"),
        ("p.yaml", "- a cat\n- {[a]: b}\n", "line 2: not YAML"),
        ("p.yaml", "text: a cat\n", "line 1: expected a list"),
        (
            "p.json",
            '[\n\t"a cat",\n\t{"text":\n"a dog"},\n\t7]',
            "line 5: expected a text or a mapping",
        ),
        ("p.json", '[\n"a cat",\n"a\adog"]', "line 3: not JSON .Invalid control character"),
        ("p.json", '[\n"a cat",\n', "line 3: not JSON"),
        ("p.json", '{"text": "a cat"}', "line 1: expected a list"),
        ("p.json", " [ ]", "no prompts"),
        ("p.yaml", "", "line 1: expected a list"),
        ("p.yaml", "[]", "no prompts"),
        ("p.jsonl", '"a cat"\n{"text": \n', "line 2: not JSON"),
        ("p.csv", "text,subjects\na cat,cat\na dog\n", "line 3: 2 columns"),
        ("p.csv", "text,subjects\na cat,cat,x\n", "line 2: 2 columns"),
        ("p.csv", "text,kind\na cat,\n\n  ,x\n", "line 4: text is missing"),
        ("p.csv", 'text\na cat\n"a\ndog\n', r"p.csv, line 3: not CSV \(.*a quote left open"),
        ("p.csv", 'text\n"a" cat\n', "line 2: not CSV"),
        ("p.csv", "text,text\na,b\n", "line 1: two columns 'text'; rename one"),
        (
            "p.csv",
            "a cat\na dog\n",
            r"line 2: text is missing: .*\(a cat\); .*without header ends in .txt",
        ),
        (
            "p.yaml",
            "- a cat\n- a sign: stop\n",
            "line 2: text is missing: .*with a colon is quoted",
        ),
        ("p.yaml", "- a cat\n- !!int ''\n", "line 2: not YAML"),
        ("p.yaml", "- a cat\n--- b\n", "line 2: a second document"),
        ("p.json", "[" + "1" * 5000 + "]", "line 1: not JSON"),
        (
            "p.json",
            '{"text": "a"}\n{"text": "b"}\n',
            "line 2: not JSON .Extra data.; JSON lines end in .jsonl",
        ),
        ("p.jsonl", '"a"\n"\\ud83d cat"\n', r"line 2: \\ud83d is half a character"),
        ("p.csv", "text,seed\na,-1\n", "line 2: .*seed -1 is not from 0 to"),
        ("p.csv", "text,seed\na,1.5\n", "line 2: seed must be a whole number, not '1.5'"),
        ("p.yaml", "- {text: a, seed: true}\n", "line 1: seed must be a whole number, not True"),
        ("p.yaml", "- {text: a, negative_prompt: [b]}\n", "line 1: negative_prompt must be a text"),
        ("p.yaml", "- {txt: a}\n", "line 1: unknown key 'txt': did you mean 'text'"),
        (
            "p.jsonl",
            '{"Prompt": "a dog", "phrase": "a dog"}',
            "unknown key 'phrase': did you mean 'phrases'",
        ),
        (
            "p.tsv",
            "Prompt\tSubject\na dog\tdog\n",
            "p.tsv, line 2: unknown key 'Subject': did you mean 'subj",
        ),
        ("p.csv", "", "p.csv: no prompts"),
        (
            "p.csv",
            "a red circle\n",
            "p.csv: no rows below .* the header; a list without one ends in .txt",
        ),
        (
            "p.csv",
            "prompt\na cat, nice\n",
            "line 2: 1 column expected, found 2; quote a text with a comma in it",
        ),
        (
            "p.csv",
            "prompt\na cat, nice\n",
            "or save the list as .txt, a prompt a line without header$",
        ),
        (
            "p.csv",
            "a cat\na dog, nice\n",
            "line 2: 1 column expected by the first line, the header, found 2;",
        ),
        (
            "p.csv",
            "text;id\na; b;c\n",
            "line 2: 2 columns expected, found 3; quote a text with a semicolon in it$",
        ),
        (
            "p.csv",
            "text,id\na\n",
            "line 2: 2 columns expected, found 1; leave a cell empty rather than out$",
        ),
        (
            "p.csv",
            'text,subjects,concavities\na cat,cat,"0.5,0.7"\n',
            r"""line 2: concavities must be .*decimal point, separated by ";"\), not '0.5,0.7'""",
        ),
        (
            "p.csv",
            'text,subjects\na cat,"a, cat"\n',
            'line 2: .*not in .*if these are several, .* by ";"$',
        ),
        ("p.txt", "\n \n", "p.txt: no prompts"),
        ("p.rst", "a cat", "p.rst: a list ends in .yaml, .yml, .json, .jsonl, .csv, .tsv, .txt"),
    ],
)
def test_a_malformed_file_is_refused_with_its_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    with pytest.raises(UserError, match=message) as raised:
        FilePrompts(write(tmp_path, name, text)).load()
    assert "\n" not in str(raised.value) and name in str(raised.value)
