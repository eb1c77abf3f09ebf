"""The gallery's data: what every method made of a prompt and a seed, side by side, all else equal.

A card is one prompt, seed and condition (`evaluation.cells.PAIRING`). Methods, prompts,
conditions, subjects and reasons are numbered, and cards refer to them by number: thousands of
pictures stay a small file.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from asyndm.masks import DynamicMask
from asyndm.terminal import printable
from evaluation.cells import METHOD, MODEL, PAIRING, SeededPrompt, collect_cells, find_minimised
from evaluation.labels import MethodLabel
from evaluation.runs.folder import Run
from evaluation.runs.rows import ImageRow, ScoreRow
from evaluation.runs.traces import PREVIEWS, SUBJECTS, TRACES
from evaluation.tables import rank_metric

Condition = tuple[Any, ...]
Drawn = tuple[Condition, Any]
"""Conditions and the prompt set: where these are equal, a picture that only some methods have is
missing."""

FIELDS = (*MODEL, *PAIRING[1:])
USUAL = {"model", "steps", "eta", "guidance"}
"""Conditions that are told even where all pictures share them."""


class Method(NamedTuple):
    """The columns of `evaluation.cells.METHOD`, by which methods are told apart."""

    label: MethodLabel
    curve: str
    concavity: float | str
    threshold: float | str
    settings: str


@dataclass(frozen=True)
class Source:
    """A picture of a run, and the files of its trace and its predicted pictures, which need not
    exist."""

    folder: Path
    file: str
    sha256: str

    @property
    def path(self) -> Path:
        return Path(f"{self.folder}/{self.file}")

    @property
    def trace(self) -> Path:
        return self._beside(TRACES)

    @property
    def previews(self) -> Path:
        return self._beside(PREVIEWS)

    def _beside(self, sort: str) -> Path:
        name, _, suffix = self.file.rpartition("/")[2].rpartition(".")
        return Path(f"{self.folder}/{sort}/{name or suffix}.png")


@dataclass
class Shot:
    """What one method made of a prompt and a seed."""

    source: Source
    subjects: tuple[str, ...]
    scores: dict[str, ScoreRow] = field(default_factory=dict)


@dataclass
class Card:
    """One prompt, seed and condition: a shot for each method that has one."""

    kind: str
    shots: dict[Method, Shot] = field(default_factory=dict)
    drawn: set[Drawn] = field(default_factory=set)


@dataclass(frozen=True)
class Gallery:
    """`data` is for JSON and refers to `sources` by number.

    Its parts, all but the cards numbered from 0:

    - methods: [name, curve and settings]
    - metrics: [name, whether all values are right (1) or wrong (0), whether lower is better],
      each followed by what it counts, of which lower is better
    - prompts: [text, kind]
    - fields: the conditions that differ; conditions: the value of each
    - subjects: lists of texts; colours: of their masks; reasons: texts, the first of them empty
    - cards: [prompt, seed, condition, cells], a cell being [method, source, subjects, values,
      reasons] with a value or null and a reason for each metric, or only [method] where the run
      lacks the image
    """

    data: dict[str, Any]
    sources: list[Source]
    shared: dict[str, str]
    """The conditions that all pictures share."""


Value = TypeVar("Value", bound=Hashable)


class Numbered(dict[Value, int], Generic[Value]):
    """Numbers from 0 for values, in the order they first appear."""

    def of(self, value: Value) -> int:
        return self.setdefault(value, len(self))


@dataclass
class Lists:
    """What the cells of cards refer to by number."""

    methods: Numbered[Method]
    metrics: list[tuple[str, bool, bool]]
    subjects: Numbered[tuple[str, ...]] = field(default_factory=Numbered)
    reasons: Numbered[str] = field(default_factory=lambda: Numbered({"": 0}))
    sources: list[Source] = field(default_factory=list)

    def make_cell(self, method: Method, shot: Shot | None) -> list[Any]:
        """A cell as `Gallery` describes it."""
        if shot is None:
            return [self.methods[method]]
        self.sources.append(shot.source)
        rows = [shot.scores.get(name) for name, *_ in self.metrics]
        numbers = {name: n for row in shot.scores.values() for name, n in row.numbers.items()}
        values = [numbers.get(name) for name, *_ in self.metrics]
        return [
            self.methods[method],
            len(self.sources) - 1,
            self.subjects.of(tuple(map(printable, shot.subjects))),
            [None if value is None else _round(value) for value in values],
            [self.reasons.of(printable(row.reason) if row else "") for row in rows],
        ]


def make_gallery(runs: Sequence[Run]) -> Gallery:
    """The data of all these runs; where two of them hold the same image of a method, the last one's
    is shown.

    Raises:
        UserError: the record of a run lacks some of its labels.
    """
    cards, members = _collect_cards(runs)
    methods = sorted({method for of in members.values() for method in of}, key=_rank)
    lists = Lists(Numbered({method: i for i, method in enumerate(methods)}), _list_metrics(runs))
    conditions = list(dict.fromkeys(condition for _, condition in cards))
    fields, shared = _find_fields(conditions)
    kinds_of: dict[tuple[str, str], str] = {}
    for (key, _), card in cards.items():
        kinds_of.setdefault(key[:2], card.kind)
    prompts = Numbered({key: i for i, key in enumerate(kinds_of)})
    listed = []
    for (key, condition), card in sorted(
        cards.items(), key=lambda c: (prompts[c[0][0][:2]], c[0][0][2])
    ):
        expected = {method for drawn in card.drawn for method in members[drawn]}
        cells = [
            lists.make_cell(method, card.shots.get(method))
            for method in methods
            if method in expected
        ]
        listed.append([prompts[key[:2]], key[2], conditions.index(condition), cells])
    data = {
        "methods": [_make_caption(method) for method in methods],
        "metrics": [(printable(name), *rest) for name, *rest in lists.metrics],
        "prompts": [[printable(text), printable(kind)] for (_, text), kind in kinds_of.items()],
        "fields": fields,
        "conditions": [
            [_format_condition(condition)[name] for name in fields] for condition in conditions
        ],
        "subjects": list(lists.subjects),
        "reasons": list(lists.reasons),
        "colours": ["#" + bytes(int(c) for c in colour).hex() for colour in SUBJECTS],
        "cards": listed,
    }
    return Gallery(data, lists.sources, shared)


def _collect_cards(
    runs: Sequence[Run],
) -> tuple[dict[tuple[SeededPrompt, Condition], Card], dict[Drawn, set[Method]]]:
    """The cards, and the methods under which each set of prompts was drawn."""
    cards: dict[tuple[SeededPrompt, Condition], Card] = {}
    members: dict[Drawn, set[Method]] = {}
    cell_of = {folder: cell for cell in collect_cells(runs) for folder in cell.folders}
    for run in runs:
        cell = cell_of[run.folder]
        method = Method(*(cell.labels[name] for name in METHOD))
        drawn = (cell.pairing, cell.labels["prompt_set"])
        members.setdefault(drawn, set()).add(method)
        scores: dict[tuple[str, int], dict[str, ScoreRow]] = {}
        for score in run.scores:
            scores.setdefault(score.key, {})[score.metric] = score
        for row in run.images:
            card = cards.setdefault(
                ((row.prompt_id, row.prompt, row.seed), cell.pairing), Card(row.kind or "none")
            )
            card.drawn.add(drawn)
            before = card.shots.get(method)
            known = before.scores if before else {}
            card.shots[method] = Shot(
                _make_source(run, row), row.subjects, known | scores.get(row.key, {})
            )
    return cards, members


def _make_source(run: Run, row: ImageRow) -> Source:
    return Source(run.folder, row.file, row.sha256)


def _list_metrics(runs: Iterable[Run]) -> list[tuple[str, bool, bool]]:
    """As `Gallery.data` has them; the exact one first."""
    values: dict[str, set[float]] = {}
    counts: dict[str, dict[str, None]] = {}
    lower: set[str] = set()
    for run in runs:
        lower |= find_minimised(run)
        for score in run.scores:
            if score.value is not None:
                values.setdefault(score.metric, set()).add(score.value)
                _, *counted = score.numbers
                counts.setdefault(score.metric, {}).update(dict.fromkeys(counted))
    return [
        metric
        for name in sorted(values, key=rank_metric)
        for metric in (
            (name, values[name] <= {0.0, 1.0}, name in lower),
            *((count, False, True) for count in counts[name]),
        )
    ]


def _rank(method: Method) -> tuple[Any, ...]:
    return *method.label.rank, *map(str, method)


def _make_caption(method: Method) -> tuple[str, str]:
    """The method's name, and what else tells it from others: ("AsynDM", "quadratic ω 0.5")."""
    usual = ("", DynamicMask.threshold)
    strict = "" if method.threshold in usual else f"threshold {method.threshold}"
    bend = f"ω {method.concavity}" if method.concavity != "" else ""
    parts = [method.curve, bend, strict, method.settings]
    label = method.label if printable(method.label) == method.label else printable(method.label)
    return label, printable(" ".join(part for part in parts if part))


def _format_condition(condition: Condition) -> dict[str, str]:
    model, *rest = condition
    values = zip(FIELDS, (*model, *rest), strict=True)
    return {name: _format_value(value) for name, value in values}


def _format_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return "default" if value is None else printable(str(value)) or "none"


def _find_fields(conditions: Sequence[Condition]) -> tuple[list[str], dict[str, str]]:
    """The names of the conditions that differ, and the usual ones that do not."""
    told = [_format_condition(condition) for condition in conditions]
    differing = [name for name in FIELDS if len({values[name] for values in told}) > 1]
    if "weights" in differing and "model" in differing:
        models = {(values["model"], values["weights"]) for values in told}
        if len(models) == len({name for name, _ in models}):
            differing.remove("weights")
    shared = {
        name: told[0][name] for name in FIELDS if told and name in USUAL and name not in differing
    }
    return differing, shared


def _round(value: float) -> float | int:
    """Six digits, which no one sees the end of, and whole numbers as such."""
    rounded = float(f"{value:.6g}")
    return int(rounded) if rounded.is_integer() else rounded
