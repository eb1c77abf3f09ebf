"""What of a pipeline tells runs apart: no two that differ in it are one row, or compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from evaluation.pipeline_labels import name_pipeline, name_weights
from evaluation.runs.folder import find_runs, read_run
from evaluation.tables import make_table
from tests.written_runs import ASYNDM, DM, write_run

WEIGHTS = {"weights": "w", "dtype": "float32"}


@pytest.mark.parametrize(
    ("model", "arguments", "told"),
    [
        ({}, {}, ""),
        ({"revision": "main", "hub": "some/one"}, {}, ""),
        ({}, {"guidance_rescale": 0.7, "clip_skip": 1}, "clip_skip=1 guidance_rescale=0.7"),
        ({"scheduler": {"timestep_spacing": "trailing"}}, {}, "timestep_spacing=trailing"),
        (
            {"scheduler": {"_class_name": "UniPC", "use_karras_sigmas": True}},
            {},
            "scheduler=UniPC use_karras_sigmas=True",
        ),
        ({"lora": "0123456789"}, {}, "lora=style-012345"),
        ({"lora": "styles/style.safetensors"}, {}, "lora=styles/style.safetensors"),
        ({"vae_tiling": True, "variant": "fp16"}, {}, "vae_tiling=True variant=fp16"),
        ({"_target_": "mine.load", "depth": 3}, {}, "depth=3 target=mine.load"),
    ],
)
def test_it_is_told_in_a_few_words(
    model: dict[str, Any], arguments: dict[str, Any], told: str
) -> None:
    identity = {"model": {**WEIGHTS, **model}, "pipeline_arguments": arguments}
    config = {"model": {"name": "tiny", "lora": "styles/style.safetensors"}}
    assert name_pipeline(identity, config) == told


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ({"weights": "abc"}, "abc"),
        ({"hub": "some/one", "revision": None}, "some/one"),
        ({"hub": "some/one", "revision": "v2"}, "some/one@v2"),
        ({}, ""),
    ],
)
def test_weights_are_known_by_content_or_place(model: dict[str, Any], name: str) -> None:
    assert name_weights({"model": model}) == name


@pytest.mark.fault(
    what="runs of one model with and without a LoRA, another scheduler or arguments of its call",
    kind="rows that are not alike",
    now="rows of their own, each compared with DM of the same",
)
@pytest.mark.parametrize(
    "changes",
    [
        {"model": {**WEIGHTS, "lora": "l"}},
        {"model": {**WEIGHTS, "scheduler": {"timestep_spacing": "trailing"}}},
        {"model": {**WEIGHTS, "vae_tiling": True}},
        {"pipeline_arguments": {"clip_skip": 1}},
    ],
)
def test_other_pipelines_are_other_rows_with_a_dm_of_their_own(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    write_run(tmp_path, "dm", [1, 1, 1, 0], DM)
    write_run(tmp_path, "asyn", [1, 1, 1, 1], ASYNDM)
    write_run(tmp_path, "dm changed", [0, 0, 0, 0], DM, **changes)
    write_run(tmp_path, "asyn changed", [0, 0, 0, 1], ASYNDM, **changes)
    rows = make_table(map(read_run, find_runs([tmp_path])))
    told = {(row["pipeline"] != "", row["method"]): (row["n"], row["difference"]) for row in rows}
    assert told == {
        (False, "DM"): (4, None),
        (False, "AsynDM"): (4, 0.25),
        (True, "DM"): (4, None),
        (True, "AsynDM"): (4, 0.25),
    }
