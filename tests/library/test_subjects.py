from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import BertTokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from asyndm.errors import UserError
from asyndm.subjects import Subject, locate
from tests.conftest import make_tokenizer

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "dog",
    "and",
    "##s",
    "rab",
    "##bit",
    ",",
    "car",
    "-",
]


@pytest.fixture(params=["fast", "slow"])
def wordpiece(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    if request.param == "fast":
        tokenizer = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    else:
        (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        tokenizer = BertTokenizerLegacy(vocab_file=str(tmp_path / "vocab.txt"))
    tokenizer.model_max_length = 12
    assert tokenizer.is_fast == (request.param == "fast")
    return tokenizer


def pieces(tokenizer: Any, prompt: str, positions: list[int]) -> list[str]:
    ids = tokenizer(prompt)["input_ids"]
    return tokenizer.convert_ids_to_tokens([ids[i] for i in positions])


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("rabbit", ["rab", "##bit"]),
        ("Red  Car", ["red", "car"]),
        ("dog", ["dog"]),
        ("dogs", ["dog", "##s"]),
        ("red dog", ["red", "dog"]),
    ],
)
def test_all_pieces_by_offsets_fast_and_slow(wordpiece: Any, subject: str, expected: list[str]) -> None:
    prompt = "A red  dog, dogs and a RABBIT-red car"
    wordpiece.model_max_length = 77
    assert pieces(wordpiece, prompt, locate(wordpiece, prompt, [subject])[0]) == expected


def test_clip_pieces_and_positions() -> None:
    tokenizer = make_tokenizer()
    positions = locate(tokenizer, "a red rabbit, a dog", ["dog", "red rabbit", "rabbit"])
    assert positions == [[11], [2, 3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 7, 8]]


def test_repeated_words(wordpiece: Any) -> None:
    prompt = "a dog and a red dog"
    assert locate(wordpiece, prompt, ["dog", "dog#2", Subject("a", occurrence=2)]) == [[2], [6], [4]]
    with pytest.raises(UserError, match=r"'dog' occurs 2 time\(s\).*occurrence 3"):
        locate(wordpiece, prompt, ["dog#3"])


@pytest.mark.parametrize("subject", ["cat", "do", "dog and a car", "og"])
def test_a_subject_that_is_not_there_is_refused(wordpiece: Any, subject: str) -> None:
    with pytest.raises(UserError, match="is not in the prompt"):
        locate(wordpiece, "a dog and a red car", [subject])


def test_a_subject_beyond_the_limit_is_refused(wordpiece: Any) -> None:
    prompt = "a red dog and a red car and a rabbit"
    assert locate(wordpiece, prompt, ["car"]) == [[7]]
    with pytest.raises(UserError, match="'rabbit' lies beyond the 12 tokens"):
        locate(wordpiece, prompt, ["rabbit"])
    tokenizer = make_tokenizer()
    assert locate(tokenizer, "a " * 74 + "dog", ["dog"]) == [[75]]
    with pytest.raises(UserError, match="beyond the 77 tokens"):
        locate(tokenizer, "a " * 75 + "dog", ["dog"])


def test_subjects_check_themselves() -> None:
    assert Subject.parse("red dog #2") == Subject("red dog", occurrence=2)
    assert Subject.parse("dog") == Subject("dog")
    for wrong in ("", "  "):
        with pytest.raises(UserError, match="must be a word or phrase"):
            Subject(wrong)
    with pytest.raises(UserError, match="concavity of subject 'dog'"):
        Subject("dog", 1.2)
    with pytest.raises(UserError, match="occurrence of subject 'dog'"):
        Subject.parse("dog#0")
