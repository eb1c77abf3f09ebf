"""Every command line of the READMEs runs, shortened, in the order in which a reader comes to them,
in one folder."""

from __future__ import annotations

import ast
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("README.md", "evaluation/README.md")
BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORTER = {
    "num_inference_steps=10,20": "num_inference_steps=1,2",
    "experiment=steps": "experiment=steps num_inference_steps=1,2",
    "experiment=search": "experiment=search hydra.sweeper.n_trials=1",
    "limit=40": "limit=2",
    "limit=100": "limit=2",
    "model=sd21_base": "model=folder model.path=pipeline",  # the same class, small
    "prompt_set=animal_activity": "prompt_set=file prompt_set.path=prompts.yaml",
    "metric=clip_original": "metric=clip_shapes",  # whose weights are here
    "metric=pick_score": "metric=clip_shapes",
    "metric=[clip_original,blip_vqa]": "metric=[clip_shapes,blip_vqa_shapes]",
}
FEWER = {
    "experiments.studies.benchmark": "--calls 1 --steps 3 --network unet",
    "experiments.studies.checker_accuracy": "--pictures 2",
    "experiments.studies.evaluator_accuracy": "--pictures 1",
}
ELSEWHERE = {
    "python -m experiments.training.shapes": (
        "test_shapes.py::test_all_stages_leave_checkpoints_that_load"
    ),
    "python -m experiments.training.evaluators": (
        "test_evaluators.py::test_a_short_training_makes_evaluators_that_load"
    ),
}
"""Commands that take long: the tests that run them."""
PROMPTS = """\
- text: a red circle and a blue square
  subjects: [red circle, blue square]
  phrases: [a red circle, a blue square]
- {text: a green star, subjects: [star], phrases: [a green star]}
"""


def commands() -> Iterator[str]:
    """Every line of the pages' blocks, once, without its comment."""
    lines = [
        line
        for page in PAGES
        for block in BLOCK.findall((ROOT / page).read_text())
        for line in block.splitlines()
    ]
    yield from dict.fromkeys(re.sub(r"\s+#.*", "", line) for line in lines)


COMMANDS = list(commands())


def shortened(command: str) -> list[str]:
    """The words of a command that takes seconds."""
    words = [part for word in shlex.split(command) for part in SHORTER.get(word, word).split()]
    module, settings = words[2], [word.partition("=")[0] for word in words]
    if module == "experiments.run" or (module == "experiments.report" and "experiment" in settings):
        words += ["limit=2"] * ("limit" not in settings)
        words += ["num_inference_steps=1"] * ("num_inference_steps" not in settings)
    return words + FEWER.get(module, "").split()


def run_python(words: list[str]) -> int:
    """``python -m`` in this process, which has imported most of it."""
    assert words[:2] == ["python", "-m"]
    sys.argv = [words[2], *words[3:]]
    try:
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pipeline_folder: Path) -> Path:
    """Where a reader works: with prompts, and pictures of his own."""
    place = tmp_path_factory.mktemp("reader")
    (place / "prompts.yaml").write_text(PROMPTS)
    (place / "pipeline").symlink_to(pipeline_folder)
    (place / "PICTURES").mkdir()
    Image.new("RGB", (64, 64), (200, 30, 30)).save(place / "PICTURES" / "red.png")
    (place / "prompts.csv").write_text("file,text\nred.png,a red circle\n")
    return place


@pytest.fixture(scope="module")
def made(folder: Path) -> set[str]:
    """The experiments that were run already."""
    return set()


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.fault(
    what="a command of the README that no longer runs, as launcher=joblib before -m",
    kind="the order of arguments",
    now="overrides and flags stand in any order; a test runs every command line of README and docs",
)
def test_a_command_of_the_readme_runs(
    command: str,
    folder: Path,
    made: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if command in ELSEWHERE:
        path, _, name = ELSEWHERE[command].partition("::")
        functions = [
            n.name
            for n in ast.walk(ast.parse((ROOT / "tests" / "shapes" / path).read_text()))
            if isinstance(n, ast.FunctionDef)
        ]
        assert name in functions
        return
    if command.startswith("make "):
        subprocess.run(
            ["make", "--dry-run", *command.split()[1:]],
            cwd=ROOT,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return
    if command.startswith("pytest "):
        command = command.replace("DIR", str(ROOT / "tests" / "parity" / "data"))
        options = ["-n", "0", "--collect-only", "-o", "addopts="]
        subprocess.run(
            [sys.executable, "-m", *command.split(), *options], cwd=ROOT, check=True, timeout=120
        )
        return
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = shortened(command)
    experiment = next((word for word in words if word.startswith("experiment=")), None)
    if words[2] == "experiments.studies.metric_study":
        experiment = "experiment=metric_study"
    if experiment and experiment not in made:
        made.add(experiment)
        settings = [
            word for word in words[3:] if re.match("limit=|num_inference_steps=|metric=", word)
        ]
        if words[2] != "experiments.run":
            run = shortened(" ".join(["python -m experiments.run", experiment, *settings]))
            assert run_python(run) == 0
    status = run_python(words)
    said = capfd.readouterr()
    assert status == 0, said.err
    assert "Traceback" not in said.err
