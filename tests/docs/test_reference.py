"""`docs/reference.md` says what is: its commands run on small files in the format of the authors'
scripts, and make the pictures that it names."""

from __future__ import annotations

import csv
import json
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from experiments.engine.sweep import plan_sweep
from tests.docs.commands import run_python
from tests.docs.pages import REFERENCE, find_blocks

SHORTER = {
    "device=cuda:0": "device=cpu",
    "images_per_prompt=32": "images_per_prompt=2",
}
ANIMALS = {"a cat eating a sandwich": [1, 4], "a dog playing basketball": [1, 3]}
FILES = ("prompt_set.prompts_path=prompts.json", "prompt_set.items_path=items.json")
METHODS = ("DM", "DM_concave-quadratic-0.5", "AsynDM-quadratic-0.5")
SETTING = re.compile(r"[\w.]+=\S+")


@pytest.fixture(scope="module")
def commands() -> list[str]:
    return [
        line
        for language, block in find_blocks(REFERENCE)
        if language == "bash"
        for line in block.splitlines()
    ]


@pytest.fixture
def folder(tmp_path: Path, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a user of the scripts stands: with their files of prompts, and those of the page."""
    (tmp_path / "path" / "to" / "your").mkdir(parents=True)
    (tmp_path / "path" / "to" / "your" / "model").symlink_to(pipeline_folder)
    prompts = tmp_path / "config" / "prompt"
    prompts.mkdir(parents=True)
    (prompts / "animal.json").write_text(json.dumps(list(ANIMALS)))
    items = {"item_idx": ANIMALS, "item_k": {text: [0.7, 0.5] for text in ANIMALS}}
    (prompts / "animal_item.json").write_text(json.dumps(items))
    shown = [text for language, text in find_blocks(REFERENCE) if language == "json"]
    for name, text in zip(("prompts.json", "items.json"), shown, strict=True):
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    return tmp_path


def shorten(command: str, *more: str) -> list[str]:
    """The words of a command that takes seconds."""
    words = [SHORTER.get(word, word) for word in shlex.split(command)]
    return [*words, "num_inference_steps=1", *more] if words[2] == "experiments.run" else words


def read_images(run: Path) -> list[dict[str, str]]:
    with (run / "images.csv").open() as file:
        return list(csv.DictReader(file))


def read_table(head: str) -> list[list[str]]:
    """The cells of the page's table that begins so."""
    lines = REFERENCE.read_text().partition(head)[2].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_quick_test_makes_eight_pictures_of_each_method(
    commands: list[str], folder: Path
) -> None:
    assert run_python(shorten(commands[0])) == 0
    seeds = []
    for method in METHODS:
        (run,) = (folder / "runs" / "quick").glob(f"sd21_base-{method}-1-*")
        images = read_images(run)
        assert len(list((run / "images").glob("*.png"))) == len(images) == 8
        seeds.append([int(image["seed"]) for image in images])
        (prompt,) = json.loads((run / "prompts.json").read_text())
        assert [subject["text"] for subject in prompt["subjects"]] == ["rabbit", "basketball"]
        assert [subject["concavity"] for subject in prompt["subjects"]] == [0.7, 0.7]
    assert seeds == [list(range(1234, 1242))] * 3


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_the_animals_are_made_where_the_page_says(commands: list[str], folder: Path) -> None:
    run, report = commands[1:]
    assert run_python(shorten(run, "metric=clip_shapes")) == 0
    named = [place.strip("`") for _, _, place in read_table("| theirs | method |")[:3]]
    for place in named:
        (picture,) = (folder / "runs" / "test_animal").glob(place.replace("-50-ID/", "-1-*/"))
        images = read_images(picture.parents[1])
        assert [image["seed"] for image in images] == ["1234", "1235"] * 2
        assert images[3]["file"] == f"images/{picture.name}"
    assert run_python(shorten(report)) == 0
    assert (folder / "page" / "index.html").exists()


def test_all_that_stands_beside_a_flag_can_be_set(folder: Path) -> None:
    rows = read_table("| theirs (`--config.`) |")
    texts = {text for row in rows for cell in row[1:] for text in re.findall(r"`([^`]+)`", cell)}
    settings = [text for text in sorted(texts) if all(map(SETTING.fullmatch, text.split()))]
    assert len(settings) > 20
    jobs = list(merge(settings))
    assert len(jobs) < 8
    for job in jobs:
        words = ["path/to/your/model".join(word.split("DIR")) for word in job]
        given = [word for word in words if not word.endswith("=FILE")]
        assert plan_sweep(["experiment=reference", *FILES, *given]), job


def merge(settings: list[str]) -> Iterator[list[str]]:
    """Commands that together have all these settings, each key once in a command."""
    while settings:
        command: dict[str, str] = {}
        left = []
        for text in settings:
            pairs = {word.partition("=")[0]: word for word in text.split()}
            if command.keys() & pairs.keys():
                left.append(text)
            else:
                command |= pairs
        yield list(command.values())
        settings = left
