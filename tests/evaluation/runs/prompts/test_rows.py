"""Rows of files of every format."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from asyndm.errors import UserError
from tests.evaluation.runs.prompts.lists import CAT, load


def test_json_may_be_indented_with_tabs(tmp_path: Path) -> None:
    text = json.dumps(["a cat", {"text": "a dog", "subjects": ["dog"]}], indent="\t")
    prompts = load(tmp_path, "p.json", text)
    assert [(prompt.text, len(prompt.subjects)) for prompt in prompts] == [
        ("a cat", 0),
        ("a dog", 1),
    ]


def test_a_line_of_jsonl_ends_at_a_newline_only(tmp_path: Path) -> None:
    text = '"a cat\u2028on a mat"\n"a dog"\n'
    prompts = load(tmp_path, "p.jsonl", text)
    assert [prompt.text for prompt in prompts] == ["a cat\u2028on a mat", "a dog"]


@pytest.mark.fault(
    what="a prompt a line in a .txt, some of them twice",
    kind="lists as people have them",
    now="each prompt once, and said so",
)
def test_a_text_file_has_a_prompt_a_line(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="p.TXT: left out 1 of 3 lines"):
        prompts = load(tmp_path, "p.TXT", '\ufeffa cat\r\n\r\n  "a, dog"; #2\t\r\na cat\r\n')
    assert [prompt.text for prompt in prompts] == ["a cat", '"a, dog"; #2']


def test_quotes_in_a_list_with_tabs_are_text_where_they_are_no_marks(tmp_path: Path) -> None:
    rows = 'prompt\tkind\n"Hi" said a cat\tpet\n"a dog\tpet\n'
    assert [prompt.text for prompt in load(tmp_path, "p.tsv", rows)] == [
        '"Hi" said a cat',
        '"a dog',
    ]
    rows = 'prompt\tkind\n"a\tcat"\tpet\n'
    assert [prompt.text for prompt in load(tmp_path, "p.tsv", rows)] == ["a\tcat"]


@pytest.mark.parametrize(
    "first",
    ["sep=;\n", "\ufeffSEP=;\r\n", '"sep=;"\n', "sep=;;\n", "sep=\t\n", "sep=|\n", "sep=^\n"],
)
@pytest.mark.fault(
    what="a first line sep=; in a table, by which Excel knows what parts the cells",
    kind="lists as people have them",
    now="is understood, and is no header",
)
def test_a_table_may_say_what_parts_its_cells(tmp_path: Path, first: str) -> None:
    sign = first[first.lower().index("sep=") + 4]
    assert load(tmp_path, "p.csv", f"{first}prompt{sign}kind\na cat{sign}pet\n") == [CAT]
    with pytest.raises(UserError, match="p.csv, line 3: text is missing"):
        load(tmp_path, "p.csv", f"{first}prompt{sign}kind\n{sign}pet\n")
