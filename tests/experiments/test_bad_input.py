"""What cannot work is refused in one line that names it, before anything is sampled."""

from __future__ import annotations

import io
import json
import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from asyndm.inputs import find_picture_size
from experiments.engine.preflight import read_parts
from experiments.report.command import main as report
from tests.lab import Lab

BAD = [
    (["mask=dynamc"], "mask=dynamc: no such choice (did you mean dynamic?); choose"),
    (["model=sd21base"], "model=sd21base: no such choice (did you mean sd21_base?); choose"),
    (
        ["metric=[exact,clip_shape]"],
        "metric=clip_shape: no such choice (did you mean clip_shapes?); choose",
    ),
    (["mask=foo"], "mask=foo: no such choice; choose from dynamic, external, global, layout"),
    (["metric=foo"], "metric=foo: no such choice; choose from "),
    (["experiment=foo"], "experiment=foo: no such choice"),
    (
        ["num_steps=10"],
        "num_steps: no such setting (did you mean num_inference_steps or model.num_inf",
    ),
    (["+num_steps=10"], "num_steps: no such setting (did you mean num_inference_steps?)"),
    (["curve.concavty=0.5"], "curve.concavty: no such setting (did you mean curve.concavity?)"),
    (
        ["guidance.scale=4"],
        "guidance.scale: no such setting (did you mean guidance.guidance_scale?)",
    ),
    (["mask.kindd=3"], "mask.kindd: no such setting (did you mean prompt_set."),
    (["steps=4"], "steps: no such setting (did you mean num_inference_steps or model.num_inf"),
    (["concavity=0.5"], "concavity: no such setting (did you mean curve.concavity?)"),
    (
        ["metric=clip_shapes", "metric.clip_shapes.modle=x"],
        "metric.clip_shapes.modle: no such setting (did you mean metric.clip_shapes.model?)",
    ),
    (["num_inference_steps=ten"], "num_inference_steps=ten: Value 'ten'"),
    (["num_inference_steps=2.5"], "num_inference_steps=2.5: Value '2.5'"),
    (["curve.concavity=much"], "curve.concavity=much: Value 'much'"),
    (["prompt_set.limit=[1]"], "prompt_set.limit=[1]"),
    (["curve.concavity=1.5"], "curve.concavity=1.5: must be between 0 and 1"),
    (["curve.concavity=-0.1"], "curve.concavity=-0.1: must be between 0 and 1"),
    (["curve.concavity=nan"], "curve.concavity=nan: must be between 0 and 1"),
    (["num_inference_steps=0"], "num_inference_steps=0: must be between 1 and 1000"),
    (["num_inference_steps=1001"], "num_inference_steps=1001: must be between 1 and 1000"),
    (["eta=2"], "eta=2.0: must be between 0 and 1"),
    (["limit=0"], "limit=0: must be at least 1"),
    (["batch_size=0"], "batch_size=0: must be between 1"),
    (["images_per_prompt=0"], "images_per_prompt=0: must be between 1"),
    (["height=30"], "height must be a positive multiple of 8"),
    (["guidance.guidance_scale=-1"], "guidance.guidance_scale=-1.0: must be between 0"),
    (["mask.threshold=-1"], "mask.threshold=-1.0: must be between 0"),
    (["seed=-1"], "seed=-1: must be between 0"),
    (
        ["seed=9223372036854775807", "images_per_prompt=2"],
        "seed=9223372036854775807: the last image",
    ),
    (["model.dtype=float8"], "model.dtype=float8: choose from auto, float32"),
    (["model.dtype=float16"], "float16 needs a GPU"),
    (["device=tpu"], "error: device=tpu: choose from auto, cpu"),
    (["device=null", "model.device=tpu"], "error: model.device=tpu: choose from auto, cpu"),
    (["device=cuda:63"], "device=cuda:63: this machine has"),
    (["prompt_set.path=none.yaml"], "none.yaml: no such prompt file"),
    (
        ["prompt_set=shapes", "prompt_set.split=tests"],
        "split='tests': choose from train, val, test",
    ),
    (
        ["prompt_set=shapes", "prompt_set.kinds=one"],
        "prompt_set.kinds=one: give a list, as in [a,b]",
    ),
    (["prompt_set=shapes", "prompt_set.kinds=[]"], "no prompts"),
    (["prompt_set.path={folder}/malformed.csv"], "malformed.csv, line 3: 2 columns expected"),
    (
        ["prompt_set.path={folder}/absent.yaml"],
        "absent.yaml, line 2: subject 'bird' is not in the prompt",
    ),
    (["prompt_set.path={folder}/bare.yaml"], "has no subjects, which mask=dynamic needs"),
    (["prompt_set.path={folder}/long.yaml", "mask=dynamic"], "lies beyond the 77 tokens"),
    (["metric=exact"], "metric=exact: none of the prompts is one of the shapes world"),
    (
        ["prompt_set=shapes", "metric=exact"],
        "metric=exact: knows pictures of 64x64 only, these will be 32x32",
    ),
    (["prompt_set.path=~/mine.yaml"], "quote it: 'prompt_set.path=\"~/mine.yaml\"'"),
    (
        ["guidance.negative_prompt=ugly, grey"],
        "quote it: 'guidance.negative_prompt=\"ugly, grey\"'",
    ),
    (["mask=external"], "mask.image is missing: give mask.image=..."),
    (["mask=external", "mask.image=none.png"], "none.png"),
    (["mask=external", "mask.image={dog: none.png}"], "mask.image=none.png: no such file"),
    (["mask=layout"], "mask.boxes is missing: give mask.boxes=..."),
    (["mask=layout", "mask.boxes={dog: [0, 0, 2, 1]}"], "mask boxes of 'dog' must be [x0, y0, x1"),
    (
        ["mask=layout", "mask.boxes={dog: [0, 0, 1, 1]}"],
        "mask: 'dog' is not among the subjects (rabbit)",
    ),
    (["mask=planted"], ": mask 'planted': 'a red dog and a cat' is not a prompt of the shapes"),
    (["mask=planted", "mask.layout_of=mine"], "mask layout_of must be one of own, another, got"),
    (["mask=things", "mask.rehearsal_steps=0"], "mask.rehearsal_steps=0: must be between 1"),
    (["mask=external", "mask.image={folder}/bare.yaml"], "is not a readable image"),
    (["model.path=/no/such/folder"], "model.path=/no/such/folder: no such folder"),
    (["model.path={folder}"], "not a diffusers pipeline"),
    (
        ["model=sd15", "model.path=nobody/no-such-model"],
        "is not in the local cache and the hub",
    ),
    (
        ["output_dir={folder}/bare.yaml/runs"],
        "bare.yaml/runs: cannot be written to (Not a directory)",
    ),
    (["output_dir=/proc/runs"], "output_dir=/proc/runs: cannot be written to"),
    (["solver=dpmpp"], "solver=dpmpp: no such choice (did you mean dpmpp_2m or dpmpp_2m_stock?)"),
    (["guidance=null"], "null is no choice of a group; name one, as in guidance=none"),
    (["guidance=tuned/none_such"], "guidance=tuned/none_such: no such choice"),
    (["solver.max_ratio=3"], "solver.max_ratio: no such setting"),
    (["solver=dpmpp_2m", "solver.max_ratio=much"], "solver.max_ratio=much: Value 'much'"),
    (["solver=dpmpp_2m", "solver.max_ratio=-1"], "solver.max_ratio=-1.0"),
    (
        ["solver._target_=asyndm.curves.Linear"],
        "solver._target_=asyndm.curves.Linear: not a Solver",
    ),
    (["solver=euler"], "solver=euler is for flow matching"),
    (["guidance=cfg_zero_star"], "guidance=cfg_zero_star is defined for flow matching alone"),
    (["guidance=z_sampling", "solver=dpmpp_2m"], "choose solver=ddim"),
    (
        ["guidance=seg", "guidance.scal=4"],
        "guidance.scal: no such setting (did you mean guidance.scale",
    ),
    (
        ["guidance=seg", "+guidance.scal=4"],
        "guidance.scal: no such setting of SmoothedEnergy (did you",
    ),
    (["guidance=seg", "guidance.sigma=nan"], "guidance.sigma=nan: must be a number"),
    (["guidance=seg", "guidance.scale=.inf"], "guidance.scale must be a finite number, got inf"),
    (
        ["guidance=seg", "guidance.layers=[middle]"],
        "guidance.layers: the network has no layer 'middle'; it has ",
    ),
    (
        ["guidance=cfg_plus_plus", "guidance.matched=maybe"],
        "guidance.matched=maybe: must be true or false",
    ),
    (
        ["guidance=syngen", "guidance.parser=none_such", "mask=none"],
        "guidance.parser=none_such: spaCy or this model is not installed",
    ),
    (
        ["guidance=attend_and_excite", "mask=none", "prompt_set.path={folder}/bare.yaml"],
        "bare.yaml: prompt 'a cat' has no subjects, which guidance=attend_and_excite needs; or "
        "choose guidance=cfg",
    ),
    (
        ["num_inference_steps=${steps_within:0}"],
        "num_inference_steps=${steps_within:0}: give a num",
    ),
    (
        ["model.num_inference_steps=${steps_within:40}"],
        "${steps_within:40} is for num_inference_steps alone, and not for one of model",
    ),
    (
        [
            "num_inference_steps=${steps_within:40}",
            "guidance=z_sampling",
            "guidance.zigzags=${num_inference_steps}",
        ],
        "num_inference_steps=${steps_within:40}: depends on itself, as a setting of guidance",
    ),
    (
        ["num_inference_steps=${steps_within:4,5}"],
        "num_inference_steps=${steps_within:4,5}: give a number of at least 1",
    ),
    (["tracker=wandb", "tracker.mode=onlin"], "tracker.mode=onlin: "),
    (["mask=[none"], "mask=[none"),
    (
        ["mask=[none,global]"],
        "mask=[none,global]: one choice at a time; to sweep, -m mask=none,global",
    ),
    (["output_dir="], "output_dir is empty"),
    (["curve._target_=nowhere.Curve"], "_target_=nowhere.Curve: "),
    (["curve._target_=os.system"], "curve._target_=os.system: "),
    (["mask=none", "mask._target_=builtins.object"], "mask._target_=builtins.object: not a Mask"),
    (["curve._target_=nowhere.Curve", "mask=none"], "curve._target_=nowhere.Curve: "),
    (["guidance._target_=nowhere.Guidance"], "guidance._target_=nowhere.Guidance: "),
    (
        ["guidance._target_=collections.OrderedDict"],
        "OrderedDict: not a guidance, which has a guidance_scale",
    ),
    (
        ["tracker._target_=collections.OrderedDict"],
        "tracker._target_=collections.OrderedDict: not a Tracker",
    ),
    (["model._target_=nowhere.load"], "model._target_=nowhere.load: "),
    (["subjects._target_=nowhere.Words"], "subjects._target_=nowhere.Words: "),
    (["prompt_set.path=a${b}.csv"], r"give 'prompt_set.path=a\${b}.csv'"),
    (["output_dir=${now}"], r"output_dir: Interpolation key 'now' not found; if a text"),
    (["prompt_set.path=a${b"], r"""quote it: 'prompt_set.path="a\${b"'"""),
    (["prompt_set.path=a=b.csv"], """quote it: 'prompt_set.path="a=b.csv"'"""),
    (["prompt_set.path"], "prompt_set.path: no setting; give NAME=VALUE"),
    (["+metric.foo=3"], "metric.foo=3: not a metric"),
    (["prompt_set.path={folder}/open.csv"], "open.csv, line 2: not CSV"),
    (["prompt_set.path={folder}/deep.json"], "deep.json, line 1: not a list of prompts"),
    (["model.path={folder}/hollow"], "model=folder: model '{folder}/hollow' cannot be read"),
]


