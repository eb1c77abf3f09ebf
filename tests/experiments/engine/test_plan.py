"""A plan: the images of a run, their seeds and prompts, and what the run is called."""

from __future__ import annotations

import hashlib
import re

import pytest

from asyndm.errors import UserError
from evaluation.choices import CONF, build_metrics, find_object
from experiments.engine.settings import find_device
from tests.experiments.engine import own_choices
from tests.experiments.engine.own_choices import is_same_run, plan_run
from tests.experiments.engine.test_schema import compose_config
from tests.lab import Lab


@pytest.mark.parametrize(
    ("overrides", "device"),
    [
        ("model=shapes device=null", "cpu"),
        ("model=shapes_mixed device=null", "cpu"),
        ("model=sd15 device=null", "auto"),
        ("model=shapes device=cuda:1", "cuda:1"),
        ("model=sd15 device=cpu", "cpu"),
    ],
)
def test_a_model_runs_on_its_own_device_unless_told_otherwise(overrides: str, device: str) -> None:
    assert find_device(compose_config(*overrides.split())) == device


@pytest.mark.fault(
    what="a finished run asked for again with a class that is none, of a choice that its hash does "
    "not hold",
    kind="settings that name no run",
    now="refused in one line, not found",
)
def test_a_choice_that_is_none_is_refused_where_the_run_is_finished(lab: Lab) -> None:
    whole = ("mask=none", "limit=1", "images_per_prompt=1")
    assert lab(*whole).status == 0
    for way, message in (
        ("", f"curve._target_={own_choices.__name__}.Broken: OSError: boom"),
        ("-m", "curve._target_=no.such.Class: "),
        ("--dry-run", "curve._target_=types.SimpleNamespace: not a Curve"),
        ("", f"tracker._target_={own_choices.__name__}.Broken: OSError: boom"),
        ("", "tracker._target_=types.SimpleNamespace: not a Tracker"),
    ):
        result = lab(*whole, message.partition(": ")[0], *filter(None, [way]))
        assert result.status == 1
        (line,) = result.lines
        assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("target", "message"),
    [(f"{own_choices.__name__}.Broken", "OSError: boom"), ("no.such.Class", "Error loading")],
)
def test_a_metric_that_cannot_be_built_is_named(target: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"metric.own._target_={target}: {message}")):
        build_metrics({"own": {"_target_": target}})


def test_seeds_count_within_a_prompt(lab: Lab) -> None:
    items = plan_run(lab, "images_per_prompt=2", "seed=7", "noise=shared").items
    assert [item.seed for item in items] == [7, 8] * 3
    assert len({item.file for item in items}) == 6


def test_each_prompt_has_noise_of_its_own_under_every_method(lab: Lab) -> None:
    first, second = (
        plan_run(lab, "images_per_prompt=2", f"mask={mask}") for mask in ("none", "dynamic")
    )
    seeds = [item.seed for item in first.items]
    assert seeds == [item.seed for item in second.items] and len(set(seeds)) == 6
    assert [b - a for a, b in zip(seeds[::2], seeds[1::2], strict=True)] == [1, 1, 1]
    assert seeds[0] == int(hashlib.sha256(b"a red dog and a cat").hexdigest()[:8], 16)
    alone = lab.folder / "alone.yaml"
    alone.write_text("- {text: a rabbit, subjects: [rabbit], id: other}\n")
    assert plan_run(lab, f"prompt_set.path={alone}").items[0].seed == seeds[4]
    assert plan_run(lab, "seed=9223372036854775806").items[0].seed < 2**63


def test_labels_name_the_method(lab: Lab) -> None:
    assert plan_run(lab, "mask=none").label == "folder-DM-2"
    assert (
        plan_run(lab, "mask=global", "curve=piecewise_linear").label
        == "folder-DM_concave-piecewise_linear-0.5-2"
    )
    assert plan_run(lab).folder.parent == lab.runs
    other = "guidance._target_=" + own_choices.__name__
    assert plan_run(lab, "mask=none", "solver=dpmpp_2m").label == "folder-DM-dpmpp_2m-2"
    assert plan_run(lab, "mask=none", "guidance=none").label == "folder-DM-2"
    assert plan_run(lab, "mask=none", f"{other}.Half").label == "folder-DM-half-2"
    assert plan_run(lab, "mask=none", f"{other}.Zigzag", "solver=heun").label == (
        "folder-DM-to_and_fro-heun-2"
    )


