"""Subjects by a list of words."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from asyndm.errors import UserError
from asyndm.subjects import Subject, locate
from evaluation.runs.prompts.sets import Prompt
from evaluation.runs.prompts.subjects import WordList
from tests.conftest import make_tokenizer
from tests.evaluation.runs.prompts.lists import CAT, write


def test_a_word_list_finds_its_words_wherever_they_stand(tmp_path: Path) -> None:
    path = write(tmp_path, "words.txt", "dog\n\n  hot dog \ncatalogue\n")
    words = WordList(["Box", "cat"], path=path)
    text = "a dog, two Boxes, a hot dog and a dog without cats, catalogues or a dogma"
    prompt = Prompt("p", text, (Subject("dogma"),), "kind", ("a dog",))
    chosen = words.choose(prompt)
    assert chosen.subjects == (
        Subject("dog"),
        Subject("Boxes"),
        Subject("hot dog"),
        Subject("dog", occurrence=3),
        Subject("cats"),
        Subject("catalogues"),
    )
    assert (chosen.prompt_id, chosen.text, chosen.kind, chosen.phrases) == (
        "p",
        text,
        "kind",
        ("a dog",),
    )
    assert words.choose(Prompt("q", "nothing of the kind")).subjects == ()


@pytest.mark.parametrize(("words", "path"), [([], None), ([" "], None), ([], "none.txt")])
def test_a_word_list_without_words_is_refused(words: list[str], path: str | None) -> None:
    with pytest.raises(UserError, match="word list"):
        WordList(words, path).choose(Prompt("p", "a dog"))


def test_an_empty_word_list_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("\n")
    with pytest.raises(UserError, match="w.txt: the word list is empty"):
        WordList(path=str(tmp_path / "w.txt")).choose(CAT)


def test_a_found_word_beyond_the_limit_is_left_out_and_a_chosen_one_refused(tmp_path: Path) -> None:
    text = "a dog with " + "a " * 80 + "dog"
    found = WordList(["dog"]).choose(Prompt("p", text))
    chosen = Prompt("p", text, (Subject("dog"), Subject("dog", occurrence=2)))
    assert found == chosen and asdict(found) == asdict(chosen)
    with pytest.warns(UserWarning, match="left out 'dog#2': beyond the 77 tokens"):
        assert locate(make_tokenizer(), text, found.subjects, limit=77) == [[2], []]
    with pytest.raises(UserError, match="'dog' lies beyond the 77 tokens"):
        locate(make_tokenizer(), text, chosen.subjects, limit=77)