@pytest.fixture
def filled(lab: Lab) -> Lab:
    (lab.folder / "malformed.csv").write_text("text,subjects\na cat,cat\na dog\n")
    (lab.folder / "absent.yaml").write_text("- a cat\n- {text: a dog, subjects: [bird]}\n")
    Image.new("L", (8, 8)).save(lab.folder / "good.png")
    (lab.folder / "bare.yaml").write_text("- a cat\n")
    (lab.folder / "long.yaml").write_text(
        "- {text: a cat, subjects: [cat]}\n"
        f"- {{text: '{'rabbit ' * 13} and a dog', subjects: [dog]}}\n"
    )
    (lab.folder / "open.csv").write_text('text\n"a cat\n' + "x" * 200_000)
    (lab.folder / "deep.json").write_text("[" * 100_000)
    for part in ("unet", "vae"):
        (lab.folder / "hollow" / part).mkdir(parents=True)
        (lab.folder / "hollow" / part / "config.json").write_text("[]")
    shutil.copytree(lab.pipeline / "tokenizer", lab.folder / "hollow" / "tokenizer")
    (lab.folder / "hollow" / "model_index.json").write_text("{}")
    return lab


def assert_refused(lab: Lab, overrides: list[str], message: str) -> None:
    result = lab(*(override.replace("{folder}", str(lab.folder)) for override in overrides))
    assert result.status == 1
    message = message.replace("{folder}", str(lab.folder))
    assert (
        len(result.lines) == 1
        and result.lines[0].startswith("error: ")
        and message in result.lines[0]
    ), result.error
    assert result.out == "" and not list(lab.runs.rglob("*.png"))


