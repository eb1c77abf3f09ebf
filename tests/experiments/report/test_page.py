"""The report's page as files: what it lists, what it copies, and that no text of a run can do harm
in it."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from asyndm.errors import UserError
from asyndm.subjects import Subject
from evaluation.runs.files import write_json
from evaluation.runs.folder import (
    IMAGES_FILE,
    PROMPTS_FILE,
    SCORES_FILE,
    Run,
    read_run,
    write_prompts,
)
from evaluation.runs.prompts import Prompt
from evaluation.runs.row_files import write_rows
from evaluation.runs.rows import ImageRow, ScoreRow
from evaluation.runs.traces import encode, encode_previews, trace
from experiments.report import opening
from experiments.report.assets import Assets
from experiments.report.gallery import Source
from experiments.report.page import Section, write_page

HOSTILE = "</script><img src=x onerror=\"document.title='harmed'\"> a dog & a <b>cat</b>"
DM: dict[str, Any] = {
    "mask": {"_target_": "asyndm.masks.NoMask"},
    "curve": {"_target_": "asyndm.curves.Linear"},
}
CONCAVE: dict[str, Any] = {
    "mask": {"_target_": "asyndm.masks.GlobalMask"},
    "curve": {"_target_": "asyndm.curves.Quadratic", "concavity": 0.5},
}
ASYNDM: dict[str, Any] = {
    "mask": {"_target_": "asyndm.masks.DynamicMask", "threshold": 1.0},
    "curve": {"_target_": "asyndm.curves.Quadratic", "concavity": 0.5},
}


@dataclass(frozen=True)
class Made:
    """One picture to make: its prompt, its kind and its scores, with reasons where these are
    wrong."""

    prompt: str
    kind: str = "one"
    seed: int = 0
    scores: Mapping[str, float | None] = field(default_factory=dict)
    size: tuple[int, int] = (16, 16)


def make_run(
    folder: Path,
    method: Mapping[str, Any],
    pictures: Sequence[Made],
    own_concavity: float | None = None,
    metrics: Mapping[str, Any] | None = None,
    **changes: Any,
) -> Run:
    """A run's folder with these pictures, each of another colour, and a trace of each but under
    DM."""
    identity = {
        "recipe": 1,
        "model": {"weights": "w", "dtype": "float32"},
        "guidance": {"guidance_scale": 5.0, "negative_prompt": None},
        "num_inference_steps": 10,
        "eta": 1.0,
        "seed": 0,
        "height": None,
        "width": None,
        **method,
        **changes,
    }
    config = {"model": {"name": "tiny"}, "prompt_set": {"name": "shapes"}}
    record = {
        "schema_version": 1,
        "config": config,
        "identity": identity,
        "timings": {},
        "metrics": metrics or {},
    }
    write_json(folder / "run.json", record)
    write_json(folder / "state.json", {"state": "done"})
    ids = {text: f"p{i}" for i, text in enumerate(dict.fromkeys(made.prompt for made in pictures))}
    kinds = {made.prompt: made.kind for made in pictures}
    subject = Subject("dog", own_concavity)
    write_prompts(
        folder / PROMPTS_FILE,
        [Prompt(of, text, (subject,), kinds[text]) for text, of in ids.items()],
    )
    images, scores = [], []
    for made in pictures:
        name, key = f"{ids[made.prompt]}_{made.seed}.png", (ids[made.prompt], made.seed)
        picture = Image.new("RGB", made.size, _colour(f"{folder.name} {name}"))
        digest = _save(folder / "images" / name, picture)
        if method is not DM:
            levels = np.linspace(1000, 0, 3)[:, None, None] * np.ones((3, 4, 4))
            levels[1, 0, 0] = 700
            _write(
                folder / "traces" / name, encode(trace([1, 5, 10], levels, np.ones((3, 1, 4, 4))))
            )
        images.append(
            ImageRow(
                folder.name, key[0], made.prompt, ("dog",), made.kind, made.seed, made.seed,
                f"images/{name}", digest,
            )
        )  # fmt: skip
        scores += [
            ScoreRow(folder.name, *key, metric, value, "" if value else f"{metric}: no dog")
            for metric, value in made.scores.items()
        ]
    write_rows(folder / IMAGES_FILE, ImageRow, images)
    write_rows(folder / SCORES_FILE, ScoreRow, scores)
    return read_run(folder)


def _colour(text: str) -> tuple[int, int, int]:
    red, green, blue = sha256(text.encode()).digest()[:3]
    return red, green, blue


def _write(path: Path, content: bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return sha256(content).hexdigest()


def _save(path: Path, picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return _write(path, buffer.getvalue())


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its data."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, Any] = {}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.found[-1] if self.found else ("", {})
        if tag == "script" and attributes.get("id") == "data" and data.strip():
            self.data = json.loads(data)


def data_of(page: Path) -> dict[str, Any]:
    return Elements(page).data


def page_of(folder: Path, *runs: Run) -> dict[str, Any]:
    return data_of(write_page(folder, "Report", [], [], runs))


def test_one_card_for_a_prompt_and_seed_with_all_methods(tmp_path: Path) -> None:
    seeds = [Made("a dog", seed=s, scores={"exact": float(s), "clip": 0.25 + s}) for s in (0, 1)]
    plain = make_run(tmp_path / "a", DM, seeds)
    other = make_run(
        tmp_path / "b", ASYNDM, [Made("a dog", scores={"exact": 0.0, "clip": 0.123456789})]
    )
    data = page_of(tmp_path / "page", other, plain)
    assert data["methods"] == [["DM", ""], ["AsynDM", "quadratic ω 0.5"]]
    assert data["metrics"] == [["exact", True, False], ["clip", False, False]]
    assert data["prompts"] == [["a dog", "one"]]
    (_, seed, _, cells), (_, next_seed, _, next_cells) = data["cards"]
    assert (seed, next_seed) == (0, 1)
    assert [cell[0] for cell in cells] == [0, 1]
    assert [cell[3] for cell in cells] == [[0, 0.25], [0, 0.123457]]
    assert [data["reasons"][cell[4][0]] for cell in cells] == ["exact: no dog"] * 2
    assert next_cells[0][3] == [1, 1.25] and next_cells[1] == [1], "AsynDM has no image of seed 1"
    names = [data["pictures"][cell[1]][0] for cell in (*cells, next_cells[0])]
    rows = [plain.images[0], other.images[0], plain.images[1]]
    assert names == [f"pictures/{row.sha256[:16]}.png" for row in rows]


def test_other_conditions_are_other_cards(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / f"{steps}", DM, [Made("a dog")], num_inference_steps=steps)
        for steps in (10, 20)
    ]
    data = page_of(tmp_path / "page", *runs)
    assert data["fields"] == ["steps"] and data["conditions"] == [["10"], ["20"]]
    assert [(card[2], len(card[3])) for card in data["cards"]] == [(0, 1), (1, 1)]


def test_runs_that_differ_only_in_their_subjects_are_two_methods(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / name, ASYNDM, [Made("a dog")], own_concavity=own)
        for name, own in (("a", 0.2), ("b", 0.7))
    ]
    data = page_of(tmp_path / "page", *runs)
    assert len(data["cards"]) == 1 and len(data["cards"][0][3]) == 2
    assert len({detail for _, detail in data["methods"]}) == 2
    assert all("subjects=" in detail for _, detail in data["methods"])


def test_a_metric_of_which_less_is_better_says_so(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "a",
        DM,
        [Made("a dog", scores={"loss": 2.0})],
        metrics={"loss": {"higher_is_better": False}},
    )
    assert page_of(tmp_path / "page", run)["metrics"] == [["loss", False, True]]


def test_a_hostile_text_stays_text(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", ASYNDM, [Made(HOSTILE, kind="<i>", scores={"<u>": 1.0})])
    section = Section(HOSTILE, ["<th>"], [[HOSTILE]], frozenset({(0, 0)}), [HOSTILE])
    page = write_page(tmp_path / "page", HOSTILE, [section], [], [run])
    seen = Elements(page)
    assert seen.data["prompts"] == [[HOSTILE, "<i>"]]
    assert not any("onerror" in attributes for _, attributes in seen.found)
    assert {"img", "b", "i", "u"}.isdisjoint(tag for tag, _ in seen.found)
    assert ("strong", {}) in seen.found


@pytest.mark.fault(
    what="control characters in prompts, kinds, subjects and reasons that a page shows",
    kind="texts of files that reorder what is read",
    now="are spelled out on its cards",
)
def test_control_characters_are_spelled_out_on_cards(tmp_path: Path) -> None:
    code = "\x1b[31m\u202e"
    run = make_run(tmp_path / "a", ASYNDM, [Made(f"a {code} dog", kind=code, scores={code: 0.0})])
    run = replace(run, images=[replace(image, subjects=(code,)) for image in run.images])
    page = write_page(tmp_path / "page", code, [], [], [run])
    plain = r"\x1b[31m\u202e"
    data = data_of(page)
    assert data["prompts"] == [[f"a {plain} dog", plain]] and data["subjects"] == [[plain]]
    assert data["metrics"][0][0] == plain and data["reasons"] == ["", f"{plain}: no dog"]
    assert not set(code[:1] + code[-1:]) & set(page.read_text())


def test_large_pictures_become_small_and_small_ones_are_copied(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "a",
        DM,
        [Made("a large dog", size=(512, 384)), Made("a small dog", size=(256, 200))],
    )
    large, small = page_of(tmp_path / "page", run)["pictures"]
    assert large[0].endswith(".webp") and large[1:] == [256, 192]
    with Image.open(tmp_path / "page" / large[0]) as image:
        assert image.format == "WEBP" and image.size == (256, 192)
    assert small[1:] == [256, 200]
    copy, original = tmp_path / "page" / small[0], run.folder / run.images[1].file
    assert copy.read_bytes() == original.read_bytes()


def test_traces_come_with_their_timesteps(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", ASYNDM, [Made("a dog", size=(300, 300))])
    frames = [Image.new("RGB", (300, 300))] * 3
    _write(run.folder / "previews" / "p0_0.png", encode_previews(frames))
    data = page_of(tmp_path / "page", run)
    (_, _, _, (file, width, height, way), (preview, *_)) = data["pictures"][0]
    assert (width, height) == (12, 8)
    assert data["ways"][way] == [[1, 5, 10], ["t 1000", "t 500-700", "t 0"]]
    original = run.folder / "traces" / "p0_0.png"
    assert (tmp_path / "page" / file).read_bytes() == original.read_bytes()
    with Image.open(tmp_path / "page" / preview) as image:
        assert max(image.size) < 900 and image.width == 3 * image.height


def test_a_second_writing_writes_nothing_new(tmp_path: Path) -> None:
    run = make_run(
        tmp_path / "a", ASYNDM, [Made("a dog", size=(300, 300)), Made("a dog and a cat")]
    )
    figure = tmp_path / "score.svg"
    figure.write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    folder = tmp_path / "page"

    def written() -> dict[Path, int]:
        write_page(folder, "Report", [], [figure], [run])
        files = [path for path in folder.rglob("*") if path.is_file() and path.name != "index.html"]
        return {path: path.stat().st_mtime_ns for path in files}

    first = written()
    page = (folder / "index.html").read_bytes()
    assert len(first) == 4, "two pictures, one trace that both share, one figure"
    assert written() == first and (folder / "index.html").read_bytes() == page


def test_missing_and_damaged_pictures_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(
        tmp_path / "a", DM, [Made(f"a {name} dog") for name in ("lost", "damaged", "good")]
    )
    (run.folder / run.images[0].file).unlink()
    (run.folder / run.images[1].file).write_bytes(b"no picture")
    data = page_of(tmp_path / "page", run)
    assert data["pictures"][:2] == ["images/p0_0.png", "images/p1_0.png"]
    assert isinstance(data["pictures"][2], list)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(run.folder / run.images[0].file) in line and line.endswith("and 1 more")


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", ASYNDM, [Made("a dog", scores={"exact": 1.0})])
    figures = []
    for name in ("x", "y"):
        figures.append(tmp_path / name / "my figure.png")
        _save(figures[-1], Image.new("RGB", (4, 4), _colour(name)))
    page = write_page(tmp_path / "page", "Report", [], figures, [run])
    seen = Elements(page)
    links = [
        value
        for _, a in seen.found
        for name in ("src", "href")
        if (value := a.get(name)) is not None
    ]
    assert (
        links.count("figures/my%20figure.png") == 2
        and links.count("figures/my%20figure-2.png") == 2
    )
    names = [link.replace("%20", " ") for link in links if not link.startswith("#")]
    assert all((page.parent / name).is_file() for name in names)
    assert {a["alt"] for tag, a in seen.found if tag == "img"} == {"my figure"}


def test_numbers_are_told_from_words() -> None:
    body = [
        ["AsynDM", "0.912 [0.900, 0.925]", "", "6-46-12", "<0.001", "3 dogs"],
        ["DM"] + [""] * 5,
    ]
    heads = ["method", "score", "none", "wins", "p", "words"]
    assert Section("t", heads, body).numeric == [False, True, False, True, True, False]
    assert Section("t", ["difference"], [["+0.1 [unknown]"], ["-1e-05 [-0.1, +0.1]"]]).numeric == [
        True
    ]


def test_a_page_without_runs_has_only_its_tables(tmp_path: Path) -> None:
    page = write_page(tmp_path, "Report", [Section("Scores", ["n"], [["1"]])], [], [])
    tags = [tag for tag, _ in Elements(page).found]
    assert "table" in tags and "script" not in tags


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"lost\.svg: no such figure"):
        write_page(tmp_path, "Report", [], [tmp_path / "lost.svg"], [])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="name a folder"):
        write_page(tmp_path / "file", "Report", [], [], [])


def test_opening_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert opening.main([str(tmp_path)]) == 1
    assert "no such page" in capsys.readouterr().err
    write_page(tmp_path, "Report", [], [], [])
    monkeypatch.setenv("PATH", "")
    assert opening.main([str(tmp_path)]) == 1
    assert "chromium is not installed" in capsys.readouterr().err


@pytest.mark.fault(
    what="a picture that was swapped or cut, one that lies outside of its run, a pipe in its place",
    kind="promises that nobody checks",
    now="not on the report's page, where it is named as missing; nothing is waited for",
)
def test_only_the_pictures_that_a_run_lists_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["swapped", "cut", "outside", "a pipe", "absolute", "good"]
    run = make_run(tmp_path / "a", DM, [Made(f"a dog {name}") for name in names])
    swapped, cut, outside, pipe, absolute, good = (run.folder / image.file for image in run.images)
    swapped.write_bytes(good.read_bytes())
    cut.write_bytes(cut.read_bytes()[:-20])
    pipe.unlink()
    os.mkfifo(pipe)
    _save(tmp_path / "private.png", Image.new("RGB", (4, 4)))
    files = {outside: "../private.png", absolute: str(tmp_path / "private.png")}
    images = [
        replace(image, file=files.get(run.folder / image.file, image.file)) for image in run.images
    ]
    data = page_of(tmp_path / "page", replace(run, images=images))
    assert [isinstance(entry, list) for entry in data["pictures"]] == [False] * 5 + [True]
    assert len(list((tmp_path / "page" / "pictures").iterdir())) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith(f"warning: missing from the page: {swapped}: not the picture")
        and "4 more" in line
    )


def test_many_threads_write_each_content_once(tmp_path: Path) -> None:
    """Eight contents under 300 names."""
    run = make_run(tmp_path / "a", ASYNDM, [Made(f"dog {i}", size=(300, 20)) for i in range(8)])
    sources = [Source(run.folder, image.file, image.sha256) for image in run.images]
    several = [sources[i % 8] for i in range(300)]
    assets = Assets(tmp_path / "page")
    entries, ways = assets.copy(several)
    assert entries == [entries[i % 8] for i in range(300)] and len(ways) == 1 and not assets.missing
    assert len(list((tmp_path / "page" / "pictures").iterdir())) == 8
    assert not list((tmp_path / "page").rglob("*.tmp"))
