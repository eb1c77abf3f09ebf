"""The search of rivals' settings: alike for all, on validation prompts, frozen as choices."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from evaluation.choices import read_arguments
from evaluation.runs.folder import Run, find_runs, read_run
from evaluation.scoring import average_scores
from experiments.engine.guidance import build_guidance
from experiments.report.command import main as report
from experiments.run import main as run
from experiments.studies.rivals import SPACES, TRANSFORMERS, main
from tests.experiments.engine.test_schema import compose_config
from tests.lab import BRIGHTNESS, PROMPTS, Lab

NAMES = ("cfg", "pag")
TRIALS = 3


def search(lab: Lab, *words: str) -> int:
    """A small one, frozen as guidance=small/NAME in the lab's own choices."""
    (lab.folder / "conf").mkdir(exist_ok=True)
    few = [BRIGHTNESS, "objective=brightness", "limit=2", f"hydra.sweeper.n_trials={TRIALS}"]
    options = ["--config-dir", str(lab.folder / "conf"), "--into", "small"]
    return main([*options, *lab.arguments(*few), *words])


def read_frozen(lab: Lab, name: str) -> tuple[str, dict[str, Any]]:
    """What is written of a guidance in words, and its settings."""
    text = (lab.folder / "conf" / "guidance" / "small" / f"{name}.yaml").read_text()
    comment = [line.removeprefix("# ") for line in text.splitlines() if line.startswith("#")]
    settings = yaml.safe_load(text)
    assert settings.pop("defaults") == [f"/guidance/{name}@_here_", "_self_"]
    return " ".join(comment), settings


def find_best(lab: Lab, name: str, sign: int) -> tuple[Run, list[Run]]:
    """By what the runs of a search themselves tell."""
    runs = [read_run(folder) for folder in find_runs([lab.runs / name])]
    best = max(runs, key=lambda run: sign * average_scores(run.scores)["brightness"])
    return best, runs


