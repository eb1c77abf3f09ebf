"""Metrics against the truth: in the shapes world it is known whether a picture shows its prompt.

    python -m experiments.run experiment=metric_study  # 2,000 pictures and scores, 25 minutes
    python -m experiments.studies.metric_study runs/metric_study      # the table and the plot

For each metric that the runs have beside ``exact``, and each kind of prompt: Spearman's rank
correlation over all images, and the pairwise accuracy: of two images of one prompt, one right and
one wrong, how often the metric prefers the right one (chance is 0.5). Intervals are 95 %, over
prompts. Written beside the runs: metric_study.csv, .png, .svg.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyndm.errors import UserError
from evaluation.agreement import pairwise_accuracy, rank_correlation
from evaluation.messages import describe
from evaluation.runs.folder import find_runs, read_run
from evaluation.statistics import Interval

TRUTH, ALL = "exact", "all"
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Told apart by the colour-blind (Okabe and Ito)."""


@dataclass(frozen=True)
class Judgement:
    """One image: how right it is, and what a metric says."""

    kind: str
    prompt: str
    truth: float
    value: float


@dataclass(frozen=True)
class Agreement:
    """A metric on a kind of prompt."""

    metric: str
    kind: str
    images: int
    right: float
    correlation: Interval | None
    accuracy: Interval | None


def judgements(folders: Sequence[Path]) -> dict[str, list[Judgement]]:
    """Metric -> its opinion of every image that has it and the truth, the sign changed where lower
    is better.

    Raises:
        UserError: no run has both the truth and another metric, or scores of one name rest on
            different things.
    """
    found: dict[str, list[Judgement]] = {}
    bases: dict[str, tuple[Path, Any]] = {}
    for folder in folders:
        run = read_run(folder)
        truths = {
            row.key: row.value
            for row in run.scores
            if row.metric == TRUTH and row.value is not None
        }
        images = {image.key: image for image in run.images}
        recorded = run.record.get("metrics", {})
        for metric in {row.metric for row in run.scores}:
            first, basis = bases.setdefault(metric, (folder, recorded.get(metric)))
            if basis != recorded.get(metric):
                raise UserError(
                    f"{folder}: its {metric} rests on something else than that of {first}; score "
                    "both again by "
                    "experiments.run with the same settings"
                )
        for row in run.scores:
            if (
                row.metric == TRUTH
                or row.value is None
                or row.key not in truths
                or row.key not in images
            ):
                continue
            image = images[row.key]
            sign = 1 if (recorded.get(row.metric) or {}).get("higher_is_better", True) else -1
            found.setdefault(row.metric, []).append(
                Judgement(image.kind, image.prompt, truths[row.key], sign * row.value)
            )
    if not found:
        raise UserError(
            f"no run there has scores of {TRUTH} and of another metric; add some with python -m "
            "evaluation.score "
            "FOLDER metric=[exact,clip_shapes,blip_vqa_shapes]"
        )
    return found


def agreements(found: dict[str, list[Judgement]]) -> list[Agreement]:
    """Every metric on every kind of prompt and on all together."""
    kinds = [ALL, *dict.fromkeys(j.kind for of in found.values() for j in of)]
    rows = []
    for metric, everything in found.items():
        for kind in kinds:
            part = [j for j in everything if kind in (ALL, j.kind)]
            if part:
                values, truths, prompts = zip(
                    *((j.value, j.truth, j.prompt) for j in part), strict=True
                )
                rows.append(
                    Agreement(
                        metric,
                        kind,
                        len(part),
                        sum(truths) / len(part),
                        rank_correlation(values, truths, prompts),
                        pairwise_accuracy(values, truths, prompts),
                    )
                )
    return rows


