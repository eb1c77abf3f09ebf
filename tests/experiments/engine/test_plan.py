"""A run is known by what can change a pixel or a score, and by nothing else."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import asyndm
from asyndm.errors import UserError
from asyndm.masks import DynamicMask, NoMask
from evaluation.choices import CONF, build_metrics, find_object
from experiments.engine.cost import forecast_per_image
from experiments.engine.guidance import build_guidance, name_guidance, read_sampler_arguments
from experiments.engine.plan import Plan, make_plan
from experiments.engine.sampling import sample_arguments
from experiments.engine.settings import find_device
from tests.experiments.engine.test_schema import composed
from tests.lab import Lab


class Half:
    """Guidance at half of its strength."""

    def __init__(self, guidance_scale: float, negative_prompt: str | None = None) -> None:
        self.guidance_scale, self.negative_prompt = guidance_scale / 2, negative_prompt


class Fixed:
    """Guidance of one strength."""

    guidance_scale = 3.0


class Doubled:
    """Guidance that works out its strength."""

    def __init__(self, guidance_scale: float, negative_prompt: str | None = None) -> None:
        self._scale = guidance_scale

    @property
    def guidance_scale(self) -> float:
        return 2 * self._scale

    @property
    def negative_prompt(self) -> str:
        return "blur"


@dataclass(frozen=True, slots=True)
class Slotted:
    """Guidance without a mapping of its attributes."""

    guidance_scale: float
    negative_prompt: str | None = None


class Wordy:
    """Guidance whose strength is no number."""

    guidance_scale = "strong"


class Broken:
    """A choice that cannot be built, whatever its group."""

    def __init__(self, **settings: Any) -> None:
        raise OSError("boom")


class SteadyMask(DynamicMask):
    """A mask that says nothing of itself."""


class Sometimes(NoMask):
    """A mask that is not the one that it is made from."""


class Dear:
    """Guidance that says what it costs."""

    guidance_scale, label = 3.0, "dear"

    def evaluations(self, guided: bool, arguments: dict[str, Any]) -> int:
        return 5


def load(path: str, **settings: Any) -> Any:
    """Loads a model as all are."""
    return asyndm.load(path, **settings)


def plan(lab: Lab, *overrides: str) -> Plan:
    return make_plan(composed(*lab.arguments(*overrides)))


def same(lab: Lab, first: str, second: str) -> bool:
    return plan(lab, *first.split()).run_id == plan(lab, *second.split()).run_id


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("mask=none curve=quadratic", "mask=none curve=exponential curve.concavity=0.9"),
        ("mask=none", "mask=dynamic curve=linear"),
        ("mask=none", "mask=dynamic mask.threshold=2 curve.concavity=0"),
        ("mask=none", "mask=global curve=piecewise_linear curve.concavity=0"),
        ("mask=global", "mask=global batch_size=3 tracker=wandb tracker.images=2 pictures=0"),
        ("model.dtype=auto", "model.dtype=float32"),
        ("model.dtype=auto", "device=null model.device=cpu"),
        ("device=cuda", "device=cuda:1 model.dtype=float16"),
        ("model.dtype=float32", "device=cuda model.dtype=float32"),
        ("guidance=none", "guidance=cfg guidance.guidance_scale=1 guidance.negative_prompt=blur"),
        ("metric=none", "metric=exact"),
        ("prompt_set.limit=3", "limit=null"),
    ],
)
def test_what_cannot_matter_makes_no_other_run(lab: Lab, first: str, second: str) -> None:
    assert same(lab, first, second)


@pytest.mark.parametrize(
    "override",
    [
        "mask=none",
        "mask=global",
        "mask=static",
        "mask.threshold=1.5",
        "curve=exponential",
        "curve.concavity=0.6",
        "num_inference_steps=3",
        "eta=0",
        "seed=1",
        "images_per_prompt=2",
        "limit=2",
        "height=64",
        "width=64",
        "guidance.guidance_scale=3",
        "guidance.negative_prompt=blur",
        "model.dtype=float16",
        "device=cuda",
        "device=null model.device=cuda",
    ],
)
def test_what_can_matter_makes_another_run(lab: Lab, override: str) -> None:
    assert not same(lab, "", override)


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
    assert find_device(composed(*overrides.split())) == device


@pytest.mark.parametrize(("gpu", "dtype"), [("cuda", "float16"), ("cpu", "float32")])
def test_on_any_device_the_dtype_is_that_of_the_device_found(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, gpu: str, dtype: str
) -> None:
    monkeypatch.setattr("asyndm.models.choose_device", lambda _: torch.device(gpu))
    assert plan(lab, "device=auto").identity["model"]["dtype"] == dtype


@pytest.mark.fault(
    what="another class of guidance, or another loader of the model",
    kind="settings that name no run",
    now="built, and another run",
)
@pytest.mark.parametrize(
    "override", [f"guidance._target_={__name__}.Half", f"model._target_={__name__}.load"]
)
def test_another_class_is_another_run(lab: Lab, override: str) -> None:
    assert not same(lab, "", override)


def test_the_sampler_is_told_what_the_built_guidance_says(lab: Lab) -> None:
    own = plan(lab, f"guidance._target_={__name__}.Half", "guidance.guidance_scale=4")
    assert sample_arguments(own)["guidance_scale"] == 2
    assert "_target_" not in sample_arguments(own)
    assert sample_arguments(plan(lab, "guidance=none"))["guidance_scale"] == 1


@pytest.mark.fault(
    what="a guidance class whose guidance_scale is a class attribute, a property or a slot",
    kind="settings that are left out",
    now="the sampler is told it",
)
@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("Fixed", {}, {"guidance_scale": 3.0}),
        ("Doubled", {"guidance_scale": 4}, {"guidance_scale": 8, "negative_prompt": "blur"}),
        ("Slotted", {"guidance_scale": 4}, {"guidance_scale": 4}),
    ],
)
def test_guidance_says_its_scale_in_any_way(
    name: str, given: dict[str, Any], told: dict[str, Any]
) -> None:
    assert read_sampler_arguments({"_target_": f"{__name__}.{name}", **given}) == told


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("Wordy", {}, "its guidance_scale is 'strong', which must be a number or None"),
        (
            "Slotted",
            {"guidance_scale": float("nan")},
            "its guidance_scale is nan, which must be a number or None",
        ),
        (
            "Slotted",
            {"guidance_scale": True},
            "its guidance_scale is True, which must be a number or None",
        ),
        ("Doubled", {"guidance_scale": None}, "TypeError: unsupported operand"),
        ("Broken", {}, "OSError: boom"),
    ],
)
def test_guidance_without_a_number_is_refused(
    name: str, given: dict[str, Any], message: str
) -> None:
    target = f"{__name__}.{name}"
    with pytest.raises(UserError, match=re.escape(f"guidance._target_={target}: {message}")):
        read_sampler_arguments({"_target_": target, **given})


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
        ("", f"curve._target_={__name__}.Broken: OSError: boom"),
        ("-m", "curve._target_=no.such.Class: "),
        ("--dry-run", "curve._target_=types.SimpleNamespace: not a Curve"),
        ("", f"tracker._target_={__name__}.Broken: OSError: boom"),
        ("", "tracker._target_=types.SimpleNamespace: not a Tracker"),
    ):
        result = lab(*whole, message.partition(": ")[0], *filter(None, [way]))
        assert result.status == 1
        (line,) = result.lines
        assert line.startswith(f"error: {message}")


@pytest.mark.parametrize(
    ("target", "message"),
    [(f"{__name__}.Broken", "OSError: boom"), ("no.such.Class", "Error loading")],
)
def test_a_metric_that_cannot_be_built_is_named(target: str, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(f"metric.own._target_={target}: {message}")):
        build_metrics({"own": {"_target_": target}})


def test_files_are_known_by_their_content(lab: Lab) -> None:
    before = plan(lab).run_id
    copy = lab.folder / "elsewhere"
    shutil.copytree(lab.pipeline, copy)
    shutil.copy(lab.folder / "prompts.yaml", lab.folder / "same.yml")
    assert (
        plan(lab, f"model.path={copy}", f"prompt_set.path={lab.folder / 'same.yml'}").run_id
        == before
    )
    weights = next((copy / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")
    assert plan(lab, f"model.path={copy}").run_id != before
    (lab.folder / "same.yml").write_text("- {text: a red dog, subjects: [dog]}\n")
    assert plan(lab, f"prompt_set.path={lab.folder / 'same.yml'}").run_id != before


def test_a_mask_image_is_known_by_its_content(lab: Lab) -> None:
    for name, value in (("a", 0), ("b", 0), ("c", 255)):
        Image.fromarray(np.full((4, 4), value, np.uint8)).save(lab.folder / f"{name}.png")
    a, b, c = (
        plan(lab, "mask=external", f"mask.image={lab.folder / name}.png").run_id for name in "abc"
    )
    assert a == b != c


def test_concavities_of_subjects_matter_unless_no_pixel_is_on_the_curve(lab: Lab) -> None:
    path = lab.folder / "own.yaml"
    path.write_text("- {text: a red dog, subjects: [dog], concavities: [0.4]}\n")
    own = f"prompt_set.path={path}"
    bare = lab.folder / "bare.yaml"
    bare.write_text("- {text: a red dog, subjects: [dog]}\n")
    assert not same(lab, f"{own} curve.concavity=0", f"{own} mask=none")
    assert not same(lab, own, f"prompt_set.path={bare}")
    assert same(lab, f"{own} mask=none", f"prompt_set.path={bare} mask=none")


def test_seeds_count_within_a_prompt(lab: Lab) -> None:
    items = plan(lab, "images_per_prompt=2", "seed=7", "noise=shared").items
    assert [item.seed for item in items] == [7, 8] * 3
    assert len({item.file for item in items}) == 6


def test_each_prompt_has_noise_of_its_own_under_every_method(lab: Lab) -> None:
    first, second = (
        plan(lab, "images_per_prompt=2", f"mask={mask}") for mask in ("none", "dynamic")
    )
    seeds = [item.seed for item in first.items]
    assert seeds == [item.seed for item in second.items] and len(set(seeds)) == 6
    assert [b - a for a, b in zip(seeds[::2], seeds[1::2], strict=True)] == [1, 1, 1]
    assert seeds[0] == int(hashlib.sha256(b"a red dog and a cat").hexdigest()[:8], 16)
    alone = lab.folder / "alone.yaml"
    alone.write_text("- {text: a rabbit, subjects: [rabbit], id: other}\n")
    assert plan(lab, f"prompt_set.path={alone}").items[0].seed == seeds[4]
    assert plan(lab, "seed=9223372036854775806").items[0].seed < 2**63


def test_shared_noise_is_another_run_and_known_as_before(lab: Lab) -> None:
    assert not same(lab, "noise=own", "noise=shared")
    assert "noise" not in plan(lab, "noise=shared").identity


def test_labels_name_the_method(lab: Lab) -> None:
    assert plan(lab, "mask=none").label == "folder-DM-2"
    assert (
        plan(lab, "mask=global", "curve=piecewise_linear").label
        == "folder-DM_concave-piecewise_linear-0.5-2"
    )
    assert plan(lab).folder.parent == lab.runs


def test_a_plan_says_what_its_choices_are(lab: Lab) -> None:
    assert plan(lab, "mask=static", "guidance.negative_prompt=blur").choices == {
        "mask": {
            "label": "AsynDM_static",
            "bends": True,
            "uniform": False,
            "follows_attention": False,
            "rehearses": True,
        },
        "curve": {"label": "quadratic"},
        "guidance": {"label": "5 not 'blur'"},
    }
    assert plan(lab, "mask=dynamic", "curve=linear").choices == {
        "mask": {
            "label": "DM",
            "bends": False,
            "uniform": True,
            "follows_attention": False,
            "rehearses": False,
        },
        "curve": {"label": "linear"},
        "guidance": {"label": "5"},
    }


@pytest.mark.parametrize("group", ["mask", "curve"])
def test_a_choice_is_called_as_it_is_chosen(group: str) -> None:
    for path in (CONF / group).glob("*.yaml"):
        target = re.search(r"^_target_: (\S+)$", path.read_text(), re.MULTILINE)
        assert target is not None
        chosen = find_object(target[1])
        assert path.stem == (chosen.name if group == "mask" else chosen.label)


def test_a_mask_of_ones_own_is_called_by_its_own_name(lab: Lab) -> None:
    steady = plan(lab, f"mask._target_={__name__}.SteadyMask", "mask.name=steady")
    assert steady.label == "folder-steady-quadratic-0.5-2"
    assert steady.choices["mask"]["label"] == steady.mask.name == "steady"
    sometimes = plan(lab, "mask=none", f"mask._target_={__name__}.Sometimes")
    assert sometimes.label == "folder-sometimes-quadratic-0.5-2"
    assert sometimes.run_id != plan(lab, "mask=none").run_id


def test_guidance_of_ones_own_says_its_label_and_cost_or_has_the_usual_ones(lab: Lab) -> None:
    said = {"_target_": f"{__name__}.Dear"}
    assert name_guidance(build_guidance(said), said) == "dear"
    assert read_sampler_arguments(said) == {"guidance_scale": 3.0}
    half = plan(lab, f"guidance._target_={__name__}.Half", "guidance.guidance_scale=2")
    assert half.choices["guidance"]["label"] == "Half 2"
    assert forecast_per_image(half) == lab.steps  # half of 2 guides no more
    half = plan(lab, f"guidance._target_={__name__}.Half", "guidance.guidance_scale=4")
    assert forecast_per_image(half) == 2 * lab.steps
    object.__setattr__(half, "guidance", Dear())
    assert forecast_per_image(half) == 5 * lab.steps


def test_a_missing_setting_is_named(lab: Lab) -> None:
    with pytest.raises(UserError, match=r"^mask.image is missing: give mask.image="):
        plan(lab, "mask=external")


def test_paths_may_be_relative(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(lab.folder)
    assert plan(lab, "output_dir=here", "prompt_set.path=prompts.yaml").folder.parent == Path(
        lab.folder / "here"
    )


def test_subjects_of_another_prompt_set_are_refused_by_name(lab: Lab) -> None:
    result = lab("subjects=animal_words")
    (line,) = result.lines
    assert result.status == 1 and line.startswith(
        "error: subjects.words: Interpolation key 'prompt_set.animals'"
    )
    assert line.endswith("choose another subjects, or what it goes with")


def test_the_words_of_a_list_are_the_subjects(lab: Lab) -> None:
    chosen = plan(lab, "subjects=words", "subjects.words=[cat]")
    assert [[subject.text for subject in prompt.subjects] for prompt in chosen.prompts] == [
        ["cat"],
        ["cat"],
        [],
    ]
    assert not same(
        lab, "subjects=words subjects.words=[cat]", "subjects=words subjects.words=[dog]"
    )
    result = lab("subjects=word_file", "subjects.path=none.txt")
    assert result.lines == ["error: subjects: none.txt: no such word list"]


@pytest.mark.parametrize("mask", ["none", "dynamic"])
def test_a_threshold_below_nothing_is_refused_under_any_mask(lab: Lab, mask: str) -> None:
    assert lab(f"mask={mask}", "mask_threshold=-1").lines == [
        "error: mask_threshold=-1.0: must be between 0 and 1000"
    ]
