from __future__ import annotations

import json
import unicodedata
import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import pre_tokenizers
from transformers import BertTokenizer, GemmaTokenizer, Qwen2Tokenizer, T5Tokenizer
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

from asyndm.errors import UserError
from asyndm.subjects import Subject, find_span, find_subject, keep_reachable, locate
from tests.conftest import make_tokenizer
from tests.pipelines.shared import Merges

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
        tokenizer: Any = BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)})
    else:
        (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        tokenizer = BertTokenizerLegacy(vocab_file=str(tmp_path / "vocab.txt"))
    tokenizer.model_max_length = 12
    assert tokenizer.is_fast == (request.param == "fast")
    return tokenizer


def list_pieces(tokenizer: Any, prompt: str, positions: list[int]) -> list[str]:
    ids = tokenizer(prompt)["input_ids"]
    return list(tokenizer.convert_ids_to_tokens([ids[i] for i in positions]))


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
def test_all_pieces_by_offsets_fast_and_slow(
    wordpiece: Any, subject: str, expected: list[str]
) -> None:
    prompt = "A red  dog, dogs and a RABBIT-red car"
    wordpiece.model_max_length = 77
    assert list_pieces(wordpiece, prompt, locate(wordpiece, prompt, [subject])[0]) == expected


def test_clip_pieces_and_positions() -> None:
    tokenizer = make_tokenizer()
    positions = locate(tokenizer, "a red rabbit, a dog", ["dog", "red rabbit", "rabbit"])
    assert positions == [[11], [2, 3, 4, 5, 6, 7, 8], [3, 4, 5, 6, 7, 8]]


def test_repeated_words(wordpiece: Any) -> None:
    prompt = "a dog and a red dog"
    assert locate(wordpiece, prompt, ["dog", "dog#2", Subject("a", occurrence=2)]) == [
        [2],
        [6],
        [4],
    ]
    with pytest.raises(UserError, match=r"'dog' occurs 2 time\(s\).*occurrence 3"):
        locate(wordpiece, prompt, ["dog#3"])


@pytest.mark.parametrize("subject", ["cat", "do", "dog and a car", "og"])
def test_a_subject_that_is_not_there_is_refused(wordpiece: Any, subject: str) -> None:
    with pytest.raises(UserError, match="is not in the prompt"):
        locate(wordpiece, "a dog and a red car", [subject])


def test_a_subject_beyond_the_limit_is_refused(wordpiece: Any) -> None:
    prompt = "a red dog and a red car and a rabbit"
    assert locate(wordpiece, prompt, ["car"], limit=12) == [[7]]
    assert locate(wordpiece, prompt, ["rabbit"]) == [[10, 11]]
    with pytest.raises(
        UserError, match="'rabbit' lies beyond the 12 tokens the text encoder reads"
    ):
        locate(wordpiece, prompt, ["rabbit"], limit=12)
    assert locate(wordpiece, prompt, ["rabbit"], limit=13) == [[10, 11]]
    tokenizer = make_tokenizer()
    assert locate(tokenizer, "a " * 74 + "dog", ["dog"], limit=77) == [[75]]
    with pytest.raises(UserError, match="beyond the 77 tokens"):
        locate(tokenizer, "a " * 75 + "dog", ["dog"], limit=77)
    assert locate(tokenizer, "a dog", ["dog"], limit=10**30) == [[2]]


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


def decompose(text: str) -> str:
    return unicodedata.normalize("NFD", text)


@pytest.mark.parametrize(
    ("prompt", "subject", "expected"),
    [
        # words without spaces between them
        ("一只猫在草地上", "猫", (2, 3)),
        ("黒いネコと犬", "ネコ", (2, 4)),
        ("แมวดำบนพรม", "ดำ", (3, 5)),
        ("ແມວຢູ່ເທິງໂຕະ", "ແມວ", (0, 3)),
        ("ឆ្មាមួយនៅលើតុ", "ឆ្មា", (0, 4)),
        ("ကြောင်တစ်ကောင်", "ကြောင်", (0, 6)),
        ("一只cat在草地上", "cat", (2, 5)),
        ("红色T恤", "T恤", (2, 4)),
        ("แมว\u200bดำ", "แมวดำ", (0, 6)),
        # Korean nouns before their particles
        ("고양이가 매트 위에", "고양이", (0, 3)),
        ("개구리와 개가", "개", (5, 6)),
        ("강아지들이 논다", "강아지", (0, 3)),
        # composed and decomposed
        (decompose("a café table"), "café", (2, 7)),
        ("a café table", decompose("café"), (2, 6)),
        (decompose("고양이가 매트"), "고양이", (0, 7)),
        (decompose("ガラスのコップ"), "ガラス", (0, 4)),
        ("Việt Nam", decompose("việt"), (0, 4)),
        ("\u1eb7", "\u0103\u0323", (0, 1)),
        # widths, ligatures and letters of two cases
        ("ｶﾞﾗｽのコップ", "ガラス", (0, 4)),
        ("a ＲＥＤ car", "red", (2, 5)),
        ("ﬁsh and chips", "fish", (0, 3)),
        ("die Straße", "STRASSE", (4, 10)),
        ("STRASSE", "straße", (0, 7)),
        ("ΟΔΟΣ", "οδος", (0, 4)),
        ("İstanbul'da kedi", "istanbul", (0, 8)),
        ("IŞIK", "ışık", (0, 4)),
        # quotes, dashes and spaces
        ("the dog\u2019s toy", "dog's", (4, 9)),
        ("the dog's toy", "dog\u2019s", (4, 9)),
        ("the \u201cred\u201d car", '"red"', (4, 9)),
        ("a t\u2011shirt", "t-shirt", (2, 9)),
        ("a T-shirt", "t\u2013shirt", (2, 9)),
        ("A red\u00a0car", "red car", (2, 9)),
        ("a\u3000red \u2009car", "red car", (2, 10)),
        ("a red\u200bcar", "car", (6, 9)),
        # what is not seen
        ("a rab\u00adbit", "rabbit", (2, 9)),
        ("a \u2764\ufe0f heart", "\u2764", (2, 4)),
        # as written, where the prompt has it so
        ("player with jersey #7", "jersey #7", (12, 21)),
        ("agent #0 and agent #07", "agent #07", (13, 22)),
        ("agent #0", "agent #0", (0, 8)),
        ("a dog #2 and a dog", "dog #2", (2, 8)),
        ("a dog #2 and a dog", "dog#2", (15, 18)),
        ("a dog and a dog", "dog #2", (12, 15)),
        ("jersey #7 and jersey #7", "jersey #7#2", (14, 23)),
    ],
)
def test_what_reads_the_same_is_found_at_its_place_in_the_prompt(
    prompt: str, subject: str, expected: tuple[int, int]
) -> None:
    assert find_span(prompt, Subject.parse(subject)) == expected


@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        ("a café", "cafe"),
        (decompose("a café"), "cafe"),
        (decompose("catégorie"), "cat"),
        ("ガラス", "カ"),
        (decompose("ガラス"), "カ"),
        ("한국", "하"),
        (decompose("한국"), "하"),
        ("개구리", "개"),
        ("एक बिल्ली", "ब"),
        ("jersey #77", "jersey #7"),
        ("a dogma", "dog"),
        ("Straße", "s"),
        ("a…", "."),
        ("a dog", "\ufe0f"),
    ],
)
def test_a_part_of_a_word_or_of_a_letter_is_not_found(prompt: str, subject: str) -> None:
    with pytest.raises(UserError, match="is not in the prompt|occurs 1 time"):
        find_span(prompt, Subject.parse(subject))


