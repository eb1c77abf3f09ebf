"""The differences that were planned for experiment=regions, each in one direction, and those alone
corrected together.

    python -m experiments.studies.regions runs/regions
    python -m experiments.studies.regions runs/regions --markdown planned.md --csv planned.csv
    python -m experiments.studies.regions --plan  # the planned ones, as plan.md has them

The runs are those of experiment=regions, regions_things and regions_equal_cost, and nothing is told
before all are there. Why these differences, and what counts as repeated:
experiments/results/regions/plan.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from asyndm.errors import UserError
from asyndm.masks import DynamicMask, NoMask, ThingsMask
from asyndm.shapes.planted import PlantedMask
from evaluation.cells import SCORE, Cell, collect_cells
from evaluation.commands import Parser, command_line
from evaluation.metrics.exact import Exact
from evaluation.runs.files import write_bytes
from evaluation.runs.folder import Run
from evaluation.runs.rows import COUNTS
from evaluation.statistics import Comparison, Interval, compare_pairs, find_one_sided_p, holm
from evaluation.table_text import to_csv, to_markdown
from evaluation.tables import TableRow, name_count_columns
from experiments.engine.selection import read_runs, select_folders

STEPS = 20
"""N."""
ALL, HALF = 2_000, 1_000
"""Pairs: of what has two sets of seeds, and of what has the first alone."""
SIGNS = {1: ">", -1: "<", 0: "="}
"""What is expected of the first: that it is better, or worse, or no other than the second."""
LAID_OUT: TableRow = {"n": None, "prompts": None, "seeds": None, "best": False}
"""What a table asks of its rows beside what those of this one have."""


@dataclass(frozen=True)
class Arm:
    """A method of the plan, by what tables call it."""

    method: str
    settings: str = ""
    steps: int = STEPS


ARMS = {
    "none": Arm(NoMask.label),
    "none at 2N": Arm(NoMask.label, steps=2 * STEPS),
    "dynamic": Arm(DynamicMask.label),
    "things": Arm(ThingsMask.label),
    "planted": Arm(PlantedMask.label),
    "planted ahead": Arm(PlantedMask.label, "ahead=True"),
}


@dataclass(frozen=True)
class Claim:
    """What is expected of a difference, first minus second, of the share of right pictures.

    Args:
        sign: one of `SIGNS`.
        pairs: of how many pictures.
    """

    model: str
    guidance: float
    first: str
    second: str
    sign: int
    pairs: int


CLAIMS = (
    *(Claim("shapes_mixed", scale, "things", "none", 1, ALL) for scale in (2, 5)),
    *(Claim("shapes_mixed", scale, "things", "none at 2N", 1, ALL) for scale in (2, 5)),
    *(Claim("shapes_mixed", scale, "planted", "none", 1, HALF) for scale in (2, 5)),
    *(Claim("shapes_mixed", scale, "planted", "planted ahead", 1, HALF) for scale in (2, 5)),
    Claim("shapes_mixed", 5, "dynamic", "none", -1, HALF),
    *(Claim("shapes", scale, "things", "none", 0, ALL) for scale in (2, 5)),
    *(Claim("shapes", scale, "planted", "none", 0, HALF) for scale in (2, 5)),
)
"""The plan. Those with a direction are corrected together."""
NOTES = (
    "Differences are of the share of right pictures, on the same prompts and seeds. p_planned: of "
    "the permutation test that swaps the methods in whole prompts, in the planned direction "
    "alone; p (Holm): corrected for all of these. Where no difference is expected, p is of both "
    "directions, and in no correction.",
    "Intervals: 95 %, of both directions, a bootstrap over prompts, or Student's t below 20 of "
    "them. Surplus and missing: things more, and fewer, than asked for; their differences are of "
    "the same pairs, and not tested.",
)


@dataclass(frozen=True)
class Finding:
    """What came of a claim.

    Args:
        p: of its direction, or of both where it has none.
        p_holm: corrected for all claims with a direction; None for one without.
        counts: the differences of what is counted, by the names of `COUNTS`.
    """

    claim: Claim
    pair: Comparison
    p: float
    p_holm: float | None
    counts: dict[str, Interval | None]


def judge_claims(runs: Iterable[Run], claims: Sequence[Claim] = CLAIMS) -> list[Finding]:
    """What came of each claim.

    Raises:
        UserError: a method of the plan has no runs, or several that cannot be told apart; or two
            have no pictures in common.
    """
    cells = collect_cells(runs)
    made = [_compare(cells, claim) for claim in claims]
    ps = [
        find_one_sided_p(pair, claim.sign) if claim.sign else pair.p
        for claim, (pair, _) in zip(claims, made, strict=True)
    ]
    directed = [i for i, claim in enumerate(claims) if claim.sign]
    corrected = dict(zip(directed, holm([ps[i] for i in directed]), strict=True))
    return [
        Finding(claim, pair, ps[i], corrected.get(i), counts)
        for i, (claim, (pair, counts)) in enumerate(zip(claims, made, strict=True))
    ]


def _compare(cells: Sequence[Cell], claim: Claim) -> tuple[Comparison, dict[str, Interval | None]]:
    """The difference of a claim, and those of what is counted."""
    first, second = (
        _find_cell(cells, claim, name).opinions[Exact.name] for name in (claim.first, claim.second)
    )
    pair = compare_pairs(first[SCORE], second[SCORE])
    if pair is None:
        raise UserError(
            f"{_name(claim, claim.first)} and {claim.second} have no prompt and seed in common"
        )
    counted = {name: compare_pairs(first.get(name, {}), second.get(name, {})) for name in COUNTS}
    # Of fewer pictures than the score has it would be another difference.
    return pair, {
        name: of.difference if of and of.difference.n == pair.difference.n else None
        for name, of in counted.items()
    }


def _find_cell(cells: Sequence[Cell], claim: Claim, name: str) -> Cell:
    arm = ARMS[name]
    wanted = (claim.model, claim.guidance, arm.method, arm.settings, arm.steps)
    found = [cell for cell in cells if _identify(cell) == wanted and Exact.name in cell.opinions]
    if not found:
        raise UserError(
            f"no scored run of {_name(claim, name)}; make all: python -m experiments.run "
            "experiment=regions, then regions_things and regions_equal_cost"
        )
    if len(found) > 1:
        raise UserError(
            f"{len(found)} kinds of runs of {_name(claim, name)}; name the folders of one alone"
        )
    return found[0]


def _identify(cell: Cell) -> tuple[object, ...]:
    of = cell.labels
    return of["model"][0], of["guidance"].scale, of["method"], of["settings"], of["steps"]


def _name(claim: Claim, arm: str) -> str:
    return f"{arm} on {claim.model} at guidance {claim.guidance:g}"


def make_rows(findings: Iterable[Finding]) -> list[TableRow]:
    """The findings as rows of a table, with all numbers."""
    return [_make_row(finding) for finding in findings]


def _make_row(finding: Finding) -> TableRow:
    claim, pair = finding.claim, finding.pair
    row: TableRow = {
        "model": claim.model,
        "guidance": f"{claim.guidance:g}",
        "expected": _spell(claim),
        "pairs": pair.difference.n,
        **_list_ends("difference", pair.difference),
        "wins": pair.wins,
        "ties": pair.difference.n - pair.wins - pair.losses,
        "losses": pair.losses,
        "p_planned": finding.p,
        "p_holm": finding.p_holm,
    }
    for name, interval in finding.counts.items():
        row |= _list_ends(name_count_columns(name)[1], interval)
    return row


def _spell(claim: Claim) -> str:
    return f"{claim.first} {SIGNS[claim.sign]} {claim.second}"


def _list_ends(name: str, of: Interval | None) -> TableRow:
    values = (of.mean, of.low, of.high) if of else (None, None, None)
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def format_findings(findings: Sequence[Finding]) -> str:
    """The table in Markdown, with what must be said of it."""
    other = [
        f"{_spell(of.claim)} on {of.claim.model} at guidance {of.claim.guidance:g} "
        f"({of.pair.difference.n:,} instead of {of.claim.pairs:,})"
        for of in findings
        if of.pair.difference.n != of.claim.pairs
    ]
    said = [*NOTES, *([f"Not of as many pairs as planned: {'; '.join(other)}."] if other else [])]
    rows = [row | LAID_OUT for row in make_rows(findings)]
    return to_markdown(rows, "the second") + "".join(f"\n{line}\n" for line in said)


def format_plan(claims: Sequence[Claim] = CLAIMS) -> str:
    """The claims as lines of a Markdown table, as the plan has them."""
    lines = ["| | model | guidance | expected | pairs |", "|---|---|---|---|---|"]
    lines += [
        f"| {number} | {of.model} | {of.guidance:g} | {_spell(of)} | {of.pairs:,} |"
        for number, of in enumerate(claims, 1)
    ]
    return "\n".join(lines) + "\n"


@command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    parser = Parser("experiments.studies.regions", __doc__)
    parser.add_argument("runs", nargs="*", help="folders that are or hold runs")
    parser.add_argument("--plan", action="store_true", help="print what is planned, and no more")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write all numbers there")
    chosen = parser.read(arguments)
    if chosen.plan:
        print(format_plan(), end="")
        return 0
    if not chosen.runs:
        raise UserError("no runs; name their folder, as in runs/regions")
    findings = judge_claims(read_runs(select_folders(chosen.runs)[0]))
    text = format_findings(findings)
    print(text, end="")
    if chosen.markdown:
        write_bytes(chosen.markdown, text.encode())
    if chosen.csv:
        write_bytes(chosen.csv, to_csv(make_rows(findings)).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
