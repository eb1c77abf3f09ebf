"""What is kept of a picture's way: the right steps, colours and numbers, and only of what was
sampled."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from asyndm.errors import UserError
from evaluation.runs.folder import find_runs, read_run
from evaluation.runs.traces import (
    SUBJECTS,
    WHOLE,
    choose_steps,
    encode_previews,
    encode_trace,
    make_trace,
    read_previews,
    read_trace,
)
from tests.lab import Lab


def test_the_first_and_the_last_step_are_shown() -> None:
    assert choose_steps(1) == [1]
    assert choose_steps(5) == [1, 2, 3, 4, 5]
    assert choose_steps(50) == [1, 8, 15, 22, 29, 36, 43, 50]


def test_a_trace_comes_back_as_it_was_written(tmp_path: Path) -> None:
    levels = np.stack([np.full((2, 3), 1000.0), np.array([[0.0, 250, 500], [750, 1000, 1000]])])
    weights = np.zeros((2, 2, 2, 3))
    weights[1, 0, 0], weights[1, 1, 1] = 1, 0.5
    (tmp_path / "way.png").write_bytes(encode_trace(make_trace([1, 7], levels, weights)))
    way = read_trace(tmp_path / "way.png")
    assert (way.steps, way.ranges, way.labels) == (
        (1, 7),
        ((1000, 1000), (0, 1000)),
        ["t 1000", "t 0-1000"],
    )
    assert np.asarray(way.maps[1]).tolist() == [
        [[68, 1, 84], [59, 82, 139], [33, 145, 140]],
        [[94, 201, 98], [253, 231, 37], [253, 231, 37]],
    ]
    assert not np.asarray(way.masks[0]).any()
    assert np.asarray(way.masks[1])[0].tolist() == [SUBJECTS[0].tolist()] * 3
    assert np.asarray(way.masks[1])[1].tolist() == [(SUBJECTS[1] / 2).round().tolist()] * 3


def test_a_mask_of_the_whole_picture_is_no_subjects(tmp_path: Path) -> None:
    weights = np.zeros((2, 2, 2, 3))
    weights[0, 0] = 1
    weights[1, 1, 0] = 1
    way = make_trace([1, 2], np.zeros((2, 2, 3)), weights)
    assert (np.asarray(way.masks[0]) == WHOLE).all()
    assert np.asarray(way.masks[1])[0].tolist() == [SUBJECTS[1].tolist()] * 3


def test_predictions_come_back_as_they_were_written(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (5, 4), colour) for colour in ("red", "blue", "white")]
    (tmp_path / "p.png").write_bytes(encode_previews(frames))
    assert [frame.tobytes() for frame in read_previews(tmp_path / "p.png", 3)] == [
        f.tobytes() for f in frames
    ]


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_what_is_no_trace_is_refused_by_name(content: bytes | None, tmp_path: Path) -> None:
    if content is None:
        buffer = io.BytesIO()
        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        content = buffer.getvalue()
    (tmp_path / "way.png").write_bytes(content)
    with pytest.raises(UserError, match="way.png: not a trace"):
        read_trace(tmp_path / "way.png")


def test_a_run_keeps_the_way_of_every_picture_and_the_predictions_of_the_first(lab: Lab) -> None:
    assert lab("pictures=2", "images_per_prompt=2", "num_inference_steps=5").status == 0
    (folder,) = find_runs([lab.runs])
    run = read_run(folder)
    for image in run.images:
        way = read_trace(folder / "traces" / Path(image.file).name)
        assert way.steps == (1, 2, 3, 4, 5)
        assert [low < high for low, high in way.ranges] == [False, False, True, True, False]
    names = sorted(path.name for path in (folder / "previews").iterdir())
    assert names == sorted(Path(image.file).name for image in run.images[:2])
    first = read_previews(folder / "previews" / names[0], 5)
    assert len(first) == 5 and first[0].tobytes() != first[4].tobytes()
    with Image.open(folder / "images" / names[0]) as picture:
        assert first[4].size == picture.size