def _cell(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    unknown = math.isinf(interval.low)
    ends = "unknown" if unknown else f"{interval.low:.3f}, {interval.high:.3f}"
    return f"{interval.mean:.3f} [{ends}]"


def markdown(rows: Sequence[Agreement]) -> str:
    """The table."""
    lines = [
        "| metric | kind | images | right | rank correlation | pairwise accuracy | pairs |",
        "|---|---|---:|---:|---|---|---:|",
    ]
    for row in rows:
        pairs = 0 if row.accuracy is None else row.accuracy.n
        lines.append(
            f"| {row.metric} | {row.kind} | {row.images} | {row.right:.3f} "
            f"| {_cell(row.correlation)} | {_cell(row.accuracy)} | {pairs} |"
        )
    return "\n".join(lines)


def _bounds(interval: Interval) -> tuple[float, float | str, float | str]:
    low, high = (end if math.isfinite(end) else "" for end in (interval.low, interval.high))
    return interval.mean, low, high


def write_csv(path: Path, rows: Sequence[Agreement]) -> None:
    """The table's numbers, an empty cell where there is none."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [
            f"{name}{end}" for name in ("correlation", "accuracy") for end in ("", "_low", "_high")
        ]
        writer.writerow(["metric", "kind", "images", "right", *names, "pairs"])
        for row in rows:
            numbers = [
                number
                for interval in (row.correlation, row.accuracy)
                for number in (("", "", "") if interval is None else _bounds(interval))
            ]
            pairs = 0 if row.accuracy is None else row.accuracy.n
            writer.writerow([row.metric, row.kind, row.images, row.right, *numbers, pairs])


def plot(path: Path, rows: Sequence[Agreement]) -> None:
    """Both statistics by kind, a colour for each metric, with their intervals; a PNG and an SVG."""
    from matplotlib.figure import Figure

    kinds, metrics = (
        list(dict.fromkeys(r.kind for r in rows)),
        list(dict.fromkeys(r.metric for r in rows)),
    )
    figure = Figure(figsize=(10, 0.55 * len(kinds) + 1.8), layout="constrained")
    sides = figure.subplots(1, 2, sharey=True)
    titles = (
        "Spearman's rank correlation with the truth",
        "right image preferred to wrong one of same prompt",
    )
    for axes, title, chance, which in zip(
        sides, titles, (0.0, 0.5), ("correlation", "accuracy"), strict=True
    ):
        axes.axvline(chance, color="0.6", linewidth=1, linestyle="--")
        axes.set_title(title, fontsize=10)
        for i, metric in enumerate(metrics):
            shown = [
                (r, v) for r in rows if r.metric == metric and (v := getattr(r, which)) is not None
            ]
            shift = 0.6 * ((i + 0.5) / len(metrics) - 0.5)
            axes.errorbar(
                [v.mean for _, v in shown],
                [kinds.index(r.kind) + shift for r, _ in shown],
                xerr=[
                    [_length(v.mean - v.low) for _, v in shown],
                    [_length(v.high - v.mean) for _, v in shown],
                ],
                fmt="os^Dv*"[i % 6],
                markersize=5,
                capsize=2,
                color=COLOURS[i % len(COLOURS)],
                label=metric,
            )
        axes.grid(axis="x", color="0.92")
        axes.set_axisbelow(True)
    sides[0].set_xlim(-1.02, 1.02)
    sides[1].set_xlim(-0.02, 1.02)
    sides[0].set_yticks(range(len(kinds)), kinds)
    sides[0].invert_yaxis()
    figure.legend(
        *sides[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    figure.savefig(path.with_suffix(".png"), dpi=160)
    figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def _length(bar: float) -> float:
    """Of an error bar; none where the interval is unknown."""
    return max(0.0, bar) if math.isfinite(bar) else 0.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.studies.metric_study",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folders", nargs="+", type=Path, help="runs, or folders of runs")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="for table and plot; the first folder if not given",
    )
    chosen = parser.parse_intermixed_args(arguments)
    try:
        rows = agreements(judgements(find_runs(chosen.folders)))
        out: Path = chosen.out or chosen.folders[0]
        out.mkdir(parents=True, exist_ok=True)
        write_csv(out / "metric_study.csv", rows)
        plot(out / "metric_study", rows)
    except Exception as error:
        print(f"error: {describe(error)}", file=sys.stderr)
        return 1
    print(markdown(rows))
    print(f"\n{out / 'metric_study'}.csv, .png, .svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
