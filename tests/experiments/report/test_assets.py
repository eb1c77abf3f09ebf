"""What a page copies: pictures and traces, each content once, and nothing from outside of a run."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from evaluation.runs.traces import encode_previews
from experiments.report.assets import Assets
from experiments.report.gallery import Source
from experiments.report.page import write_page
from tests.experiments.report.pages import write_data
from tests.written_runs import ASYNDM, DM, Made, save_png, write_file, write_pictures


def test_large_pictures_become_small_and_small_ones_are_copied(tmp_path: Path) -> None:
    run = write_pictures(
        tmp_path / "a",
        DM,
        [Made("a large dog", size=(512, 384)), Made("a small dog", size=(256, 200))],
    )
    large, small = write_data(tmp_path / "page", run)["pictures"]
    assert large[0].endswith(".webp") and large[1:] == [256, 192]
    with Image.open(tmp_path / "page" / large[0]) as image:
        assert image.format == "WEBP" and image.size == (256, 192)
    assert small[1:] == [256, 200]
    copy, original = tmp_path / "page" / small[0], run.folder / run.images[1].file
    assert copy.read_bytes() == original.read_bytes()


def test_traces_come_with_their_timesteps(tmp_path: Path) -> None:
    run = write_pictures(tmp_path / "a", ASYNDM, [Made("a dog", size=(300, 300))])
    frames = [Image.new("RGB", (300, 300))] * 3
    write_file(run.folder / "previews" / "p0_0.png", encode_previews(frames))
    data = write_data(tmp_path / "page", run)
    (_, _, _, (file, width, height, way), (preview, *_)) = data["pictures"][0]
    assert (width, height) == (12, 8)
    assert data["ways"][way] == [[1, 5, 10], ["t 1000", "t 500-700", "t 0"]]
    original = run.folder / "traces" / "p0_0.png"
    assert (tmp_path / "page" / file).read_bytes() == original.read_bytes()
    with Image.open(tmp_path / "page" / preview) as image:
        assert max(image.size) < 900 and image.width == 3 * image.height


def test_a_second_writing_writes_nothing_new(tmp_path: Path) -> None:
    run = write_pictures(
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
    run = write_pictures(
        tmp_path / "a", DM, [Made(f"a {name} dog") for name in ("lost", "damaged", "good")]
    )
    (run.folder / run.images[0].file).unlink()
    (run.folder / run.images[1].file).write_bytes(b"no picture")
    data = write_data(tmp_path / "page", run)
    assert data["pictures"][:2] == ["images/p0_0.png", "images/p1_0.png"]
    assert isinstance(data["pictures"][2], list)
    (line,) = capsys.readouterr().err.splitlines()
    assert str(run.folder / run.images[0].file) in line and line.endswith("and 1 more")


@pytest.mark.fault(
    what="a picture that was swapped or cut, one that lies outside of its run, a pipe in its place",
    kind="promises that nobody checks",
    now="not on the report's page, where it is named as missing; nothing is waited for",
)
def test_only_the_pictures_that_a_run_lists_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["swapped", "cut", "outside", "a pipe", "absolute", "good"]
    run = write_pictures(tmp_path / "a", DM, [Made(f"a dog {name}") for name in names])
    swapped, cut, outside, pipe, absolute, good = (run.folder / image.file for image in run.images)
    swapped.write_bytes(good.read_bytes())
    cut.write_bytes(cut.read_bytes()[:-20])
    pipe.unlink()
    os.mkfifo(pipe)
    save_png(tmp_path / "private.png", Image.new("RGB", (4, 4)))
    files = {outside: "../private.png", absolute: str(tmp_path / "private.png")}
    images = [
        replace(image, file=files.get(run.folder / image.file, image.file)) for image in run.images
    ]
    data = write_data(tmp_path / "page", replace(run, images=images))
    assert [isinstance(entry, list) for entry in data["pictures"]] == [False] * 5 + [True]
    assert len(list((tmp_path / "page" / "pictures").iterdir())) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert (
        line.startswith(f"warning: missing from the page: {swapped}: not the picture")
        and "4 more" in line
    )


def test_many_threads_write_each_content_once(tmp_path: Path) -> None:
    """Eight contents under 300 names."""
    run = write_pictures(
        tmp_path / "a", ASYNDM, [Made(f"dog {i}", size=(300, 20)) for i in range(8)]
    )
    sources = [Source(run.folder, image.file, image.sha256) for image in run.images]
    several = [sources[i % 8] for i in range(300)]
    assets = Assets(tmp_path / "page")
    entries, ways = assets.copy(several)
    assert entries == [entries[i % 8] for i in range(300)] and len(ways) == 1 and not assets.missing
    assert len(list((tmp_path / "page" / "pictures").iterdir())) == 8
    assert not list((tmp_path / "page").rglob("*.tmp"))
