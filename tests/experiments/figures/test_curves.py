"""The schedules as they are, without torch."""

from __future__ import annotations

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch

from asyndm.curves import Curve, Exponential, Linear, PiecewiseLinear, Quadratic
from asyndm.errors import UserError
from evaluation.choices import CONF
from experiments.figures import curves


@pytest.mark.parametrize("kind", [Quadratic, PiecewiseLinear, Exponential])
@pytest.mark.parametrize("concavity", [0.0, 0.5, 1.0])
def test_every_way_a_mask_can_flip_stays_in_the_region_and_reaches_the_end(
    kind: type[Curve], concavity: float
) -> None:
    curve, n = kind(concavity), 7
    low, high = curves.follow_path(curve, [False] * n, n), curves.follow_path(curve, [True] * n, n)
    assert low[0] == high[0] == 1001 and (low <= high + 1e-9).all()
    for flags in itertools.product([False, True], repeat=n):
        way = curves.follow_path(curve, flags, n)
        assert (way >= low - 1e-9).all() and (way <= high + 1e-9).all() and abs(way[-1] - 1) < 1e-9


def test_the_region_drawn_holds_every_path_drawn() -> None:
    figure = curves.draw_figure(0.7, 12)
    assert len(figure.axes) == 6
    for axes in figure.axes:
        region = np.asarray(axes.collections[0].get_paths()[0].vertices)
        low, high = (
            np.array([f(region[region[:, 0] == x, 1]) for x in range(13)]) for f in (np.min, np.max)
        )
        ways = [
            np.asarray(line.get_ydata(), float)
            for line in axes.get_lines()
            if len(np.asarray(line.get_xdata())) == 13
        ]
        assert len(ways) == 2 + curves.PATHS and len({tuple(way.round(6)) for way in ways}) > 4
        for way in ways:
            assert (
                (way >= low - 1e-9).all()
                and (way <= high + 1e-9).all()
                and abs(way[-1] - low[-1]) < 1e-9
            )
    with pytest.raises(UserError, match="concavity must be a number"):
        curves.draw_figure(2)


@pytest.mark.parametrize("kind", [Linear, Quadratic, PiecewiseLinear, Exponential])
def test_one_pixel_without_torch_goes_as_a_tensor_of_pixels(kind: type[Curve]) -> None:
    curve, places = kind(0.3), [0.0, 1.3, 7.7, 20.0]
    for remaining in (1, 5, 20):
        together = curve.advance(torch.tensor(places, dtype=torch.float64), remaining, 20)
        assert together.tolist() == [curve.advance_one(place, remaining, 20) for place in places]
    with pytest.raises(UserError, match="remaining must be 1 to 20, got 0"):
        curve.advance_one(1.0, 0, 20)


def test_reports_and_their_schedules_need_no_torch() -> None:
    code = (
        "import sys, experiments.report.command; from experiments.figures import curves; "
        "from asyndm.curves import Quadratic; curves.follow_path(Quadratic(0.5), [True] * 4, 4); "
        "sys.exit('torch' in sys.modules)"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], check=False, cwd=CONF.parent, timeout=60
        ).returncode
        == 0
    )