def test_a_plan_says_what_its_choices_are(lab: Lab) -> None:
    assert plan_run(lab, "mask=static", "guidance.negative_prompt=blur").choices == {
        "mask": {
            "label": "AsynDM_static",
            "bends": True,
            "uniform": False,
            "follows_attention": False,
            "rehearses": True,
        },
        "curve": {"label": "quadratic"},
        "guidance": {
            "label": "5 not 'blur'",
            "forward": 8.0,
            "backward": 0.0,
            "exact": True,
        },
        "solver": {"label": "ddim"},
    }
    assert plan_run(lab, "mask=dynamic", "curve=linear").choices == {
        "mask": {
            "label": "DM",
            "bends": False,
            "uniform": True,
            "follows_attention": False,
            "rehearses": False,
        },
        "curve": {"label": "linear"},
        "guidance": {"label": "5", "forward": 4.0, "backward": 0.0, "exact": True},
        "solver": {"label": "ddim"},
    }


@pytest.mark.parametrize("group", ["mask", "curve"])
def test_a_choice_is_called_as_it_is_chosen(group: str) -> None:
    for path in (CONF / group).glob("*.yaml"):
        target = re.search(r"^_target_: (\S+)$", path.read_text(), re.MULTILINE)
        assert target is not None
        chosen = find_object(target[1])
        assert path.stem == (chosen.name if group == "mask" else chosen.label)


def test_a_mask_of_ones_own_is_called_by_its_own_name(lab: Lab) -> None:
    steady = plan_run(lab, f"mask._target_={own_choices.__name__}.SteadyMask", "mask.name=steady")
    assert steady.label == "folder-steady-quadratic-0.5-2"
    assert steady.choices["mask"]["label"] == steady.mask.name == "steady"
    sometimes = plan_run(lab, "mask=none", f"mask._target_={own_choices.__name__}.Sometimes")
    assert sometimes.label == "folder-sometimes-quadratic-0.5-2"
    assert sometimes.run_id != plan_run(lab, "mask=none").run_id


def test_a_missing_setting_is_named(lab: Lab) -> None:
    with pytest.raises(UserError, match=r"^mask.image is missing: give mask.image="):
        plan_run(lab, "mask=external")


def test_paths_may_be_relative(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab.folder)
    there = plan_run(lab, "output_dir=here", "prompt_set.path=prompts.yaml").folder
    assert there.parent == lab.folder / "here"


def test_subjects_of_another_prompt_set_are_refused_by_name(lab: Lab) -> None:
    result = lab("subjects=animal_words")
    (line,) = result.lines
    assert result.status == 1 and line.startswith(
        "error: subjects.words: Interpolation key 'prompt_set.animals'"
    )
    assert line.endswith("choose another subjects, or what it goes with")


def test_the_words_of_a_list_are_the_subjects(lab: Lab) -> None:
    chosen = plan_run(lab, "subjects=words", "subjects.words=[cat]")
    assert [[subject.text for subject in prompt.subjects] for prompt in chosen.prompts] == [
        ["cat"],
        ["cat"],
        [],
    ]
    assert not is_same_run(
        lab, "subjects=words subjects.words=[cat]", "subjects=words subjects.words=[dog]"
    )
    result = lab("subjects=word_file", "subjects.path=none.txt")
    assert result.lines == ["error: subjects: none.txt: no such word list"]


@pytest.mark.parametrize("mask", ["none", "dynamic"])
def test_a_threshold_below_nothing_is_refused_under_any_mask(lab: Lab, mask: str) -> None:
    result = lab(f"mask={mask}", "mask_threshold=-1")
    assert result.lines == ["error: mask_threshold=-1.0: must be between 0 and 1000"]