def test_what_a_subject_is_does_not_hold_how_it_came_to_be() -> None:
    found = find_subject("a dog, a dog", 9, 12)
    assert found == Subject("dog", occurrence=2) == Subject.parse("dog#2")
    assert len({found, Subject("dog", occurrence=2), Subject.parse("dog #2")}) == 1
    for subject in (found, Subject.parse("dog#2"), Subject("dog", occurrence=2, required=False)):
        assert json.dumps(asdict(subject)) == (
            '{"text": "dog", "concavity": null, "occurrence": 2, "count": null}'
        )
    assert find_subject("a dogma", 2, 5) is None


def make_t5() -> T5Tokenizer:
    """Unigram; of words it knows few, and then the sign before a word is a token of its own."""
    words = ["▁a", "▁red", "▁dog", "▁car", "c", "a", "t", "n", "猫", "在", "é", "s", "'", ":"]
    vocabulary = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((word, -3.0) for word in words),
    ]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0)


def make_qwen() -> Qwen2Tokenizer:
    """Byte-level: a letter may be several tokens, and the space before a word belongs to it."""
    merges: Merges = [
        ("d", "o"),
        ("do", "g"),
        ("Ġ", "dog"),
        ("Ġ", "r"),
        ("Ġr", "e"),
        ("Ġre", "d"),
        ("Ã", "©"),
    ]
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *map("".join, merges)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    chat = ["<|im_start|>", "<|im_end|>"]
    return Qwen2Tokenizer(vocab=vocabulary, merges=merges, additional_special_tokens=chat)


def make_gemma() -> GemmaTokenizer:
    """Pieces over bytes, the space a sign of its own, and a token before the text."""
    merges: Merges = [("d", "o"), ("do", "g"), ("▁", "dog"), ("r", "e"), ("re", "d")]
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{i:02X}>" for i in range(256))]
    pieces = [*special, *"▁abcdegnorst:猫在é", *map("".join, merges)]
    return GemmaTokenizer(
        vocab={piece: number for number, piece in enumerate(pieces)}, merges=merges
    )


