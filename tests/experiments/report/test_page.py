"""The report's page as files: no text of a run can do harm in it, and it needs nothing from
elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from asyndm.errors import UserError
from evaluation.runs.folder import read_run
from experiments.report import opening
from experiments.report.page import Section, make_caption, write_page
from tests.experiments.report.pages import HOSTILE, Elements
from tests.written_runs import (
    ASYNDM,
    CONCAVE,
    DM,
    Made,
    change_record,
    choose_colour,
    save_png,
    write_pictures,
)


def test_a_hostile_text_stays_text(tmp_path: Path) -> None:
    run = write_pictures(tmp_path / "a", ASYNDM, [Made(HOSTILE, kind="<i>", scores={"<u>": 1.0})])
    section = Section(HOSTILE, ["<th>"], [[HOSTILE]], frozenset({(0, 0)}), [HOSTILE])
    page = write_page(tmp_path / "page", HOSTILE, [section], [], [run])
    seen = Elements(page)
    assert seen.data["prompts"] == [[HOSTILE, "<i>"]]
    assert not any("onerror" in attributes for _, attributes in seen.found)
    assert {"img", "b", "i", "u"}.isdisjoint(tag for tag, _ in seen.found)
    assert ("strong", {}) in seen.found


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    run = write_pictures(tmp_path / "a", ASYNDM, [Made("a dog", scores={"exact": 1.0})])
    figures = []
    for name in ("x", "y"):
        figures.append(tmp_path / name / "my figure.png")
        save_png(figures[-1], Image.new("RGB", (4, 4), choose_colour(name)))
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


def test_a_prompt_counts_once_under_several_guidances(tmp_path: Path) -> None:
    runs = [
        write_pictures(
            tmp_path / f"{scale}", ASYNDM, [Made("a dog")], guidance={"guidance_scale": scale}
        )
        for scale in (2.0, 5.0)
    ]
    page = write_page(tmp_path / "page", "Report", [], [], runs)
    assert "2 pictures of 1 prompt and seed under 1 method" in page.read_text()


def test_the_seeds_are_captioned_by_the_methods_shown(tmp_path: Path) -> None:
    runs = [
        write_pictures(tmp_path / name, dict(method), [Made("a dog")])  # a copy has traces
        for name, method in (("a", DM), ("b", CONCAVE), ("c", ASYNDM))
    ]
    assert "under DM, DM_concave and AsynDM, with" in make_caption("seeds", runs)
    own = {"label": "steady", "follows_attention": True}
    change_record(tmp_path / "c", choices={"mask": own})
    runs[-1] = read_run(tmp_path / "c")
    assert "under DM, DM_concave and steady, with" in make_caption("seeds", runs)
    assert "under three methods, with" in make_caption("seeds", [])


def test_numbers_are_told_from_words() -> None:
    body = [
        ["AsynDM", "0.912 [0.900, 0.925]", "", "6-46-12", "<0.001", "3 dogs"],
        ["DM"] + [""] * 5,
    ]
    heads = ["method", "score", "none", "wins", "p", "words"]
    assert Section("t", heads, body).numeric == [False, True, False, True, True, False]
    differences = [["+0.1 [unknown]"], ["-1e-05 [-0.1, +0.1]"]]
    assert Section("t", ["difference"], differences).numeric == [True]


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
