"""Lists of pictures, as people have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from asyndm.errors import UserError
from evaluation.pictures import read_pictures
from evaluation.runs.prompts.sets import make_text_id


@pytest.mark.parametrize(
    ("name", "content"),
    [
        (
            "l.jsonl",
            '{"file": "0.png", "text": "a cat", "phrases": ["a cat"], "kind": "pet", "width": 8}\n',
        ),
        ("l.json", '[{"file": "0.png", "text": "a cat", "phrases": ["a cat"], "kind": "pet"}]'),
        ("l.yaml", "- {file: 0.png, text: a cat, phrases: [a cat], kind: pet}\n"),
        ("l.tsv", "image\tCaption\tphrases\tcategory\n0.png\ta cat\ta cat\tpet\n"),
        ("l.csv", "file_name;prompt;phrases;tag\n0.png;a cat;a cat;pet\n"),
        ("l.csv", "file,text,phrases,kind\n0.png,a cat,a cat,pet\n"),
    ],
)
@pytest.mark.fault(
    what="JSON lines as the list of a folder's pictures",
    kind="lists as people have them",
    now="read, as are JSON, YAML, TSV and other names of columns",
)
def test_a_list_of_pictures_is_read_as_people_have_it(
    tmp_path: Path, name: str, content: str
) -> None:
    (tmp_path / "0.png").write_bytes(b"a picture")
    (tmp_path / name).write_text(content)
    (picture,) = read_pictures(tmp_path, tmp_path / name)
    assert picture.path == tmp_path / "0.png" and picture.prompt.prompt_id.startswith(
        f"{make_text_id('0.png')}-"
    )
    assert (picture.prompt.text, picture.prompt.phrases, picture.prompt.kind) == (
        "a cat",
        ("a cat",),
        "pet",
    )
    # by which scores that are there are found again
    assert picture.prompt.prompt_id.endswith("-4f4ed82d")


def test_columns_of_a_list_of_pictures_are_named(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("scan,txt,seeds\n0.png,a cat,x\n")
    (tmp_path / "0.png").write_bytes(b"a picture")
    (picture,) = read_pictures(tmp_path, tmp_path / "l.csv", {"file": "scan", "text": "txt"})
    assert picture.path == tmp_path / "0.png" and picture.prompt.text == "a cat"
    with pytest.raises(
        UserError, match="line 2: columns.text=Text: no such column; choose from scan, txt"
    ):
        read_pictures(tmp_path, tmp_path / "l.csv", {"file": "scan", "text": "Text"})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "l.jsonl",
            '{"file": "0.png", "text": "a"}\n{"file": "1.png"}\n',
            "line 2: needs file and text; text is",
        ),
        ("l.txt", "0.png\n", "l.txt: a .txt has texts alone; give a list with file and text"),
        ("l.csv", "scan,text\n0.png,a\n", "file is missing: .*; name it, columns.file=...$"),
        ("l.csv", "file,txt\n0.png,a\n", "Then add columns.text=txt; if not, columns.text="),
        ("l.csv", "file,text\n", "l.csv: no rows below its first line, which is the header$"),
        ("l.csv", "file,text,phrase\n0.png,a,a\n", "line 2: unknown key 'phrase'"),
        (
            "l.yaml",
            "- {file: 0.png, text: a, phrases: 7}\n",
            "line 1: phrases must be a list of texts, not 7",
        ),
        ("l.jsonl", "\n", ": no rows"),
        ("l.csv", "file,text\n9.png,a\n", "none of its files is in"),
    ],
)
def test_a_malformed_list_of_pictures_is_told_with_its_line(
    tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=message):
        read_pictures(tmp_path, tmp_path / name)
