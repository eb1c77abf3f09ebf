"""Metrics against the truth: in the shapes world it is known whether a picture shows its prompt.

    python -m experiments.run experiment=metric_study             # 2,000 pictures, 25 minutes
    python -m experiments.studies.metric_study runs/metric_study  # the table and the plot

For each metric that the runs have beside ``exact``, and each kind of prompt: Spearman's rank
correlation over all images, and the pairwise accuracy: of two images of one prompt, one right and
one wrong, how often the metric prefers the right one (chance is 0.5). Intervals are 95 %, over
prompts. Written beside the runs: metric_study.csv, .png, .svg.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asyndm.errors import UserError
from evaluation.agreement import pairwise_accuracy, rank_correlation
from evaluation.commands import Parser, command_line
from evaluation.runs.colours import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILLION
from evaluation.runs.folder import Run, find_runs, read_run
from evaluation.statistics import Interval
from evaluation.tables import Part, Total, name_part

TRUTH = "exact"
COLOURS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)


@dataclass(frozen=True)
class Judgement:
    """One image: how right it is, and what a metric says."""

    kind: str
    prompt: str
    truth: float
    value: float


@dataclass(frozen=True)
class Agreement:
    """A metric on a kind of prompt, or on all of them: `kind` is what the row is called."""

    metric: str
    kind: str
    images: int
    right: float
    correlation: Interval | None
    accuracy: Interval | None


def collect_judgements(folders: Sequence[Path]) -> dict[str, list[Judgement]]:
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
        recorded = run.record.get("metrics", {})
        for metric in {row.metric for row in run.scores}:
            first, basis = bases.setdefault(metric, (folder, recorded.get(metric)))
            if basis != recorded.get(metric):
                raise UserError(
                    f"{folder}: its {metric} rests on something else than that of {first}; score "
                    "both again by experiments.run with the same settings"
                )
        for metric, judgement in _judge(run):
            found.setdefault(metric, []).append(judgement)
    if not found:
        raise UserError(
            f"no run there has scores of {TRUTH} and of another metric; add some with python -m "
            "evaluation.score FOLDER metric=[exact,clip_shapes,blip_vqa_shapes]"
        )
    return found


def _judge(run: Run) -> Iterator[tuple[str, Judgement]]:
    """What the run's metrics say of images whose truth is known."""
    known = [row for row in run.scores if row.value is not None]
    truths = {row.key: row.value for row in known if row.metric == TRUTH}
    images = {image.key: image for image in run.images if image.key in truths}
    recorded = run.record.get("metrics", {})
    for row in known:
        if row.metric != TRUTH and row.key in images:
            image, truth = images[row.key], truths[row.key]
            assert truth is not None and row.value is not None
            is_higher_better = (recorded.get(row.metric) or {}).get("higher_is_better", True)
            value = row.value if is_higher_better else -row.value
            yield row.metric, Judgement(image.kind, image.prompt, truth, value)


def compute_agreements(found: dict[str, list[Judgement]]) -> list[Agreement]:
    """Every metric on all kinds of prompts together and on each of them."""
    kinds = dict.fromkeys(j.kind for judgements in found.values() for j in judgements)
    parts: list[Part] = [Total.ALL, *kinds]
    rows = []
    for metric, judgements in found.items():
        for part in parts:
            of_part = [j for j in judgements if part is Total.ALL or j.kind == part]
            if of_part:
                rows.append(_compute_agreement(metric, name_part(part), of_part))
    return rows


def _compute_agreement(metric: str, kind: str, judgements: Sequence[Judgement]) -> Agreement:
    values, truths = [j.value for j in judgements], [j.truth for j in judgements]
    prompts = [j.prompt for j in judgements]
    correlation = rank_correlation(values, truths, prompts)
    accuracy = pairwise_accuracy(values, truths, prompts)
    right = sum(truths) / len(truths)
    return Agreement(metric, kind, len(judgements), right, correlation, accuracy)


def _format_interval(interval: Interval | None) -> str:
    if interval is None:
        return "-"
    ends = f"{interval.low:.3f}, {interval.high:.3f}"
    if math.isinf(interval.low):
        ends = "unknown"
    return f"{interval.mean:.3f} [{ends}]"


def format_markdown(rows: Sequence[Agreement]) -> str:
    """The table."""
    lines = [
        "| metric | kind | images | right | rank correlation | pairwise accuracy | pairs |",
        "|---|---|---:|---:|---|---|---:|",
    ]
    for row in rows:
        pairs = 0 if row.accuracy is None else row.accuracy.n
        lines.append(
            f"| {row.metric} | {row.kind} | {row.images} | {row.right:.3f} "
            f"| {_format_interval(row.correlation)} | {_format_interval(row.accuracy)} | {pairs} |"
        )
    return "\n".join(lines)


def _list_numbers(interval: Interval | None) -> list[float | str]:
    """Mean and ends; nothing for what is not known."""
    if interval is None:
        return ["", "", ""]
    ends = (interval.low, interval.high)
    return [interval.mean, *(end if math.isfinite(end) else "" for end in ends)]


def write_csv(path: Path, rows: Sequence[Agreement]) -> None:
    """The table's numbers, an empty cell where there is none."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        names = [
            f"{name}{end}" for name in ("correlation", "accuracy") for end in ("", "_low", "_high")
        ]
        writer.writerow(["metric", "kind", "images", "right", *names, "pairs"])
        for row in rows:
            numbers = [*_list_numbers(row.correlation), *_list_numbers(row.accuracy)]
            pairs = 0 if row.accuracy is None else row.accuracy.n
            writer.writerow([row.metric, row.kind, row.images, row.right, *numbers, pairs])


def plot_agreements(path: Path, rows: Sequence[Agreement]) -> None:
    """Both statistics by kind, a colour for each metric, with their intervals; a PNG and an SVG."""
    from matplotlib.figure import Figure

    kinds = list(dict.fromkeys(row.kind for row in rows))
    metrics = list(dict.fromkeys(row.metric for row in rows))
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
            points = [
                (kinds.index(row.kind), interval)
                for row in rows
                if row.metric == metric and (interval := getattr(row, which)) is not None
            ]
            shift = 0.6 * ((i + 0.5) / len(metrics) - 0.5)
            axes.errorbar(
                [interval.mean for _, interval in points],
                [line + shift for line, _ in points],
                xerr=[
                    [_measure_bar(interval.mean - interval.low) for _, interval in points],
                    [_measure_bar(interval.high - interval.mean) for _, interval in points],
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


def _measure_bar(bar: float) -> float:
    """The length of an error bar; none where the interval is unknown."""
    return max(0.0, bar) if math.isfinite(bar) else 0.0


@command_line(errors=(Exception,))
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("experiments.studies.metric_study", __doc__)
    parser.add_argument("folders", nargs="+", type=Path, help="runs, or folders of runs")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FOLDER",
        help="for table and plot; the first folder if not given",
    )
    chosen = parser.read(arguments)
    rows = compute_agreements(collect_judgements(find_runs(chosen.folders)))
    out: Path = chosen.out or chosen.folders[0]
    out.mkdir(parents=True, exist_ok=True)
    write_csv(out / "metric_study.csv", rows)
    plot_agreements(out / "metric_study", rows)
    print(format_markdown(rows))
    print(f"\n{out / 'metric_study'}.csv, .png, .svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
