"""From a composed choice to an object of its class, as Hydra would find it."""

from __future__ import annotations

import re
from os.path import join
from pathlib import Path

import pytest
from hydra.utils import get_object

from asyndm.errors import UserError, join_lines
from evaluation.choices import (
    CONF,
    build,
    build_metrics,
    find_object,
    list_targets,
    summarize_class,
)
from evaluation.metrics.exact import Exact


class Broken:
    """Cannot be built."""

    def __init__(self) -> None:
        raise OSError("boom\nand more")


class Outer:
    """Has a class of its own."""

    class Inner:
        """Within another one."""


BROKEN = f"{__name__}.Broken"


@pytest.mark.parametrize(
    "path",
    [
        "nowhere.Curve",
        "os.path.joint",
        "os.paths",
        "builtins.str.title_of",
        "os.path.join",
        "collections.OrderedDict.fromkeys",
        "asyndm.curves.Cubic",
        "asyndm.nothing.Curve",
        "asyndm.curves",
        f"{__name__}.Outer.Inner",
        f"{__name__}.Outer.Other",
        "",
    ],
)
def test_what_a_name_stands_for_is_found_and_refused_as_by_hydra(path: str) -> None:
    try:
        expected = get_object(path)
    except ImportError as error:
        with pytest.raises(ImportError) as raised:
            find_object(path)
        assert join_lines(raised.value) == join_lines(error)
    else:
        assert find_object(path) == expected


def test_a_module_that_breaks_when_imported_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "breaking.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match="ZeroDivisionError"):
        find_object("breaking.Metric")
    for name in (".breaking", "breaking..Metric"):
        with pytest.raises(ValueError, match="invalid dotstring"):
            find_object(name)


def test_a_choice_is_built_of_its_settings_without_its_name() -> None:
    joined = build({"_target_": "pathlib.PurePosixPath", "name": "of no matter"})
    assert str(joined) == "." and join("a", "b") == find_object("os.path.join")("a", "b")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"_target_": "nowhere.Metric"}, "metric.own._target_=nowhere.Metric: Error loading"),
        ({"_target_": BROKEN}, f"metric.own._target_={BROKEN}: OSError: boom and more"),
        ({"_target_": BROKEN, "more": 1}, "metric.own.more: no such setting of Broken"),
        ({"_target_": f"{__name__}.Outer"}, "metric.own._target_=.*Outer: not a Metric"),
        ({"model": "x"}, r"metric.own={'model': 'x'}: not a metric \(no _target_\)"),
        (5, r"metric.own=5: not a metric \(no _target_\)"),
    ],
)
def test_a_choice_that_cannot_be_built_is_told_with_its_setting(
    choice: object, message: str
) -> None:
    pattern = message if "not a" in message else re.escape(message)
    with pytest.raises(UserError, match=pattern) as raised:
        build_metrics({"own": choice})
    assert "\n" not in str(raised.value)


def test_metrics_go_by_their_names_and_none_is_left_out() -> None:
    exact = {"_target_": "evaluation.metrics.exact.Exact"}
    assert [*build_metrics({"a": exact, "b": None})] == ["exact"]
    with pytest.raises(UserError, match="metric.b: another metric is called exact as well"):
        build_metrics({"a": exact, "b": exact})


def test_a_class_is_summarized_only_where_a_choice_offers_it(tmp_path: Path) -> None:
    first = " ".join((Exact.__doc__ or "").partition("\n\n")[0].split())
    assert summarize_class("evaluation.metrics.exact.Exact") == first
    assert summarize_class(BROKEN) == summarize_class("nowhere.Metric") == ""
    (tmp_path / "metric").mkdir()
    (tmp_path / "metric" / "own.yaml").write_text(f"own: {{_target_: {BROKEN}}}\n")
    assert summarize_class(BROKEN, [tmp_path]) == "Cannot be built."
    with pytest.raises(UserError, match="no such folder"):
        summarize_class(BROKEN, [tmp_path / "none"])


@pytest.mark.parametrize("target", sorted(list_targets((CONF,))))
def test_a_metric_of_ours_is_described_in_whole_sentences(target: str) -> None:
    described = summarize_class(target)
    assert described.endswith("."), described