@pytest.mark.fault(
    what="a mistyped setting, choice or class, or a text with ${",
    kind="settings that are not what was meant",
    now="refused in one line with what is there, or how it is quoted",
)
@pytest.mark.parametrize(
    ("overrides", "message"), BAD, ids=lambda value: value[-1] if isinstance(value, list) else ""
)
def test_bad_input_is_refused_in_one_line(filled: Lab, overrides: list[str], message: str) -> None:
    assert_refused(filled, overrides, message)


@pytest.mark.parametrize("mask", ["none", "global"])
def test_a_subject_out_of_reach_does_not_matter_to_a_mask_that_reads_none(
    filled: Lab, mask: str
) -> None:
    assert filled(f"prompt_set.path={filled.folder}/long.yaml", f"mask={mask}").status == 0


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["num_inference_steps=2,3,0"], "num_inference_steps=0: must be between 1 and 1000"),
        (["num_inference_steps=2,ten"], "num_inference_steps=ten: Value 'ten'"),
        (
            ["mask.image={folder}/good.png,{folder}/bare.yaml", "mask=external"],
            "is not a readable image",
        ),
        (["model.dtype=float32,float16"], "model.dtype=float16 needs a GPU"),
        (["curve=quadratic,round"], "curve=round: no such choice"),
        (
            ["mask=none,dynamic", "prompt_set.path={folder}/bare.yaml"],
            "has no subjects, which mask=dynamic needs",
        ),
        (["model.path={pipeline},/no/such/folder"], "model.path=/no/such/folder: no such folder"),
        (["curve.concavty=0.1,0.2"], "curve.concavty: no such setting"),
        (
            ["guidance=seg", "guidance.layers=null,[up.9]"],
            "guidance.layers: the network has no layer 'up.9'",
        ),
        (["mask=none", "solver=ddim,dpmpp_2m", "guidance=cfg,z_sampling"], "choose solver=ddim"),
        (["height=16,30"], "height must be a positive multiple of 8"),
        (
            ["prompt_set.path={folder}/prompts.yaml,{folder}/long.yaml", "mask=none,dynamic"],
            "lies beyond the 77 tokens",
        ),
        (
            ["mask=none,global", "output_dir=/proc/runs"],
            "output_dir=/proc/runs: cannot be written to",
        ),
    ],
)
def test_a_sweep_is_refused_before_its_first_job(
    filled: Lab, overrides: list[str], message: str
) -> None:
    assert_refused(
        filled,
        ["-m", *(override.replace("{pipeline}", str(filled.pipeline)) for override in overrides)],
        message,
    )


