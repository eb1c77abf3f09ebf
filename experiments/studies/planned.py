"""Differences that were planned before their runs were made, each in one direction, and those of
one question corrected together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asyndm.errors import UserError
from asyndm.masks import DynamicMask, NoMask, StaticMask, ThingsMask
from asyndm.shapes.planted import PlantedMask
from evaluation.cells import SCORE, Cell, collect_cells
from evaluation.commands import Parser
from evaluation.metrics.exact import Exact
from evaluation.runs.files import write_bytes
from evaluation.runs.rows import COUNTS
from evaluation.statistics import Comparison, Interval, compare_pairs, find_one_sided_p, holm
from evaluation.table_text import to_csv, to_markdown
from evaluation.tables import TableRow, make_interval_cells, name_count_columns
from experiments.engine.selection import read_runs, select_folders

STEPS = 20
"""N."""
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
    "static": Arm(StaticMask.label),
    "things": Arm(ThingsMask.label),
    "planted": Arm(PlantedMask.label),
    "planted ahead": Arm(PlantedMask.label, "ahead=True"),
    "planted another": Arm(PlantedMask.label, "layout_of=another"),
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


def judge_claims(cells: Sequence[Cell], claims: Sequence[Claim], remedy: str = "") -> list[Finding]:
    """What came of each claim.

    Args:
        cells: of all runs.
        claims: of one question: those with a direction are corrected together.
        remedy: how runs that are not there are made.

    Raises:
        UserError: a method of the plan has no runs, or several that cannot be told apart; or two
            have no pictures in common.
    """
    made = [_compare(cells, claim, remedy) for claim in claims]
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


def _compare(
    cells: Sequence[Cell], claim: Claim, remedy: str
) -> tuple[Comparison, dict[str, Interval | None]]:
    """The difference of a claim, and those of what is counted."""
    first, second = (
        _find_cell(cells, claim, name, remedy).opinions[Exact.name]
        for name in (claim.first, claim.second)
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


def _find_cell(cells: Sequence[Cell], claim: Claim, name: str, remedy: str) -> Cell:
    arm = ARMS[name]
    wanted = (claim.model, claim.guidance, arm.method, arm.settings, arm.steps)
    found = [cell for cell in cells if _identify(cell) == wanted and Exact.name in cell.opinions]
    if not found:
        raise UserError(f"no scored run of {_name(claim, name)}{remedy and f'; {remedy}'}")
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
        **make_interval_cells("difference", pair.difference),
        "wins": pair.wins,
        "ties": pair.difference.n - pair.wins - pair.losses,
        "losses": pair.losses,
        "p_planned": finding.p,
        "p_holm": finding.p_holm,
    }
    for name, interval in finding.counts.items():
        row |= make_interval_cells(name_count_columns(name)[1], interval)
    return row


def _spell(claim: Claim) -> str:
    return f"{claim.first} {SIGNS[claim.sign]} {claim.second}"


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


def format_plan(claims: Sequence[Claim]) -> str:
    """The claims as lines of a Markdown table, as the plan has them."""
    lines = ["| | model | guidance | expected | pairs |", "|---|---|---|---|---|"]
    lines += [
        f"| {number} | {of.model} | {of.guidance:g} | {_spell(of)} | {of.pairs:,} |"
        for number, of in enumerate(claims, 1)
    ]
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Study:
    """A plan and its command.

    Args:
        name: the module of the command.
        about: what its help says.
        questions: the claims of each question by what it is called; claims of one question are
            corrected together, and apart from those of others.
        remedy: how its runs are made.
    """

    name: str
    about: str
    questions: Mapping[str, Sequence[Claim]]
    remedy: str

    def run(self, arguments: Sequence[str] | None) -> int:
        """The command line. Returns its exit status."""
        parser = Parser(self.name, self.about)
        parser.add_argument("runs", nargs="*", help="folders that are or hold runs")
        parser.add_argument(
            "--plan", action="store_true", help="print what is planned, and no more"
        )
        parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the table there")
        parser.add_argument("--csv", type=Path, metavar="FILE", help="write all numbers there")
        chosen = parser.read(arguments)
        if chosen.plan:
            print(self.format_plan(), end="")
            return 0
        if not chosen.runs:
            raise UserError(f"no runs; name their folder, as in runs/{self.name.split('.')[-1]}")
        cells = collect_cells(read_runs(select_folders(chosen.runs)[0]))
        found = {
            question: judge_claims(cells, claims, self.remedy)
            for question, claims in self.questions.items()
        }
        text = _join({question: format_findings(of) for question, of in found.items()})
        print(text, end="")
        if chosen.markdown:
            write_bytes(chosen.markdown, text.encode())
        if chosen.csv:
            rows = [row for of in found.values() for row in make_rows(of)]
            write_bytes(chosen.csv, to_csv(rows).encode())
        return 0

    def format_plan(self) -> str:
        """The claims as the plan has them."""
        return _join({question: format_plan(of) for question, of in self.questions.items()})


def _join(parts: Mapping[str, str]) -> str:
    """The texts of questions under what they are called; of a single question its text alone."""
    if len(parts) == 1:
        return "".join(parts.values())
    return "\n".join(f"**{question}**\n\n{text}" for question, text in parts.items())
