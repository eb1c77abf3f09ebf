"""Every file of conf/experiment runs, at a tiny size, and costs what it says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from asyndm.guidance import Cost
from evaluation.choices import CONF
from evaluation.runs.folder import find_runs, read_run
from evaluation.runs.traces import TRACES, read_trace
from experiments.engine.cost import SweepCost, estimate_cost
from experiments.engine.sweep import plan_sweep
from experiments.report.command import main as report
from experiments.run import main
from tests.pipelines.registry import PIPELINES

SEARCHES = {"search", "rivals_search"}
"""Those that choose their runs as they go."""
EXPERIMENTS = sorted({path.stem for path in (CONF / "experiment").glob("*.yaml")} - SEARCHES)
COST = re.compile(
    r"([\d,]+) runs, ([\d,]+) images,\s(?:# )?(at most )?([\d,]+) network\s(?:# )?"
    r"evaluations(?: and ([\d,]+)\s(?:# )?backward)?\."
)
GENEVAL, REFERENCE = 553, 160
"""Prompts of GenEval's list and of the reference implementation's."""
SMALL = ["limit=2", "images_per_prompt=1", "num_inference_steps=2", "batch_size=2"]
FEW = {
    "comparison": ["model=shapes_mixed"],
    "steps": ["num_inference_steps=1,2"],
    "curves": ["curve.concavity=0.5"],
    "threshold": ["mask_threshold=1,2"],
    "guidance": ["guidance.guidance_scale=1,5"],
    "eta": ["eta=0,1"],
    "rivals": ["guidance=attend_and_excite"],
    "rivals_tuned": ["guidance=tuned/attend_and_excite"],
    "rivals_equal_cost": ["guidance=tuned/interval,tuned/syngen"],
    "rivals_counted": ["num_inference_steps=1,2"],
    "rivals_sd21": ["guidance=syngen"],
    "rivals_sdxl": ["guidance=z_sampling"],
    "rivals_sd35": ["guidance=cfg_zero_star"],
    "solvers": ["solver=dpmpp_2m", "eta=1"],
    "spacing": ["solver=dpmpp_2m"],
    "regions": [
        "model=shapes_mixed",
        "guidance.guidance_scale=2",
        "mask=none,things,planted/ahead",
    ],
    "networks": ["model.path=${embedded:shapes_mixed}", "mask=none,things,planted/ahead"],
    "regions_things": ["model=shapes", "guidance.guidance_scale=2"],
    "regions_equal_cost": ["seed=180000", "model=shapes", "guidance.guidance_scale=2"],
}
"""What of a sweep is enough."""
METHODS: dict[str, set[str]] = {
    "metric_study": set(),
    "rivals_counted": set(),
    "networks": {"ThingsMask", "PlantedMask"},
    "regions": {"ThingsMask", "PlantedMask"},
    "regions_things": {"ThingsMask"},
    "regions_equal_cost": set(),
}
"""Beside DM, of those that have others than most."""
REAL = {"animals", "geneval", "reference", "real_models"}
"""Those of Stable Diffusion: here a tiny pipeline of the same class stands for it, and no metric
judges it."""
TINY = {
    "sdxl": "sdxl",
    "sd35": "sd35",
    "flux": "flux",
    "rivals_sd21": "sd",
    "rivals_sdxl": "sdxl",
    "rivals_sd35": "sd35",
}
"""Those of other real models, and which tiny pipeline has their weights' place; all else is as
their YAML says."""
BRIGHTNESS = ["metric=none", "+metric.brightness._target_=tests.experiments.metrics.Brightness"]


@pytest.fixture(scope="module", params=EXPERIMENTS)
def name(request: pytest.FixtureRequest) -> str:
    """An experiment: its tests follow each other, and Hydra need not compose it anew."""
    return str(request.param)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where a tiny pipeline is saved."""
    saved: dict[str, Path] = {}

    def folder(name: str) -> Path:
        if name not in saved:
            saved[name] = tmp_path_factory.mktemp(name)
            PIPELINES[name].build().save_pretrained(saved[name])
        return saved[name]

    return folder


def tiny_words(name: str, folder: Path) -> list[str]:
    """Settings by which an experiment's own model is read from the folder of a tiny one."""
    tiny = PIPELINES[name]
    height, width = tiny.size
    longer = {"max_sequence_length": 48} if "max_sequence_length" in tiny.arguments else {}
    arguments = [
        f"+pipeline_arguments.{key}={value}" for key, value in {**tiny.arguments, **longer}.items()
    ]
    own = [f"model.path={folder}", "model.dtype=float32", "device=cpu"]
    return [*own, f"height={height}", f"width={width}", *arguments]