def test_the_full_error_is_shown_when_asked_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    result = lab("num_inference_steps=0")
    assert result.status == 1 and "Traceback" in result.error and "_check_ranges" in result.error


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("mounting needs rights this machine does not give")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_the_models_own_size_is_what_it_makes(lab: Lab) -> None:
    assert lab("limit=1").status == 0
    with Image.open(next((lab.only_run() / "images").iterdir())) as image:
        parts = read_parts("folder", str(lab.pipeline), None, None, "null")
        assert find_picture_size(parts) == (image.height, image.width)


def test_pictures_of_the_models_own_size_must_fit_on_the_disk(lab: Lab) -> None:
    model = lab.folder / "large"
    shutil.copytree(lab.pipeline, model)
    config = model / "unet" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "sample_size": [2**30, 2**20]}))
    assert_refused(lab, [f"model.path={model}"], "MB needed")


def test_a_hub_that_gives_no_reason_is_refused_in_one_line(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    assert_refused(lab, ["model=sd15"], "(ConnectionError: no reason given)")


@pytest.mark.parametrize("loud", [False, True])
def test_what_the_hub_s_client_logs_is_for_the_verbose(
    lab: Lab, loud: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, logged = (
        logging.getLogger("huggingface_hub.utils._http"),
        logging.StreamHandler(io.StringIO()),
    )

    def fail(*_: object, **__: object) -> None:
        logger.warning("thrown while requesting")
        raise ConnectionError("no route")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    logger.addHandler(logged)
    try:
        assert lab(*["-v"] * loud, "model=sd15").status == 1
    finally:
        logger.removeHandler(logged)
    assert bool(logged.stream.getvalue()) == loud


def test_a_full_disk_is_refused(lab: Lab, small_disk: Path) -> None:
    assert_refused(lab, [f"output_dir={small_disk}"], "MB needed")


def test_a_report_of_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert report([str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.strip() == f"error: {tmp_path / 'none'}: no such folder"
    assert report([str(tmp_path)]) == 1
    assert "no runs there; make some with" in capsys.readouterr().err
