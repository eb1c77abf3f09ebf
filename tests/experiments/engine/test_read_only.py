"""Where the folder of runs cannot be written to, Hydra's own files go elsewhere."""

from __future__ import annotations

import atexit
import os
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from experiments.engine.read_only import redirect_hydra_files


def make_config(folder: Path) -> DictConfig:
    hydra = {"run": {"dir": "here"}, "sweep": {"dir": "there"}}
    config = OmegaConf.create({"output_dir": str(folder), "hydra": hydra})
    OmegaConf.set_readonly(config.hydra, True)
    return config


def test_hydra_writes_elsewhere_where_runs_can_only_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed: list[str] = []
    monkeypatch.setattr(atexit, "register", lambda do, path, **settings: removed.append(path))
    monkeypatch.setattr(os, "access", lambda *arguments, **settings: False)
    config = make_config(tmp_path)
    assert redirect_hydra_files(config)
    assert config.hydra.run.dir == config.hydra.sweep.dir == removed[0]
    Path(removed[0]).rmdir()


def test_hydra_writes_beside_runs_that_can_be_written(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "not yet"):
        config = make_config(folder)
        assert not redirect_hydra_files(config)
        assert (config.hydra.run.dir, config.hydra.sweep.dir) == ("here", "there")
