"""What Hydra merged is kept, and is what Hydra would merge anew."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf

from evaluation.choices import CONF
from experiments.engine import merged_files
from experiments.engine.merged_files import MergedFiles, keep_merged_files
from experiments.engine.registration import register

JOBS: tuple[list[str], ...] = (
    [],
    ["mask=none"],
    ["mask=none", "num_inference_steps=7"],
    ["num_inference_steps=7", "mask=none", "+metric.brightness._target_=mine.Brightness"],
    ["+metric/clip_score@metric.second=default", "metric=none"],
    ["mask=global", "curve=linear", "mask.scale=1e-3"],
    ["experiment=demo", "curve=linear"],
    ["hydra/launcher=processes", "hydra.launcher.n_jobs=3", "~subjects"],
)


@pytest.fixture
def kept() -> Iterator[MergedFiles]:
    register()
    kept = keep_merged_files()
    kept.forget()
    yield kept
    kept.forget()


def compose_text(job: list[str]) -> str:
    try:
        config = compose("config", job, return_hydra_config=True)
    except HydraException as error:
        return f"{type(error).__name__}: {error}"
    flags = [config._get_flag("struct"), config.hydra._get_flag("readonly")]
    return f"{flags}\n{OmegaConf.to_yaml(config)}"


def test_kept_is_what_is_merged_anew(kept: MergedFiles) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        anew = []
        for job in JOBS:
            kept.forget()
            anew.append(compose_text(job))
        kept.forget()
        assert [compose_text(job) for job in (*JOBS, *JOBS)] == anew * 2
    assert len(set(anew)) == len(JOBS)


def test_same_choices_are_merged_once(kept: MergedFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []
    load: Any = ConfigLoaderImpl._load_single_config

    def count(*given: Any, **named: Any) -> Any:
        loaded.append(1)
        return load(*given, **named)

    monkeypatch.setattr(ConfigLoaderImpl, "_load_single_config", count)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        compose("config", ["mask=none"])
        merged = len(loaded)
        assert merged > 10
        compose("config", ["num_inference_steps=3", "mask=none"])
        assert len(loaded) == merged
        compose("config", ["mask=global"])
        assert len(loaded) > merged


def test_what_is_set_on_one_is_not_on_the_next(kept: MergedFiles) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        first = compose("config")
        steps = first.num_inference_steps
        first.num_inference_steps = steps + 1
        assert compose("config").num_inference_steps == steps


def test_changed_added_and_removed_files_are_read(kept: MergedFiles, tmp_path: Path) -> None:
    main, group = tmp_path / "main.yaml", tmp_path / "colour"
    group.mkdir()
    main.write_text("defaults: [colour: red, _self_]\nname: old\n")
    (group / "red.yaml").write_text("shade: 1\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        assert compose("main") == {"colour": {"shade": 1}, "name": "old"}
        (group / "red.yaml").write_text("shade: 2\n")
        os.utime(group / "red.yaml", ns=(0, 0))  # a clock may be too coarse to tell
        assert compose("main").colour.shade == 2
        main.write_text("defaults: [colour: red, _self_]\nname: newer\n")
        assert compose("main").name == "newer"
        with pytest.raises(MissingConfigException):
            compose("main", ["colour=blue"])
        (group / "blue.yaml").write_text("shade: 3\n")
        assert compose("main", ["colour=blue"]).colour.shade == 3
        (group / "blue.yaml").unlink()
        with pytest.raises(MissingConfigException):
            compose("main", ["colour=blue"])


def test_no_more_is_kept_than_is_said(
    kept: MergedFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merged_files, "COMBINATIONS", 3)
    (tmp_path / "main.yaml").write_text("defaults: [colour: red0]\n")
    (tmp_path / "colour").mkdir()
    for i in range(6):
        (tmp_path / "colour" / f"red{i}.yaml").write_text(f"shade: {i}\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        for i in (*range(6), *range(6)):
            assert compose("main", [f"colour=red{i}"]).colour.shade == i
    assert len(kept._chosen) == len(kept._merged) == 3