@pytest.fixture(scope="module")
def searched(pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """What two searches have found."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "prompts.yaml").write_text(PROMPTS)
    made = Lab(folder, pipeline_folder)
    assert search(made, *NAMES) == 0
    return made


def test_the_best_of_all_trials_is_frozen_with_how_it_was_found(searched: Lab) -> None:
    check_frozen(searched, "pag", 1)


def test_what_shall_be_small_is_minimised(lab: Lab) -> None:
    assert search(lab, "cfg_plus_plus", "hydra.sweeper.direction=minimize") == 0
    check_frozen(lab, "cfg_plus_plus", -1)


def check_frozen(lab: Lab, name: str, sign: int) -> None:
    told, settings = read_frozen(lab, name)
    best, runs = find_best(lab, name, sign)
    assert 2 <= len(runs) <= 1 + TRIALS, "its own settings and the trials"
    assert settings.keys() == SPACES[name].keys()
    assert settings == {key: best.identity["guidance"][key] for key in settings}
    usual = {"pag": (3.0, 5.0), "cfg_plus_plus": (0.6, 5.0)}[name]
    (own,) = [
        run
        for run in runs
        if tuple(run.identity["guidance"][key] for key in ("scale", "guidance_scale")) == usual
    ]
    values = [average_scores(run.scores)["brightness"] for run in (best, own)]
    assert f"on 2 prompts of file: {values[0]:.3f}, where guidance={name}" in told
    assert f"guidance={name} has {values[1]:.3f}." in told
    assert f"and {TRIALS} trials of" in told and all(text in told for text in SPACES[name].values())
    assert f", {len(runs)} different ones in all." in told
    rows = 2 * lab.steps + lab.steps * (name == "pag")
    assert f"took {rows} rows of the network forward and 0 backward" in told


def test_a_search_that_is_repeated_finds_its_runs(
    searched: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen, made = read_frozen(searched, "cfg"), find_runs([searched.runs])
    assert search(searched, "cfg") == 0
    assert capsys.readouterr().out.count("  found  ") == 1 + TRIALS
    assert read_frozen(searched, "cfg") == frozen and find_runs([searched.runs]) == made


def test_what_another_search_has_frozen_is_not_written_over(
    searched: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = read_frozen(searched, "cfg")
    assert search(searched, "cfg", "seed=7") == 1
    file = searched.folder / "conf" / "guidance" / "small" / "cfg.yaml"
    expected = f"error: {file}: is not of this search; write elsewhere with --into NAME, or remove"
    assert expected in capsys.readouterr().err
    assert read_frozen(searched, "cfg") == frozen


def test_what_was_found_is_a_choice_that_tables_name(
    searched: Lab, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frozen = {name: read_frozen(searched, name)[1] for name in NAMES}
    choices = ",".join(f"small/{name}" for name in NAMES)
    words = ["mask=none,dynamic", f"guidance={choices}", BRIGHTNESS, f"output_dir={tmp_path}"]
    options = ["--config-dir", str(searched.folder / "conf")]
    assert run([*options, "-m", *searched.arguments(*words)]) == 0
    runs = [read_run(folder) for folder in find_runs([tmp_path])]
    assert len(runs) == 2 * len(NAMES)
    scale, pag = f"{frozen['cfg']['guidance_scale']:g}", frozen["pag"]
    labels = {scale, f"pag {pag['scale']:g} {pag['guidance_scale']:g}"}
    capsys.readouterr()
    against = ["--against", "method=DM", "--against", f"guidance={scale}"]
    assert report([str(tmp_path), *against]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = [dict(zip(cells[0], line, strict=True)) for line in cells[2:]]
    assert {row["guidance"] for row in rows} == labels
    (difference,) = [head for head in cells[0] if head.startswith("difference from method=DM")]
    compared = [(row["method"], row["guidance"]) for row in rows if row[difference]]
    assert len(compared) == len(rows) - 1 and ("DM", scale) not in compared


@pytest.mark.parametrize("name", SPACES)
def test_every_value_that_is_searched_is_one_of_the_guidance(name: str) -> None:
    model = "sd35_medium" if name in TRANSFORMERS else "shapes"
    config = compose_config(f"model={model}", f"guidance={name}")
    own = read_arguments({**config.guidance, "_target_": config.guidance._target_})
    assert 1 <= len(SPACES[name]) <= 3
    for setting, values in SPACES[name].items():
        assert setting in own
        for value in yaml.safe_load(f"[{values.removeprefix('choice(').removesuffix(')')}]"):
            build_guidance({"_target_": config.guidance._target_, **own, setting: value})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sag"], "sag: no guidance to search; there are cfg, interval,"),
        (["cfg", "guidance.guidance_scale=2"], "guidance.guidance_scale=2: is what is searched;"),
        (["cfg", "limt=2"], "limt: no such setting"),
        (["cfg", "objective=null"], "objective is missing: name a metric"),
        (["cfg", "objective=clip"], "objective=clip: not among the metrics"),
        (["slg"], "guidance=slg is defined on networks of SD3, Flux"),
        (["cfg", "slg"], "guidance=slg is defined on networks of SD3, Flux"),
        (["cfg", "prompt_set.split=test"], "objective=exact: never on test prompts"),
        (["cfg", "hydra.sweeper.direction=up"], "hydra.sweeper.direction=up: choose maximize or"),
        (["cfg", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials=0: must be at least 1"),
        (["--into", "", "cfg"], "--into : is no name; give letters"),
        (["--into", "../a", "cfg"], "--into ../a: is no name; give letters"),
    ],
)
def test_a_search_that_cannot_be_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    options = ["--config-dir", str(tmp_path), f"output_dir={tmp_path / 'runs'}"]
    with pytest.raises(SystemExit) as end:
        sys.exit(main([*options, *words]))
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message}")
    assert not list(tmp_path.rglob("*.yaml")) and not list(tmp_path.rglob("*.png"))
