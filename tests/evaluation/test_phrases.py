"""Noun phrases by the rule, against sentences read by hand and the shapes world's own, and the
files that hold them."""

from __future__ import annotations

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from asyndm.shapes.world import KINDS, prompts
from evaluation.phrases import find_by_rule, main
from evaluation.runs.prompts import FilePrompts, ShapesPrompts

SENTENCES = {
    "a red book and a yellow vase": ["a red book", "a yellow vase"],
    "a green bench and a blue bowl": ["a green bench", "a blue bowl"],
    "three red circles": ["three red circles"],
    "a bear playing the guitar": ["a bear", "the guitar"],
    "a bear playing chess": ["a bear", "chess"],
    "a cat on the left of a dog": ["a cat", "a dog"],
    "a woman on the right of a tv": ["a woman", "a tv"],
    "a car on side of a train": ["a car", "a train"],
    "a key on the side of a tall vase": ["a key", "a tall vase"],
    "the red circle left of the blue square": ["the red circle", "the blue square"],
    "the fluffy cat and the wooden table": ["the fluffy cat", "the wooden table"],
    "an oblong eggplant and a spherical orange": ["an oblong eggplant", "a spherical orange"],
    "a metallic watch and a fabric chair": ["a metallic watch", "a fabric chair"],
    "red dog and blue cat": ["red dog", "blue cat"],
    "a dog, a cat and two birds": ["a dog", "a cat", "two birds"],
    "4 apples and 12 oranges": ["4 apples", "12 oranges"],
    "there are three cats under the table": ["three cats", "the table"],
    "There are dogs next to cats.": ["dogs", "cats"],
    "a mouse hidden by a key": ["a mouse", "a key"],
    "a table covered with a red cloth": ["a table", "a red cloth"],
    "a bed with a striped blanket": ["a bed", "a striped blanket"],
    "a running dog in front of a tall building": ["a running dog", "a tall building"],
    "two people are riding bicycles in the park": ["two people", "bicycles", "the park"],
    "a girl is looking at the moon through her telescope": ["a girl", "the moon", "her telescope"],
    "a man who wears a hat is reading his newspaper": ["a man", "a hat", "his newspaper"],
    "A person is holding a balloon while she sits on a bench": ["A person", "a balloon", "a bench"],
    "The soft, fluffy pillow is on top of the hard, wooden chair.": [
        "The soft, fluffy pillow",
        "the hard, wooden chair",
    ],
    "The sky is blue and white, and the grass is green.": ["The sky", "the grass"],
    "a painting of a king with a golden ring": ["a painting", "a king", "a golden ring"],
    "all the dogs chasing both cats": ["all the dogs", "both cats"],
    "a dog chases a cat": ["a dog", "a cat"],
    "a bowl of fruit near a living room  window": ["a bowl", "fruit", "a living room window"],
    "the woman's rubber-soled shoes; it is raining": ["the woman's rubber-soled shoes"],
    "a red dog and A Red Dog": ["a red dog"],
    "the left and the top": [],
}
YAML = """\
# lost
- a cat on a mat
- text: a dog and a dog
  id: two-dogs
  subjects: [dog, "dog#2"]
  concavities: [0.3, 0.7]
  kind: pair
- {text: "a bird, a fish", phrases: [wing, a fin]}
- {text: a cow, phrases: [a cow], phrases_from: my own}
"""
ORIGINS = ["rule 1", "rule 1", "given", "my own"]
PHRASES = [("a cat", "a mat"), ("a dog",), ("wing", "a fin"), ("a cow",)]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.yaml"
    path.write_text(YAML)
    return path


@pytest.mark.parametrize("text", SENTENCES)
def test_phrases_of_a_sentence(text: str) -> None:
    assert find_by_rule(text) == SENTENCES[text]


@pytest.mark.parametrize("kind", KINDS)
def test_phrases_of_the_shapes_world_are_its_own(kind: str) -> None:
    """A scene's own list names its places last, the rule in the order of the text."""
    specs = prompts("test", kind)
    found, own = [find_by_rule(spec.text) for spec in specs], [list(spec.phrases) for spec in specs]
    assert len(specs) >= 4 and (
        [*map(sorted, found)] == [*map(sorted, own)] if kind == "scene" else found == own
    )


