"""Columns by the names that people give them, and as a user names them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from asyndm.errors import UserError
from evaluation.runs.prompts.columns import USUAL, Columns
from tests.evaluation.runs.prompts.lists import CAT, load
from tests.lab import ROOT


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.csv", "Prompts,Category\na cat,pet\n"),
        ("p.csv", "text;kind;;\r\na cat;pet;;\r\n;;;\r\n"),
        ("p.csv", '"caption"\t"Tag"\n"a cat"\tpet\n'),
        ("p.csv", 'TEXT, kind, "a, b"\n"a cat", pet, 7\n'),
        ("p.csv", "\n,prompt,challenge\n0,a cat,pet\n"),
        ("p.tsv", "Prompt\tCategory\tChallenge\tNote\na cat\tpet\tBasic\t\n"),
        ("p.tsv", "prompt,kind\na cat,pet\n"),
        ("p.jsonl", '{"Prompt": "a cat", "tag": "pet", "include": [{"class": "cat"}]}\n'),
        ("p.json", '[{"caption": "a cat", "Type": "pet", "score": 0.5}]'),
        ("p.yaml", "- {prompt: a cat, category: pet, 1: [x]}\n"),
    ],
)
@pytest.mark.fault(
    what="a list of prompts with tabs, semicolons, or columns called Prompts and Category",
    kind="lists as people have them",
    now="read as it is; columns that say something else are left alone",
)
def test_a_list_is_read_as_people_have_it(tmp_path: Path, name: str, content: str) -> None:
    assert load(tmp_path, name, content) == [CAT]


def test_a_column_is_what_the_user_says(tmp_path: Path) -> None:
    table = "prompt;long one;Category;topic;speed\na;a cat;x;pet;9\n"
    assert load(tmp_path, "p.csv", table, text="long one", kind="topic", seed="") == [CAT]
    rows = '{"prompt": "a", "long one": "a cat", "topic": "pet"}\n{"long one": "a dog"}\n'
    assert load(tmp_path, "p.jsonl", rows, text="long one", kind="topic")[0] == CAT
    with pytest.raises(
        UserError, match=r"p.csv: prompt_set.columns.kind=topics: no such column; .* prompt"
    ):
        load(tmp_path, "p.csv", "prompt\na cat\n", kind="topics")
    with pytest.raises(
        UserError, match="line 2: prompt_set.columns.text=Titel: no such column; choose from T"
    ):
        load(tmp_path, "p.csv", "Title,kind\na cat,pet\n", text="Titel")
    with pytest.raises(
        UserError, match="line 2: unknown key 'speed': .* add prompt_set.columns.seed="
    ):
        load(tmp_path, "p.csv", "prompt,speed\na cat,9\n")
    with pytest.raises(
        UserError, match="prompt_set.columns.txt: no such column; choose from text, "
    ):
        Columns({"txt": "prompt"})


def test_the_page_has_every_name_of_a_column() -> None:
    page = (ROOT / "docs" / "prompt_set.md").read_text()
    rows = re.findall(r"^\| (`\w+`) \| (.*?) ?\| ", page, re.MULTILINE)
    told = {
        key.strip("`"): tuple(re.findall(r"`(\w+)`", f"{key} {others}")) for key, others in rows
    }
    assert {key: told.get(key) for key in USUAL} == USUAL


@pytest.mark.parametrize(
    "foreign", ["objects", "idx", "Note", "files", "prompt_2", "test", "negatives_of"]
)
def test_a_column_of_others_is_not_taken_for_one_of_ours(tmp_path: Path, foreign: str) -> None:
    assert load(tmp_path, "p.csv", f"prompt,kind,{foreign}\na cat,pet,7\n") == [CAT]


@pytest.mark.parametrize(
    ("table", "seed"),
    [
        ("case_number,prompt,evaluation_seed\n3,a cat,7\n", 7),
        ("prompt,categories,sd_seed,sd_guidance_scale\na cat,x,8,7.5\n", 8),
        ("prompt,seed,sd_seed\na cat,7,9\n", 7),
    ],
)
@pytest.mark.fault(
    what="a list with its seeds in evaluation_seed (ESD) or sd_seed (I2P)",
    kind="lists as people have them",
    now="they are the seeds of the rows; another name that ends in _seed is asked about",
)
def test_seeds_are_known_by_the_names_that_public_lists_give_them(
    tmp_path: Path, table: str, seed: int
) -> None:
    assert load(tmp_path, "p.csv", table)[0].seed == seed
    with pytest.raises(
        UserError, match="'Noise Seed': did you mean 'seed'. Then add .*columns.seed=Noise Seed;"
    ):
        load(tmp_path, "p.csv", "prompt,Noise Seed\na cat,7\n")
    assert load(tmp_path, "p.csv", "prompt,Noise Seed\na cat,7\n", seed="Noise Seed")[0].seed == 7
