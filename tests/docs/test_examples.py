"""The examples run as a newcomer runs them, and come to what they say."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.docs.pages import ROOT
from tests.forks import Fork

EXAMPLES = ROOT / "examples"
NOTEBOOK = EXAMPLES / "quickstart.ipynb"
CAPTION = 20
"""Pixels above each picture of the quickstart, with its method's name."""
CHECK = """
assert len(records) == 20 and [len(images) for images in pictures.values()] == [2, 2, 2]
assert own.tobytes() == pictures["AsynDM"][0].tobytes() != pictures["DM"][0].tobytes()
lag = records[8].timesteps[0][records[8].weights[0].sum(0) > 0].mean() - records[8].timesteps.min()
assert lag > 50, lag
sheet.save("sheet.png")
figure.savefig("figure.png")
"""
"""What must hold after the notebook's last cell; run where its cells are."""


@pytest.fixture
def run_example(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)

    def run(name: str, *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    yield run


def read_pixels(path: Path) -> Any:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_the_quickstart_shows_three_methods_of_one_seed(run_example: Any, tmp_path: Path) -> None:
    said = run_example("quickstart.py", "--steps", "4", "--seed", "1")
    assert "DM, DM_concave, AsynDM: quickstart.png" in said
    sheet = read_pixels(tmp_path / "quickstart.png")
    assert sheet.shape == (CAPTION + 256, 3 * 256, 3)  # each pixel of the 64x64 four times as wide
    for caption in np.split(sheet[:CAPTION], 3, axis=1):
        assert caption.min() < 50 and caption.max() == 255  # a name in black on white
    stock, concave, asynchronous = np.split(sheet[CAPTION:], 3, axis=1)
    assert stock.std() > 10
    assert (stock != concave).any() and (stock != asynchronous).any()
    assert (concave != asynchronous).any()


def test_the_quickstart_takes_a_pipeline_of_ones_own(
    run_example: Any, tmp_path: Path, pipeline_folder: Path
) -> None:
    words = ("--prompt", "a red dog", "--subjects", "dog", "--steps", "1", "--out", "own.png")
    run_example("quickstart.py", str(pipeline_folder), *words)
    height, width, _ = read_pixels(tmp_path / "own.png").shape
    assert width == 3 * (height - CAPTION)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--prompt", "a dog"), "error: --prompt and --subjects go together"),
        (("--steps", "0"), "error: num_inference_steps must be"),
        (("missing/model",), "error: model 'missing/model'"),
        (("--prompt", "a dog", "--subjects", "cat"), "error: subject 'cat' is not in the prompt"),
    ],
)
def test_the_quickstart_says_in_a_line_what_is_wrong(
    words: tuple[str, ...],
    said: str,
    run_example: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(SystemExit) as end:
        run_example("quickstart.py", *words)
    assert said in f"{end.value}{capsys.readouterr().err}"  # the code is the line, or argparse's 2


def test_the_toy_samples_its_data_with_clearer_context(run_example: Any, tmp_path: Path) -> None:
    said = run_example("toy.py")
    regions = re.findall(r"^(\w+) +(disc|rest): mean (\S+), deviation (\S+)$", said, re.MULTILINE)
    assert [name for name, *_ in regions[::2]] == ["DM", "DM_concave", "AsynDM_external"]
    for _, region, mean, deviation in regions:
        assert abs(float(mean) - (1 if region == "disc" else -1)) <= 0.05
        assert 0.95 <= float(deviation) <= 1
    left_open = dict(re.findall(r"^(\w+) +open at timestep 500: (\S+)$", said, re.MULTILINE))
    assert left_open == {"DM": "0.54", "DM_concave": "0.54", "AsynDM_external": "0.47"}
    promised = (EXAMPLES / "toy.py").read_text().partition('"""\n\n')[0]
    assert all(number in promised for number in left_open.values())
    drawn = read_pixels(tmp_path / "toy.png")
    assert drawn.shape == (504, 1080, 3)


def test_the_toy_explains_itself_without_sampling(
    run_example: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run_example("toy.py", "--help")
    assert "usage: toy.py" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_the_notebook_is_one_without_outputs() -> None:
    notebook = json.loads(NOTEBOOK.read_text())
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        code = {"execution_count", "outputs"} if cell["cell_type"] == "code" else set()
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | code
        assert not cell.get("outputs") and cell.get("execution_count") is None


def test_the_cells_of_the_notebook_run(tmp_path: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]

    def run() -> int:
        exec("\n".join([*sources, CHECK]), {"__name__": "__main__"})
        return 0

    notebook = Fork(run, tmp_path)
    said, error = notebook.communicate(timeout=300)
    assert notebook.returncode == 0, error
    assert "the same picture: True" in said
    assert read_pixels(tmp_path / "sheet.png").shape == (128, 192, 3)
    assert read_pixels(tmp_path / "figure.png").std() > 10
