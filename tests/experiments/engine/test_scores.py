"""Scoring: networks are loaded once for all runs of a process, and pictures scored beside the
sampling have the scores they would have had afterwards."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL.Image import Image

from evaluation.metrics import ModelMetric, Score
from evaluation.runs.folder import SCORES_FILE, read_run
from evaluation.runs.prompts import Prompt
from experiments.engine import sampling
from experiments.engine.at_hand import release_metrics, take_metrics
from tests.lab import Lab

WATCHED = "+metric.watched._target_=tests.experiments.engine.test_scores.Watched"


@dataclass(eq=False)
class Watched(ModelMetric[float]):
    """The mean pixel, by a "network" whose loading is noted, as are the threads that score."""

    model: str = "here"
    scale: float = 1.0
    name = "watched"
    models: ClassVar[tuple[str, ...]] = ()

    events: ClassVar[list[str]] = []
    fails: ClassVar[bool] = False

    def check(self, prompts: Sequence[Prompt], size: tuple[int, int]) -> None:
        return

    def load(self) -> float:
        self.events.append("loaded")
        return self.scale

    def score(self, images: Sequence[Image], prompts: Sequence[Prompt]) -> list[Score]:
        self.events.append(threading.current_thread().name.rpartition("_")[0] or "main")
        if self.fails and self.events[-1] == "behind":
            raise RuntimeError("no stream")
        return [Score(self.loaded * float(np.asarray(image).mean())) for image in images]


class Tight(Watched):
    """Where one network is loaded there is no memory for another."""

    holder: ClassVar[str] = ""

    def load(self) -> float:
        if Tight.holder:
            raise torch.OutOfMemoryError("CUDA out of memory")
        Tight.holder = self.name
        return super().load()

    def release(self) -> bool:
        if Tight.holder == self.name:
            Tight.holder = ""
        return super().release()


class Tight2(Tight):
    name = "watched2"


@pytest.fixture(autouse=True)
def forget() -> None:
    take_metrics({})
    Watched.events.clear()


def test_a_network_is_loaded_once_for_all_runs_of_a_sweep(lab: Lab) -> None:
    assert lab("-m", "mask=none,global", "num_inference_steps=1,2", WATCHED).status == 0
    assert Watched.events == ["main", "loaded", "main", "main", "main"]


def test_another_metric_of_that_name_is_another_network(lab: Lab) -> None:
    lab("-m", "num_inference_steps=1,2", "+metric.watched.scale=2,3", WATCHED)
    assert Watched.events.count("loaded") == 4
    assert release_metrics() and not release_metrics()


def test_weights_that_changed_are_read_anew(tmp_path: Path) -> None:
    class Local(Watched):
        models = ("model",)

    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"1")
    first = take_metrics({"watched": Local(str(tmp_path))})["watched"]
    assert take_metrics({"watched": Local(str(tmp_path))})["watched"] is first
    (tmp_path / "model.safetensors").write_bytes(b"23")
    assert take_metrics({"watched": Local(str(tmp_path))})["watched"] is not first


def test_pictures_are_scored_beside_the_sampling_as_they_would_be_after_it(lab: Lab) -> None:
    settings = ("images_per_prompt=4", "batch_size=5", WATCHED)
    after, beside = lab.folder / "after", lab.folder / "beside"
    assert lab(*settings, f"output_dir={after}").status == 0
    assert Watched.events == ["main", "loaded", "main", "main"]
    take_metrics({})
    Watched.events.clear()
    assert lab(*settings, f"output_dir={beside}", "concurrent_scoring=true").status == 0
    assert Watched.events[0] == "behind"
    first, second = (next(folder.glob("*/" + SCORES_FILE)) for folder in (after, beside))
    assert first.read_bytes() == second.read_bytes()
    timings = read_run(second.parent).record["timings"]
    assert timings["scoring_seconds"] > 0 and timings["images_sampled"] == 12


def test_what_fails_beside_the_sampling_is_tried_after_it(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Watched, "fails", True)
    result = lab("images_per_prompt=4", "batch_size=5", WATCHED, "concurrent_scoring=true")
    assert result.status == 0
    assert Watched.events == ["behind", "main", "loaded", "main", "main"]
    assert len(read_run(lab.only_run()).scores) == 12


def test_networks_that_do_not_fit_together_are_not_loaded_for_each_batch(lab: Lab) -> None:
    tight = [
        f"+metric.{name}._target_=tests.experiments.engine.test_scores.{kind.__name__}"
        for name, kind in (("watched", Tight), ("watched2", Tight2))
    ]
    result = lab("images_per_prompt=4", "batch_size=2", *tight, "concurrent_scoring=true")
    assert result.status == 0
    assert Watched.events[:5] == ["behind", "loaded", "behind", "behind", "loaded"]
    assert Watched.events.count("behind") == 3  # the second one also when there was no memory
    assert Watched.events.count("loaded") == 4  # each once beside the sampling, and once after it
    assert len(read_run(lab.only_run()).scores) == 24


def fail_once(sample: Callable[..., Any], batches: list[int]) -> Callable[..., Any]:
    """`sample` that has no memory for its second batch the first time."""

    def call(*args: Any) -> Any:
        batches.append(len(args[-1]))
        if len(batches) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return sample(*args)

    return call


@pytest.mark.parametrize("holds", [True, False])
def test_sampling_takes_the_memory_of_the_metrics_before_it_halves_a_batch(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, holds: bool
) -> None:
    batches: list[int] = []
    settings = ("images_per_prompt=4", "batch_size=4")
    if holds:
        assert lab(*settings, f"output_dir={lab.folder / 'first'}", WATCHED).status == 0
    monkeypatch.setattr(sampling, "_sample", fail_once(sampling._sample, batches))
    result = lab(*settings, WATCHED)
    assert result.status == 0
    assert batches == ([4, 4, 4, 4] if holds else [4, 4, 2, 2, 2, 2])
    assert len(read_run(lab.only_run()).scores) == 12
