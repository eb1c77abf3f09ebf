"""Every YAML of ``conf/`` composes, has a type, and stands for a class that takes just these
settings."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from evaluation.choices import CONF, build, read_arguments
from experiments.engine import registration, schema
from experiments.engine.identity import ADVICE
from experiments.run import main
from experiments.training.shapes.settings import register

GROUPS = (
    "model",
    "curve",
    "mask",
    "prompt_set",
    "subjects",
    "guidance",
    "solver",
    "metric",
    "tracker",
)
CHOICES = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
EXPERIMENTS = sorted((CONF / "experiment").glob("*.yaml"))
GIVEN = {
    "path": "p.yaml",
    "image": "mask.png",
    "boxes": {"dog": [0, 0, 0.5, 1]},
    "prompts_path": "p.json",
    "items_path": "i.json",
    "metadata": "m.jsonl",
    "words": ["dog"],
}
"""Values of the settings that have no default."""


def compose_config(*overrides: str) -> DictConfig:
    registration.register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", list(overrides))


def test_the_groups_are_these() -> None:
    folders = {path.name for path in CONF.iterdir() if path.is_dir()}
    assert folders == {*GROUPS, "experiment", "launcher", "training"}


@pytest.mark.parametrize(("group", "name"), CHOICES)
def test_a_choice_stands_for_a_class_with_these_settings(group: str, name: str) -> None:
    node = compose_config("prompt_set=animal_activity", f"{group}={name}")[group]
    choices = list(node.values()) if group == "metric" else [node]
    for choice in choices:
        if group != "metric":
            assert choice.name == name
            typed = OmegaConf.get_type(choice) in schema.SCHEMAS[group].values()
            assert typed != (group in schema.OPEN)
        for key in OmegaConf.missing_keys(choice):
            choice[key.rpartition(".")[2]] = GIVEN[key.rpartition(".")[2]]
        content = OmegaConf.to_container(choice, resolve=True)
        keywords = read_arguments(content)  # type: ignore[arg-type]
        for advice in ("threads", *ADVICE):
            keywords.pop(advice, None)
        target = get_object(choice._target_)
        inspect.signature(target).bind(**keywords)
        if group != "model":
            assert build({"_target_": choice._target_, **keywords}) is not None


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_an_experiment_composes_and_says_its_command(path: Path) -> None:
    package, command = path.read_text().splitlines()[:2]
    assert package == "# @package _global_"
    assert command == f"# python -m experiments.run experiment={path.stem}"
    config = compose_config(f"experiment={path.stem}")
    assert set(config) == set(compose_config())


def test_the_training_of_the_embedded_models_composes() -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("train_shapes", ["trunk.seconds=300"])
    assert config.trunk.seconds == 300 and not OmegaConf.missing_keys(config)
    assert set(config.branches) == {"shapes", "shapes_mixed"}


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--cfg", "job"], ["--cfg", "job", "experiment=curves"]]
)
def test_help_and_config_are_shown(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "num_inference_steps" in shown and ("--help" not in arguments or "--dry-run" in shown)


def test_nothing_is_registered_by_being_imported() -> None:
    code = (
        "from omegaconf import OmegaConf; from experiments.engine import registration, sweep; "
        "assert not OmegaConf.has_resolver('embedded'); registration.register(); "
        "assert OmegaConf.create({'path': '${embedded:shapes}'}).path.endswith('weights/shapes')"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=CONF.parent)
