"""YAML that is small and stands for much, or lies deep."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyndm.errors import UserError
from tests.evaluation.runs.prompts.lists import load


def make_bomb(first: str, more: str, count: int) -> str:
    """Entries of which each stands for the one before several times."""
    return f"- &a0 {first}\n" + "".join(
        f"- &a{i} {more.format(f'*a{i - 1}', i)}\n" for i in range(1, count)
    )


@pytest.mark.parametrize(
    "content",
    [
        make_bomb("{text: a}", "{{<<: [{0}, {0}, {0}], id: x{1}}}", 30),
        make_bomb("{text: a, kind: [b, c]}", "{{text: t{1}, kind: [{0}, {0}, {0}, {0}]}}", 45),
        "- text: a\n  kind:\n"
        + "".join("    " + line for line in make_bomb("[b]", "[{0}, {0}]", 45).splitlines(True)),
        "- &a {text: a, kind: ["
        + "b, " * 2000
        + "]}\n"
        + "".join(f"- {{<<: *a, id: c{i}}}\n" for i in range(2000)),
    ],
)
@pytest.mark.fault(
    what="a YAML of one kilobyte whose aliases or merge keys stand for billions",
    kind="files that grow",
    now="refused in one line, at once and in little memory",
)
def test_aliases_that_stand_for_too_much_are_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(UserError, match=r"p.yaml, line \d+: its aliases stand for too much"):
        load(tmp_path, "p.yaml", content)


def test_aliases_and_merge_keys_that_stand_for_little_are_read(tmp_path: Path) -> None:
    head = "- &d {text: a cat, kind: pet, subjects: &s [cat]}\n"
    rows = "".join(f"- {{<<: *d, text: cat {i}, subjects: *s}}\n" for i in range(300))
    prompts = load(tmp_path, "p.yaml", head + rows)
    assert len(prompts) == 301
    assert {(prompt.kind, len(prompt.subjects)) for prompt in prompts} == {("pet", 1)}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.yaml", "[" * 100_000),
        ("p.yaml", "- " * 100_000 + "a"),
        ("p.yaml", "- a\n- " + "{a: " * 60 + "1" + "}" * 60),
        ("p.yaml", "- &a [*a]\n"),
        ("p.yaml", "- &a {text: a, kind: *a}\n"),
        ("p.yaml", make_bomb("[b]", "[{0}]", 100)),
        ("p.json", "[" * 100_000),
        ("p.json", '{"a":' * 100_000),
        ("p.jsonl", "[" * 100_000),
    ],
)
@pytest.mark.fault(
    what="a hundred thousand lists in each other, in YAML, JSON or JSON lines",
    kind="files that grow",
    now="refused in one line",
)
def test_lists_in_lists_in_lists_are_refused(tmp_path: Path, name: str, content: str) -> None:
    with pytest.raises(
        UserError, match=rf"{name}, line \d+: (not a list of prompts|expected a text)"
    ) as raised:
        load(tmp_path, name, content)
    assert len(str(raised.value)) < 300
