"""Jobs of a sweep are composed as Hydra composes them."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from evaluation.choices import CONF
from experiments.engine.compose import Composer
from experiments.engine.registration import register


def show(config: DictConfig) -> tuple[str, str]:
    """As it is written, and as it is read."""
    return OmegaConf.to_yaml(config), OmegaConf.to_yaml(config, resolve=True)


def test_combinations_of_choices_are_what_hydra_makes_of_them() -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composer = Composer()
        for model, mask, guidance in product(("shapes", "sdxl"), ("none", "dynamic"), ("cfg", "z")):
            choice = {"cfg": "cfg", "z": "z_sampling"}[guidance]
            words = [f"model={model}", f"mask={mask}", "eta=0.5", f"guidance={choice}"]
            made, expected = composer(words), compose("config", words)
            assert show(made) == show(expected)
            parts = [config._get_node("guidance") for config in (made, expected)]
            assert parts[0].__class__ is parts[1].__class__
            assert OmegaConf.is_struct(made) == OmegaConf.is_struct(expected)


def test_a_choice_that_changes_more_than_its_part_is_composed_whole(tmp_path: Path) -> None:
    (tmp_path / "guidance").mkdir()
    (tmp_path / "guidance" / "wide.yaml").write_text(
        "# @package _global_\nguidance: {guidance_scale: 3.0}\ncurve: {concavity: 0.25}\n"
    )
    register()
    path = f"hydra.searchpath=[file://{tmp_path}]"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composer = Composer(common=[path])
        for mask, guidance in product(("none", "dynamic"), ("cfg", "wide")):
            words = [f"mask={mask}", f"guidance={guidance}"]
            made = composer(words)
            assert show(made) == show(compose("config", [path, *words]))
    assert made.curve.concavity == 0.25 and made.mask.name == "dynamic"


def test_files_are_merged_once_a_choice_and_not_once_a_combination(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    merged: list[tuple[str, ...]] = []

    def count(self: Composer, *choices: str) -> DictConfig:
        merged.append(choices)
        return compose("config", list(choices))

    monkeypatch.setattr(Composer, "_merge_files", count)
    masks, guidances = ("none", "global", "dynamic"), ("cfg", "pag", "seg")
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        composer = Composer()
        for mask, guidance in product(masks, guidances):
            composer([f"mask={mask}", f"guidance={guidance}"])
    assert len(merged) == len(masks) + len(guidances) - 1