@pytest.mark.parametrize("suffix", [".yaml", ".yml", ".json", ".jsonl", ".csv", ".tsv"])
def test_completed_files_load_as_the_same_prompts(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    out, again = tmp_path / f"new/complete{suffix}", tmp_path / f"again{suffix}"
    assert main([str(file), "--out", str(out), "--with", "rule"]) == 0
    said = capsys.readouterr()
    assert not said.out and said.err == "rule 1: 2, given: 1, my own: 1\n"
    before, after = FilePrompts(str(file)).load(), FilePrompts(str(out)).load()
    assert [(p.prompt_id, p.text, p.subjects, p.kind) for p in after] == [
        (p.prompt_id, p.text, p.subjects, p.kind) for p in before
    ]
    assert [p.phrases for p in after] == PHRASES
    assert [said["phrases_from"] for _, said, _ in FilePrompts(str(out)).rows()] == ORIGINS
    assert file.read_text() == YAML
    assert main([str(out), "--out", str(again), "--with", "rule"]) == 0
    assert again.read_text() == out.read_text()


def test_without_out_the_file_goes_to_standard_output_in_its_own_format(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file), "--with", "rule"]) == 0
    rows = yaml.safe_load(capsys.readouterr().out)
    assert [tuple(row["phrases"]) for row in rows] == PHRASES and rows[1]["subjects"] == [
        "dog",
        "dog#2",
    ]
    table = tmp_path / "prompts.csv"
    table.write_text('text,subjects\n"a dog, a cat",dog;cat\na bird,\n')
    assert main([str(table), "--with", "rule"]) == 0
    first, second = csv.DictReader(capsys.readouterr().out.splitlines())
    assert (
        first["subjects"] == "dog;cat"
        and first["phrases"] == "a dog;a cat"
        and second["phrases"] == "a bird"
    )


def test_the_input_is_written_over_where_out_names_it(file: Path) -> None:
    assert main([str(file), "--out", str(file), "--with", "rule"]) == 0
    assert [prompt.phrases for prompt in FilePrompts(str(file)).load()] == PHRASES


def test_the_shapes_worlds_prompts_as_a_file_get_their_phrases_back(tmp_path: Path) -> None:
    chosen = ShapesPrompts(kinds=[kind for kind in KINDS if kind != "scene"], limit=30).load()
    path = tmp_path / "shapes.jsonl"
    path.write_text("".join(json.dumps({"text": p.text, "id": p.prompt_id}) + "\n" for p in chosen))
    assert main([str(path), "--out", str(path), "--with", "rule"]) == 0
    assert [p.phrases for p in FilePrompts(str(path)).load()] == [p.phrases for p in chosen]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}/none.yaml"], "none.yaml: no such prompt file"),
        (
            ["{folder}/bad.yaml"],
            "bad.yaml, line 1: unknown key 'txt': did you mean 'text'? Then call it that, else",
        ),
        (["{folder}/titles.csv"], "captions, sentence among its columns (title, id); call one so"),
        (["{folder}/twice.yaml"], "twice.yaml, line 2: same id as"),
        (
            ["{folder}/prompts.yaml", "--out", "{folder}/out.txt"],
            "a prompt file ends in .yaml, .yml, .json, .jsonl, .csv or .tsv, not in .txt",
        ),
        (
            ["{folder}/semicolon.yaml", "--out", "{folder}/out.csv"],
            "cannot hold a text with a semicolon",
        ),
    ],
)
def test_bad_input_is_one_line(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (file.parent / "bad.yaml").write_text("- {txt: a dog}\n")
    (file.parent / "titles.csv").write_text("title,id\na dog,1\n")
    (file.parent / "twice.yaml").write_text("- a dog\n- a dog\n")
    (file.parent / "semicolon.yaml").write_text("- {text: a dog; a cat, phrases: [a dog; a cat]}\n")
    assert (
        main([*(argument.format(folder=file.parent) for argument in arguments), "--with", "rule"])
        == 1
    )
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("error: ") and message in line and not said.out
    assert not list(file.parent.glob("out.*"))


@pytest.mark.skipif(find_spec("spacy") is not None, reason="spaCy is installed")
def test_spacy_is_used_only_where_it_is_installed(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file), "--with", "spacy"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(
        "error: --with spacy: spaCy or its model en_core_web_sm is not installed"
    )
    assert main([str(file)]) == 0 and "rule 1: 2" in capsys.readouterr().err


@pytest.mark.skipif(find_spec("en_core_web_sm") is None, reason="spaCy's model is not installed")
def test_spacys_chunks_are_taken_where_it_is_installed(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(file), "--with", "spacy"]) == 0
    first = yaml.safe_load(capsys.readouterr().out)[0]
    assert first["phrases"] == ["a cat", "a mat"] and first["phrases_from"].startswith(
        "spaCy en_core_web_sm 3."
    )
