"""Settings of a command line, composed without Hydra as Hydra would."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from asyndm.errors import UserError
from evaluation.choices import CONF
from evaluation.compose import compose
from experiments.engine.registration import register

CLIP = "metric=clip_shapes"


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["metric=none"],
        ["metric=geneval", "metric.geneval.threshold=0.5", "metric.geneval.max_objects=4"],
        ["metric=[clip_shapes,exact]"],
        ["metric=exact", CLIP],
        [CLIP, "metric.clip_shapes.dtype=float32", "metric.clip_shapes.model=null"],
        [CLIP, "metric.clip_shapes.model=/a b/c:d", "metric.clip_shapes.device=True"],
        ["metric=vqa_score", 'metric.vqa_score.question="Does {} x, \\"y\\"?"'],
        ["metric=vqa_score", "metric.vqa_score.answer=Yes"],
        ["metric.exact=null"],
        ["~metric.exact"],
        ["~metric"],
        ["metric=[]"],
        [CLIP, "metric.clip_shapes.model=\\${foo}"],
        [CLIP, "metric.clip_shapes.model=${metric.clip_shapes.dtype}"],
        [CLIP, "+metric.own._target_=a.B", "++metric.own.x=1e3", "++metric.clip_shapes.dtype=no"],
        [CLIP, "metric.clip_shapes={dtype:[a,b],device:{c:1}}"],
        ["metric=blip_vqa_shapes", "metric.blip_vqa_shapes.model="],
    ],
    ids=" ".join,
)
def test_metrics_are_composed_as_hydra_composes_them(settings: list[str]) -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = hydra_compose("config", settings)
    expected = OmegaConf.to_container(config.metric, resolve=True)
    if settings and settings[0] == "metric=geneval":
        assert isinstance(expected, dict)
        expected["geneval"]["metadata"] = None
    assert compose(settings)["metric"] == expected


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["metric=clip_orginal"], "clip_orginal: no such choice (did you mean clip_original?)"),
        (["metric=[exact,nope]"], "metric=nope: no such choice"),
        (["metric=../metric/exact"], "metric=../metric/exact: no such choice"),
        (["metric=exact,clip_shapes"], "several metrics are a list: metric=[exact,clip_shapes]"),
        (["metric=[exact"], "metric=[exact: cannot be read ("),
        ([CLIP, "metric.clip_shapes.dtpe=x"], "no such setting (did you mean metric.clip_shapes.d"),
        (["batch_size=3"], "batch_size: no such setting; choose from metric, columns"),
        (["+batch_size=3"], "batch_size: no such setting; choose from metric, columns"),
        (["metric"], "metric: no setting; give NAME=VALUE"),
        (["~metric.exct"], "metric.exct: no such setting (did you mean metric.exact?)"),
        ([CLIP, "metric.clip_shapes.model=${foo"], "cannot be read ("),
        ([CLIP, "metric.clip_shapes.model=${foo}"], "Interpolation key 'foo' not found; if a text"),
        ([CLIP, "metric.clip_shapes.model=it's"], "quote it: 'metric.clip_shapes.model=\"it's\"'"),
        (["+metric.exact._target_=x"], "+metric.exact._target_=x: is there already"),
        (["metric=null"], "metric=null: no such choice; choose from"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_composed_is_refused_in_one_line(settings: list[str], message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as raised:
        compose(settings)
    assert "\n" not in str(raised.value)


def test_choices_of_ones_own_come_after_those_of_conf(tmp_path: Path) -> None:
    (tmp_path / "metric").mkdir()
    (tmp_path / "metric" / "own.yaml").write_text("own: {_target_: own.Metric}\n")
    (tmp_path / "metric" / "exact.yaml").write_text("exact: {_target_: own.Metric}\n")
    composed = compose(["metric=[own,exact]"], [tmp_path])
    assert composed["metric"] == {
        "own": {"_target_": "own.Metric"},
        "exact": {"_target_": "evaluation.metrics.exact.Exact"},
    }
    with pytest.raises(UserError, match=re.escape("no such folder")):
        compose(["metric=own"], [tmp_path / "none"])


@pytest.mark.parametrize("content", ["[a, b]\n", "a: [\n", "defaults: [exact]\n", "\x01\n"])
def test_a_file_that_is_no_choice_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "metric").mkdir()
    (tmp_path / "metric" / "own.yaml").write_text(content)
    with pytest.raises(UserError, match=r"own\.yaml: not a choice \("):
        compose(["metric=own"], [tmp_path])
