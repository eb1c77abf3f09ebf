"""Records that say what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from asyndm.errors import UserError
from evaluation.runs.folder import read_run
from tests.evaluation.runs.test_folder import RECORD


@pytest.mark.parametrize(
    "nonsense",
    [
        {"batch_size": 0},
        {"batch_size": -3},
        {"batch_size": "4"},
        {"batch_size": True},
        {"batch_size": 10**400},
        {"batch_invariant": "no"},
        {"timings": {"sampling_seconds": "soon"}},
        {"device": {"type": "cpu", "threads": "all"}},
        {"device": {"type": 3}},
        {"metrics": []},
        {"made_with": [{}]},
    ],
    ids=str,
)
def test_a_record_of_nonsense_is_refused_by_its_part(
    tmp_path: Path, nonsense: dict[str, Any]
) -> None:
    (tmp_path / "run.json").write_text(json.dumps(RECORD | nonsense))
    with pytest.raises(UserError, match=rf"not the record of a run \({next(iter(nonsense))}\)"):
        read_run(tmp_path)
