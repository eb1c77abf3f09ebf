"""Lists as people have them: whatever their format, their columns' names, their encoding, or what
is at their path."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from asyndm.errors import UserError
from evaluation.picture_lists import listed
from evaluation.runs.prompts.columns import USUAL, Columns
from evaluation.runs.prompts.files import FilePrompts
from evaluation.runs.prompts.geneval import GenEvalPrompts
from evaluation.runs.prompts.rows import SUFFIXES
from evaluation.runs.prompts.sets import Prompt, ReferencePrompts, text_id
from evaluation.runs.prompts.subjects import WordList

CAT = Prompt(text_id("a cat"), "a cat", kind="pet")


def load(folder: Path, name: str, content: str | bytes, **columns: str) -> list[Prompt]:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return FilePrompts(str(path), columns=columns).load()


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
    page = (Path(__file__).parents[1] / "docs" / "prompt_set.md").read_text()
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


def test_a_prompt_has_the_seed_and_the_negative_prompt_of_its_row(tmp_path: Path) -> None:
    table = "Prompt,Negative Prompt,seed\na cat,a dog,7.0\na cat,,8\na cat,,\n"
    first, second, third = load(tmp_path, "p.csv", table)
    key = text_id("a cat")
    assert first == Prompt(f"{key}-7", "a cat", negative_prompt="a dog", seed=7)
    assert second == Prompt(f"{key}-8", "a cat", seed=8) and third == Prompt(key, "a cat")
    with pytest.raises(UserError, match="line 3: same id as .*line 2 "):
        load(tmp_path, "p.csv", "text,negative_prompt\na cat,\na cat,a dog\n")


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


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("p.xlsx", b"PK\x03\x04\xff", "p.xlsx: a list ends in .*, .txt; export it as CSV"),
        ("p.parquet", b"PAR1\x15\xff", "p.parquet: a list ends in .*; export it as CSV"),
        ("p.csv.gz", b"\x1f\x8b\x08", "p.csv.gz: a list ends in .*; unpack it"),
        ("p", b"\xff", "p: a list ends in .*; export it as CSV"),
        (
            "p.csv",
            b"PK\x03\x04\xff",
            "p.csv: a workbook or another archive, not text; export it as CSV",
        ),
        ("p.tsv", b"\x1f\x8b\x08", "p.tsv: packed by gzip, not text; .* unpack it"),
    ],
)
@pytest.mark.fault(
    what="a workbook, a Parquet file or a packed table as a list, also by the name of a CSV",
    kind="lists as people have them",
    now="refused by what it is, with what to do",
)
def test_what_is_no_text_is_told_apart(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, name, content)
    with pytest.raises(UserError, match=message):
        listed(tmp_path, tmp_path / name)


def test_an_empty_path_is_told() -> None:
    with pytest.raises(UserError, match="^the path of the prompt file is empty; name a file$"):
        FilePrompts("").load()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_file_with_a_mark_is_read_as_it_says(tmp_path: Path, encoding: str, end: str) -> None:
    content = end.join(["text,kind", "a cat,pet", "ein Käfer,", ""]).encode(encoding)
    assert [prompt.text for prompt in load(tmp_path, "p.csv", content)] == ["a cat", "ein Käfer"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            "a\nb\nein Käfer\n".encode("latin-1"),
            r"line 3: not UTF-8 text \(byte 0xe4\); save it as UTF-8",
        ),
        ("a\r\ncaf\xe9".encode("latin-1"), "line 2: not UTF-8"),
        ("a\nb\n".encode("utf-16") + b"\0", "line 3: not UTF-16 text"),
        ("a\nb\n".encode("utf-16-le"), "line 1: a NUL, .* save it as UTF-8"),
        (b"a\n\0\n", "line 2: a NUL"),
    ],
)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.fault(
    what="a prompt file saved as Latin-1 or as UTF-16",
    kind="encodings",
    now="UTF-16 with its mark is read; else the line of the first bad byte is named",
)
def test_another_encoding_is_told_with_its_line(
    tmp_path: Path, suffix: str, content: bytes, message: str
) -> None:
    with pytest.raises(UserError, match=f"p{suffix}, {message}"):
        load(tmp_path, f"p{suffix}", content)


def bomb(first: str, more: str, count: int) -> str:
    """Entries of which each stands for the one before several times."""
    return f"- &a0 {first}\n" + "".join(
        f"- &a{i} {more.format(f'*a{i - 1}', i)}\n" for i in range(1, count)
    )


@pytest.mark.parametrize(
    "content",
    [
        bomb("{text: a}", "{{<<: [{0}, {0}, {0}], id: x{1}}}", 30),
        bomb("{text: a, kind: [b, c]}", "{{text: t{1}, kind: [{0}, {0}, {0}, {0}]}}", 45),
        "- text: a\n  kind:\n"
        + "".join("    " + line for line in bomb("[b]", "[{0}, {0}]", 45).splitlines(True)),
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
    assert {(prompt.kind, len(prompt.subjects)) for prompt in prompts} == {("pet", 1)} and len(
        prompts
    ) == 301


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("p.yaml", "[" * 100_000),
        ("p.yaml", "- " * 100_000 + "a"),
        ("p.yaml", "- a\n- " + "{a: " * 60 + "1" + "}" * 60),
        ("p.yaml", "- &a [*a]\n"),
        ("p.yaml", "- &a {text: a, kind: *a}\n"),
        ("p.yaml", bomb("[b]", "[{0}]", 100)),
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


def no_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(os.path.relpath(path))
    elif kind == "device":
        return Path("/dev/zero")
    return folder / ("x" * 300) if kind == "name" else path


@pytest.mark.parametrize("kind", ["pipe", "folder", "socket", "device", "nothing", "name"])
@pytest.mark.parametrize(
    "read",
    [
        lambda path: FilePrompts(str(path)).load(),
        lambda path: GenEvalPrompts(str(path)).load(),
        lambda path: ReferencePrompts(str(path), str(path)).load(),
        lambda path: WordList(path=str(path)).choose(CAT),
        lambda path: listed(path.parent, path),
    ],
)
@pytest.mark.fault(
    what="a pipe, a device or a folder at the path of a list",
    kind="what is no file",
    now="refused at once, by its name",
)
def test_what_is_no_file_is_refused_by_name(
    tmp_path: Path, read: Callable[[Path], object], kind: str
) -> None:
    path = no_file(tmp_path, kind)
    expected = (
        "no such"
        if kind in ("nothing", "name")
        else "a folder, not"
        if kind == "folder"
        else "a pipe, "
    )
    with pytest.raises(UserError, match=f"{path}: {expected}"):
        read(path)


def test_an_empty_word_list_is_told_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "w.txt").write_text("\n")
    with pytest.raises(UserError, match="w.txt: the word list is empty"):
        WordList(path=str(tmp_path / "w.txt")).choose(CAT)


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
    (picture,) = listed(tmp_path, tmp_path / name)
    assert picture.path == tmp_path / "0.png" and picture.prompt.prompt_id.startswith(
        f"{text_id('0.png')}-"
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
    (picture,) = listed(tmp_path, tmp_path / "l.csv", {"file": "scan", "text": "txt"})
    assert picture.path == tmp_path / "0.png" and picture.prompt.text == "a cat"
    with pytest.raises(
        UserError, match="line 2: columns.text=Text: no such column; choose from scan, txt"
    ):
        listed(tmp_path, tmp_path / "l.csv", {"file": "scan", "text": "Text"})


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
        listed(tmp_path, tmp_path / name)