def read_number(text: str) -> int:
    return int(text.replace(",", ""))


def list_files(folder: Path, name: str, prompts: int) -> list[str]:
    """What a benchmark's experiment needs: the benchmark's own files, here with prompts of ours in
    their format."""
    texts = [f"a photo of a cat and dog number {i}" for i in range(prompts)]
    if name == "geneval":
        lines = [
            {"tag": "two_object", "include": [{"class": "cat", "count": 1}], "prompt": text}
            for text in texts
        ]
        (folder / "m.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return [f"prompt_set.metadata={folder / 'm.jsonl'}"]
    if name == "reference":
        (folder / "p.json").write_text(json.dumps(texts))
        (folder / "i.json").write_text(json.dumps({"item_idx": {text: [4, 6] for text in texts}}))
        return [
            f"prompt_set.prompts_path={folder / 'p.json'}",
            f"prompt_set.items_path={folder / 'i.json'}",
        ]
    return []


def test_an_experiment_costs_what_it_says(name: str, tmp_path: Path) -> None:
    said = COST.search((CONF / "experiment" / f"{name}.yaml").read_text())
    assert said is not None
    given = list_files(tmp_path, name, {"geneval": GENEVAL, "reference": REFERENCE}.get(name, 0))
    runs, images, bound, forward, backward = said.groups()
    rows = Cost(read_number(forward), read_number(backward or "0"), exact=not bound)
    wanted = SweepCost(read_number(runs), read_number(images), rows)
    assert estimate_cost(plan_sweep([f"experiment={name}", *given])) == wanted


def test_an_experiment_runs_and_is_reported(
    name: str,
    tmp_path: Path,
    pipeline_folder: Path,
    tiny_folder: Callable[[str], Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [
        f"experiment={name}",
        *list_files(tmp_path, name, 2),
        f"output_dir={tmp_path / 'runs'}",
    ]
    changed = FEW.get(name, [])
    words += [item for item in SMALL if item.partition("=")[0] not in " ".join(changed)] + changed
    if name in REAL:
        words += ["model=folder", f"model.path={pipeline_folder}", "metric=none", "device=cpu"]
    if name in TINY:
        words += [*tiny_words(TINY[name], tiny_folder(TINY[name])), *BRIGHTNESS]
    assert main(words) == 0
    runs = [read_run(folder) for folder in find_runs([tmp_path / "runs"])]
    assert len(runs) == estimate_cost(plan_sweep(words)).runs
    assert all(run.state == "done" for run in runs)
    methods = {run.identity["mask"]["_target_"].rpartition(".")[2] for run in runs}
    assert methods >= {"NoMask"} | METHODS.get(name, {"GlobalMask", "DynamicMask"})
    capsys.readouterr()
    assert report([*words, "--latex", str(tmp_path / "table.tex")]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(table) >= 2 + len(runs) * (name not in REAL)
    assert r"\bottomrule" in (tmp_path / "table.tex").read_text()


@pytest.mark.parametrize(("model", "sign"), [("sdxl", "t "), ("sd35", "σ "), ("flux", "σ ")])
def test_an_experiment_of_another_model_leaves_all_there_is(
    model: str, sign: str, tmp_path: Path, tiny_folder: Callable[[str], Path]
) -> None:
    words = [
        f"experiment={model}",
        *SMALL,
        *tiny_words(TINY[model], tiny_folder(TINY[model])),
        *BRIGHTNESS,
    ]
    assert main([*words, f"output_dir={tmp_path}"]) == 0
    folders = find_runs([tmp_path])
    assert len(folders) == 3
    for folder in folders:
        run = read_run(folder)
        assert run.identity["model"]["dtype"] == "float32"
        assert run.identity["eta"] == (model == "sdxl")
        assert [row.metric for row in run.scores] == ["brightness"] * 2
        assert all(row.value is not None for row in run.scores)
        for row in run.images:
            way = read_trace(folder / TRACES / Path(row.file).name)
            assert len(way.labels) == 2 and all(label.startswith(sign) for label in way.labels)
        for picture in ("strip.png", "grid.png"):
            with Image.open(folder / picture) as image:
                assert image.width > 100
    stored = {read_run(folder).identity["mask"]["_target_"] for folder in folders}
    assert len(stored) == 3
