"""The schedules: where a pixel can be after each update, whenever and however often its mask
flips."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from evaluation.runs.colours import BLUE, SKY, VERMILLION
from experiments.figures.style import ASYNCHRONOUS, INK, SYNCHRONOUS, WIDTH, apply_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from asyndm.curves import Curve

Array = npt.NDArray[np.float64]
PATHS, FLIP, SEED = 4, 0.25, 0
"""Random pixels drawn, and how probably one leaves or enters a subject at an update."""
DOTTED = 25
"""Updates up to which each has its dot."""


def follow_path(
    curve: Curve, flags: Sequence[bool] | npt.NDArray[np.bool_], num_inference_steps: int
) -> Array:
    """The timesteps of one pixel: (N + 1,), from 1001 after no update to 1 after N, as on Stable
    Diffusion's ladder.

    Args:
        curve: the concave one.
        flags: N of them, whether the pixel belongs to a subject, and so takes the curve, at each
            update.
        num_inference_steps: N.
    """
    from asyndm.curves import Linear

    line, places = Linear(), [float(num_inference_steps)]
    for remaining, flag in zip(range(num_inference_steps, 0, -1), flags, strict=True):
        places.append(
            (curve if flag else line).advance_one(places[-1], remaining, num_inference_steps)
        )
    return 1 + 1000 / num_inference_steps * np.array(places)


def draw_flips(
    num_inference_steps: int, count: int = PATHS, seed: int = SEED
) -> npt.NDArray[np.bool_]:
    """Masks of random pixels, (count, N): each begins in a subject or not, and flips at an update
    in four."""
    draws = np.random.default_rng(seed).random((count, num_inference_steps)) < FLIP
    begins = np.arange(count)[:, None] % 2 == 0
    masks: npt.NDArray[np.bool_] = np.logical_xor(begins, np.logical_xor.accumulate(draws, axis=1))
    return masks


def draw_figure(concavity: float = 0.5, num_inference_steps: int = 20) -> Figure:
    """The three concave curves against the line: the timesteps above, below them how far above the
    line a pixel is.

    Args:
        concavity: ω in [0, 1].
        num_inference_steps: N.

    Raises:
        UserError: a setting out of its range.
    """
    from matplotlib.figure import Figure

    from asyndm.curves import Exponential, PiecewiseLinear, Quadratic

    with apply_style():
        drawn = Figure(figsize=(WIDTH, 4.0), layout="constrained")
        grid = drawn.subplots(
            2, 3, sharex=True, sharey="row", gridspec_kw={"height_ratios": [1.25, 1]}, squeeze=False
        )
        for column, curve in enumerate(
            (Quadratic(concavity), PiecewiseLinear(concavity), Exponential(concavity))
        ):
            grid[0, column].set_title(curve.label.replace("_", " "))
            for axes, raised in zip(grid[:, column], (False, True), strict=True):
                _draw_panel(axes, curve, num_inference_steps, raised)
            grid[1, column].set_xlabel("updates done")
        grid[0, 0].set_ylabel("timestep")
        grid[0, 0].set_yticks([0, 250, 500, 750, 1000])
        grid[1, 0].set_ylabel("above the line")
        grid[1, 0].set_ylim(bottom=-4)
        parts = next((parts for parts in (4, 5, 3) if num_inference_steps % parts == 0), 1)
        grid[1, 0].set_xticks(np.linspace(0, num_inference_steps, parts + 1))
        drawn.legend(
            *grid[0, 0].get_legend_handles_labels(),
            loc="outside lower center",
            ncols=2,
            columnspacing=2.5,
        )
        drawn.suptitle(
            f"ω = {concavity:g}, N = {num_inference_steps}: all pixels reach the clean end",
            fontsize=9,
        )
    return drawn


def _draw_panel(axes: Axes, curve: Curve, n: int, raised: bool) -> None:
    """One curve: line, curve, the region between them, and random pixels; all minus the line if
    `raised`."""
    updates = np.arange(n + 1)
    line, top = follow_path(curve, [False] * n, n), follow_path(curve, [True] * n, n)
    base = line if raised else np.zeros(n + 1)
    axes.fill_between(
        updates,
        line - base,
        top - base,
        color=SKY,
        alpha=0.3,
        linewidth=0,
        label="where a pixel can be",
    )
    axes.plot(
        updates,
        top - base,
        color=BLUE,
        linestyle=ASYNCHRONOUS.dashes,
        linewidth=1.8,
        label="always in a subject",
    )
    axes.plot(
        updates,
        line - base,
        color=SYNCHRONOUS.colour,
        linestyle=SYNCHRONOUS.dashes,
        linewidth=1.6,
        label="never in a subject",
    )
    for i, flags in enumerate(draw_flips(n)):
        axes.plot(
            updates,
            follow_path(curve, flags, n) - base,
            color=VERMILLION,
            linewidth=0.9 if raised else 0.7,
            marker=".",
            markersize=3 if raised and n <= DOTTED else 0,
            label="in and out, at random" if i == 0 else None,
        )
    axes.plot(n, line[-1] - base[-1], marker="o", color=INK, markersize=4, clip_on=False, zorder=5)
