"""Prompt sets: what they hold, and that what is wrong in a file is told with its line."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest

from asyndm import inputs
from asyndm.curves import Quadratic
from asyndm.errors import UserError
from asyndm.subjects import Subject, locate, span
from evaluation.runs.prompts.files import FilePrompts
from evaluation.runs.prompts.sets import (
    AnimalActivity,
    Prompt,
    PromptSet,
    ReferencePrompts,
    ShapesPrompts,
    text_id,
)
from evaluation.runs.prompts.subjects import WordList
from tests.conftest import make_tokenizer

YAML = """\
- a cat on a mat
- text: a dog and a dog
  id: two-dogs
  subjects: [dog, "dog#2"]
  concavities: [0.3, 0.7]
  kind: pair
  phrases: [a dog, a dog]
"""


def written(folder: Path, name: str, text: str) -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


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


def test_yaml_json_jsonl_and_csv_say_the_same(tmp_path: Path) -> None:
    entries = [
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
    files = {
        "p.yaml": YAML,
        "p.json": json.dumps(entries, indent=1),
        "p.jsonl": "\n".join(json.dumps(entry) for entry in entries) + "\n\n",
        "p.csv": "id,text,subjects,concavities,kind,phrases\n,a cat on a mat,,,,\n"
        'two-dogs,a dog and a dog,dog;dog#2,0.3;0.7,pair,"a dog;a dog"\n',
    }
    for name, text in files.items():
        first, second = FilePrompts(written(tmp_path, name, text)).load()
        assert first == Prompt(text_id("a cat on a mat"), "a cat on a mat"), name
        subjects = (Subject("dog", 0.3, 1), Subject("dog", 0.7, 2))
        assert second == Prompt(
            "two-dogs", "a dog and a dog", subjects, "pair", ("a dog", "a dog")
        ), name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "p.yaml",
            '- {text: a dog and a dog, subjects: ["dog#1", "dog#2"], concavities: [0.3, 0.7]}\n',
        ),
        (
            "p.json",
            '[{"text": "a dog and a dog", "subjects": ["dog#1", "dog#2"], '
            '"concavities": [0.3, 0.7]}]',
        ),
        (
            "p.jsonl",
            '{"text": "a dog and a dog", "subjects": ["dog#1", "dog#2"], '
            '"concavities": [0.3, 0.7]}',
        ),
        ("p.csv", "text,subjects,concavities\na dog and a dog,dog#1;dog#2,0.3;0.7\n"),
    ],
)
def test_two_equal_words_are_two_subjects_each_with_its_concavity(
    tmp_path: Path, name: str, text: str
) -> None:
    """From the file to what the sampler makes of it: the token of each dog, and its ω."""
    (prompt,) = FilePrompts(written(tmp_path, name, text)).load()
    chosen = inputs.subject_lists(prompt.subjects, 1)
    assert locate(make_tokenizer(), prompt.text, chosen[0]) == [[2], [7]]
    assert inputs.concavities(chosen, Quadratic(0.5)).tolist() == [[0.3, 0.7]]


def test_json_may_be_indented_with_tabs(tmp_path: Path) -> None:
    text = json.dumps(["a cat", {"text": "a dog", "subjects": ["dog"]}], indent="\t")
    prompts = FilePrompts(written(tmp_path, "p.json", text)).load()
    assert [(prompt.text, len(prompt.subjects)) for prompt in prompts] == [
        ("a cat", 0),
        ("a dog", 1),
    ]


def test_a_line_of_jsonl_ends_at_a_newline_only(tmp_path: Path) -> None:
    text = '"a cat\u2028on a mat"\n"a dog"\n'
    prompts = FilePrompts(written(tmp_path, "p.jsonl", text)).load()
    assert [prompt.text for prompt in prompts] == ["a cat\u2028on a mat", "a dog"]


def test_a_file_may_say_where_its_phrases_came_from(tmp_path: Path) -> None:
    file = FilePrompts(
        written(tmp_path, "p.csv", "text,phrases,phrases_from\na dog,a dog,rule 1\na cat,,\n")
    )
    assert [prompt.phrases for prompt in file.load()] == [("a dog",), ()]
    (_, said, prompt), _ = file.rows()
    assert said["phrases_from"] == "rule 1" and prompt == Prompt(
        text_id("a dog"), "a dog", phrases=("a dog",)
    )


def test_limit_takes_the_first(tmp_path: Path) -> None:
    path = written(tmp_path, "p.yaml", YAML)
    assert [prompt.text for prompt in FilePrompts(path, limit=1).load()] == ["a cat on a mat"]
    with pytest.raises(UserError, match="limit=0"):
        FilePrompts(path, limit=0).load()


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
        FilePrompts(written(tmp_path, name, text)).load()
    assert "\n" not in str(raised.value) and name in str(raised.value)


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


def reference(folder: Path, items: object, texts: object) -> ReferencePrompts:
    return ReferencePrompts(
        written(folder, "prompts.json", json.dumps(texts)),
        written(folder, "items.json", json.dumps(items)),
        True,
    )


def test_reference_files_are_read_as_words(tmp_path: Path) -> None:
    texts = ["a cat and a cat ", "A cross-section view of a brain.", "a red hat, green gloves"]
    places = {texts[0]: [1, 4], texts[1]: [6], texts[2]: [2, 4]}
    numbers = {texts[0]: [0.7, 0.3], texts[1]: [0.5], texts[2]: [1, 0]}
    given = reference(tmp_path, {"item_idx": places, "item_k": numbers}, texts)
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
        reference(tmp_path, items, ["a cat", "a cat "]).load()
    assert len(reference(tmp_path, items, ["a cat", "a cat"]).load()) == 1


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
        reference(tmp_path, items, texts).load()


def test_a_reference_file_that_is_not_json_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "broken.json", '["a cat",\n')
    with pytest.raises(UserError, match="line 2: not JSON"):
        ReferencePrompts(path, path).load()


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


def test_a_word_list_finds_its_words_wherever_they_stand(tmp_path: Path) -> None:
    path = written(tmp_path, "words.txt", "dog\n\n  hot dog \ncatalogue\n")
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


@pytest.mark.fault(
    what="a word list with puppy, knife or mother-in-law, and prompts with several of them",
    kind="lists as people have them",
    now="plurals are found, irregular ones too; stares are no star",
)
@pytest.mark.parametrize(
    ("words", "text", "expected"),
    [
        (["puppy", "dog"], "two puppies and a dog", ["puppies", "dog"]),
        (["knife", "person"], "three knives and people", ["knives", "people"]),
        (
            ["wolf", "leaf", "bookshelf"],
            "wolves, leaves, bookshelves",
            ["wolves", "leaves", "bookshelves"],
        ),
        (["man", "woman", "child"], "men, women and children", ["men", "women", "children"]),
        (
            ["snowman", "human", "fireman"],
            "snowmen, humans, Firemen",
            ["snowmen", "humans", "Firemen"],
        ),
        (["mouse", "goose", "mongoose"], "mice, geese, mongooses", ["mice", "geese", "mongooses"]),
        (
            ["foot", "tooth", "ox", "die"],
            "feet, teeth, oxen, dice",
            ["feet", "teeth", "oxen", "dice"],
        ),
        (["sheep", "fish", "deer"], "two sheep, fish, deer", ["sheep", "fish", "deer"]),
        (
            ["bus", "dish", "box", "church"],
            "buses dishes boxes churches",
            ["buses", "dishes", "boxes", "churches"],
        ),
        (["potato", "photo", "zoo"], "potatoes, photos, zoos", ["potatoes", "photos", "zoos"]),
        (
            ["monkey", "quiz", "stomach"],
            "monkeys, quizzes, stomachs",
            ["monkeys", "quizzes", "stomachs"],
        ),
        (["roof", "giraffe", "dwarf"], "roofs, giraffes, dwarfs", ["roofs", "giraffes", "dwarfs"]),
        (["cactus", "chateau"], "cacti, cactuses, chateaux", ["cacti", "cactuses", "chateaux"]),
        (["oasis", "axis", "taxis"], "oases, axes, taxes, taxis", ["oases", "axes", "taxis"]),
        (
            ["radius", "aquarium", "phenomenon"],
            "radii, aquaria, phenomena",
            ["radii", "aquaria", "phenomena"],
        ),
        (
            ["index", "helix", "formula"],
            "indices, helixes, formulae",
            ["indices", "helixes", "formulae"],
        ),
        (
            ["superhuman", "yeoman", "Oman"],
            "superhumans, yeomen, an omen",
            ["superhumans", "yeomen"],
        ),
        (
            ["mother-in-law", "runner-up"],
            "mothers-in-law, runners-up",
            ["mothers-in-law", "runners-up"],
        ),
        (
            ["computer mouse", "still life"],
            "computer mouses, still lifes",
            ["computer mouses", "still lifes"],
        ),
        (
            ["pick up truck", "cup of tea"],
            "pick up trucks, cups of tea",
            ["pick up trucks", "cups of tea"],
        ),
        (
            ["woodlouse", "blouse", "money"],
            "woodlice, blouses, monies",
            ["woodlice", "blouses", "monies"],
        ),
        (
            ["staff", "larynx", "phalanx", "pelvis"],
            "staves, larynges, phalanges, pelves",
            ["staves", "larynges", "phalanges", "pelves"],
        ),
        (
            ["attorney general", "court-martial", "poet laureate"],
            "attorneys general, courts-martial, poets laureate",
            ["attorneys general", "courts-martial", "poets laureate"],
        ),
        (
            ["woman doctor", "manservant"],
            "women doctors, menservants",
            ["women doctors", "menservants"],
        ),
        (["roman soldier", "general"], "roman soldiers, romen soldiers", ["roman soldiers"]),
        (["Mary", "puppy"], "two Marys, Mary's puppies", ["Marys", "Mary", "puppies"]),
        (["star"], "a man stares at a star", ["star"]),
        (["car", "can", "cap"], "cares, canes, capes, a can", ["can"]),
        (["bus", "bush"], "a bush, bushes, a buss, a bus", ["bush", "bushes", "bus"]),
        (["wolf", "loaf", "foot"], "he wolfs, loafs and foots", []),
        (["traffic light"], "two Traffic  Lights", ["Traffic  Lights"]),
        (["man on horse", "man"], "a man on horse, a man", ["man on horse", "man"]),
        (["glass of water"], "two glasses of water", ["glasses of water"]),
        (
            ["hot-dog", "caf\u00e9"],
            "hot\u2011dogs in cafe\u0301s",
            ["hot\u2011dogs", "cafe\u0301s"],
        ),
        (["猫"], "一只猫在草地上", ["猫"]),
        (["猫", "黑猫"], "一只黑猫和猫", ["黑猫", "猫"]),
        (["แมว", "หมา"], "แมวกับหมา", ["แมว", "หมา"]),
        (["고양이"], "고양이가 고양이와", ["고양이", "고양이"]),
    ],
)
def test_plurals_and_scripts_of_a_word_list(
    words: list[str], text: str, expected: list[str]
) -> None:
    chosen = WordList(words).choose(Prompt("p", text))
    assert [subject.text for subject in chosen.subjects] == expected
    places = [span(text, subject) for subject in chosen.subjects]
    assert places == sorted(places) and [text[start:end] for start, end in places] == expected


def test_a_found_word_beyond_the_limit_is_left_out_and_a_chosen_one_refused(tmp_path: Path) -> None:
    text = "a dog with " + "a " * 80 + "dog"
    found = WordList(["dog"]).choose(Prompt("p", text))
    chosen = Prompt("p", text, (Subject("dog"), Subject("dog", occurrence=2)))
    assert found == chosen and asdict(found) == asdict(chosen)
    with pytest.warns(UserWarning, match="left out 'dog#2': beyond the 77 tokens"):
        assert locate(make_tokenizer(), text, found.subjects, limit=77) == [[2], []]
    with pytest.raises(UserError, match="'dog' lies beyond the 77 tokens"):
        locate(make_tokenizer(), text, chosen.subjects, limit=77)


def test_a_number_is_part_of_a_subject_where_the_prompt_has_it_so(tmp_path: Path) -> None:
    path = written(
        tmp_path, "p.yaml", '- {text: "player with jersey #7", subjects: ["jersey #7"]}\n'
    )
    (prompt,) = FilePrompts(path).load()
    assert prompt.subjects == (Subject("jersey #7"),)
    assert Prompt.from_dict(json.loads(json.dumps(asdict(prompt)))) == prompt


def test_reference_places_where_words_have_no_spaces(tmp_path: Path) -> None:
    text = "大猫 猫, cafe\u0301 猫"
    given = reference(tmp_path, {"item_idx": {text: [1, 3]}, "item_k": {text: [0.5, 0.5]}}, [text])
    (prompt,) = given.load()
    assert [span(text, subject) for subject in prompt.subjects] == [
        (3, 4),
        (text.rindex("猫"), len(text)),
    ]