@pytest.mark.parametrize(
    ("make", "prompt", "subject", "expected"),
    [
        (make_t5, "a red dog", "dog", ["▁dog"]),
        (make_t5, "a red dog", "red dog", ["▁red", "▁dog"]),
        (make_t5, "cat, a dog", "cat", ["c", "a", "t"]),
        (make_t5, "a  cat", "cat", ["c", "a", "t"]),
        (make_t5, "a red cat", "red cat", ["▁red", "▁", "c", "a", "t"]),
        (make_t5, "猫在a", "猫", ["猫"]),
        (make_t5, "a猫在", "猫", ["猫"]),
        (make_t5, "a é", "é", ["é"]),
        (make_qwen, "a red dog", "dog", ["Ġdog"]),
        (make_qwen, "dog, a  red dog", "red", ["Ġred"]),
        (make_qwen, "a 猫 dog", "猫", ["ç", "Į", "«"]),
        (make_qwen, "一只猫在", "猫", ["ç", "Į", "«"]),
        (make_qwen, "a é dog", "é", ["Ã©"]),
        (make_qwen, decompose("a é dog"), "é", ["Ã©"]),
        (make_gemma, "a red dog", "dog", ["▁dog"]),
        (make_gemma, "a red dog", "red", ["red"]),
        (make_gemma, "a  red", "red", ["red"]),
        (make_gemma, "a猫在", "猫", ["猫"]),
        (make_gemma, decompose("a é"), "é", ["e", "<0xCC>", "<0x81>"]),
        (make_tokenizer, decompose("a red\u00a0dog"), "red dog", ["red</w>", "dog</w>"]),
    ],
)
def test_tokens_of_every_kind_of_tokenizer_also_within_a_chat(
    make: Any, prompt: str, subject: str, expected: list[str]
) -> None:
    tokenizer = make()
    assert list_pieces(tokenizer, prompt, locate(tokenizer, prompt, [subject])[0]) == expected
    before, after = "<|im_start|>a red dog, a cat: ", " a dog<|im_end|>\n"
    (inside,) = locate(tokenizer, prompt, [subject], before=before, after=after)
    found = list_pieces(tokenizer, before + prompt + after, inside)
    assert [piece.strip("▁Ġ") for piece in found] == [piece.strip("▁Ġ") for piece in expected]
    with pytest.raises(UserError, match="occurs 1 time|is not in the prompt"):
        locate(tokenizer, prompt, ["red dog#2"], before=before, after=after)


def test_positions_in_the_whole_text_fast_and_slow(wordpiece: Any) -> None:
    given: dict[str, Any] = {"before": "a red dog, [SEP] ", "after": " and a dog"}
    assert locate(wordpiece, "a red dog", ["dog", "red dog"], **given) == [[8], [7, 8]]
    given["before"] = "[CLS] " + given["before"]
    assert locate(wordpiece, "a red dog", ["dog"], **given) == [[9]]
    with pytest.raises(UserError, match="'dog' lies beyond the 9 tokens"):
        locate(wordpiece, "a red dog", ["dog"], limit=9, before="a red dog, [SEP] ")


def test_what_a_rule_found_beyond_the_limit_is_left_out_and_said_once() -> None:
    tokenizer, prompt = make_tokenizer(), "a dog and a cat, " + "a " * 80 + "dog, a cat"
    subjects = [Subject("dog"), *(Subject("dog", occurrence=n, required=False) for n in (1, 2))]
    subjects.append(replace(subjects[2], text="cat"))
    with warnings.catch_warnings(record=True) as said:
        for _ in range(3):
            warnings.simplefilter("always")
            assert locate(tokenizer, prompt, subjects, limit=77) == [[2], [2], [], []]
    (line,) = [str(warning.message) for warning in said]
    assert line.startswith(
        "left out 'dog#2', 'cat#2': beyond the 77 tokens the text encoder reads of 'a dog and"
    )
    assert "\n" not in line
    assert all(locate(tokenizer, prompt, subjects))


def test_a_prompt_of_which_no_subject_is_in_reach_is_refused_and_so_is_a_wish() -> None:
    tokenizer, prompt = make_tokenizer(), "a dog and a cat, " + "a " * 80 + "dog, a cat"
    second = Subject("dog", occurrence=2, required=False)
    with pytest.raises(
        UserError, match="'dog' lies beyond the 77 tokens the text encoder reads: shorten the"
    ):
        locate(tokenizer, prompt, [second], limit=77)
    with pytest.raises(UserError, match="'cat' lies beyond the 77 tokens"):
        locate(tokenizer, prompt, [Subject("dog"), second, "cat#2"], limit=77)
    assert locate(tokenizer, prompt, [], limit=77) == []


def test_positions_are_mapped_to_those_the_network_attends_to() -> None:
    prompt = "a dog, a red dog"
    subjects: list[str | Subject] = ["dog", Subject("red dog", required=False)]
    dropped = {2: 0, 3: 1, 6: 4}.get
    with pytest.warns(
        UserWarning, match="left out 'red dog': beyond the tokens the text encoder reads"
    ):
        assert keep_reachable(prompt, subjects, [[2, 3], [6, 7]], dropped) == [[0, 1], []]
    assert keep_reachable(prompt, subjects, [[2, 3], []], dropped) == [[0, 1], []]
    assert keep_reachable(prompt, subjects, [[2], [3, 6]], dropped) == [[0], [1, 4]]
    with pytest.raises(
        UserError, match="'dog' lies beyond the tokens the text encoder reads: shorten"
    ):
        keep_reachable(prompt, subjects, [[7], [6]], dropped)
