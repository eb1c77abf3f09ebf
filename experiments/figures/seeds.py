"""The same prompt and seed under three methods, such as DM, DM_concave and AsynDM, side by side,
with what each did on the way.

Rows are chosen by the order of the prompt set alone: the first prompt of each kind, then the next
ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from asyndm.errors import UserError
from asyndm.masks import DynamicMask, GlobalMask, NoMask
from asyndm.solvers import DDIM
from evaluation.cells import PAIRING, SeededPrompt
from evaluation.labels import MethodLabel, read_labels, read_prompt_ids
from evaluation.runs.colours import RIGHT, WRONG, choose_frame
from evaluation.runs.folder import Run
from evaluation.runs.rows import ImageRow, ScoreRow
from evaluation.runs.traces import SUBJECTS, read_trace
from evaluation.tables import rank_metric
from experiments.figures.lines import format_facts
from experiments.figures.strip import REMEDY, draw_swatch, find_trace_file, open_picture
from experiments.figures.style import (
    FAINT,
    SIZE,
    Sheet,
    apply_style,
    shorten,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, MARGIN, BETWEEN = 7.5, 0.14, 0.16
"""Of the figure in inches: 1200 pixels."""
SIDE, MAP, GAP = 1.2, 0.5, 0.03
CELL = SIDE + 0.07 + 2 * MAP + GAP
HEAD, TITLE, VERDICT, FOOT = 0.56, 0.22, 0.33, 0.44
COLUMNS = {
    NoMask.label: "every pixel at the same noise level",
    GlobalMask.label: "every pixel stays noisy for longer",
    DynamicMask.label: "only the subjects stay noisy for longer",
}
"""For each column the library's method of its sort, and what all methods of that sort do. What
stands above a column is what its own run is called."""
COMMON = (*PAIRING, "prompt_set")


@dataclass(frozen=True)
class Shot:
    """What one method made of a prompt and a seed, and what a metric of right and wrong says of
    it."""

    run: Run
    image: ImageRow
    score: ScoreRow | None

    @property
    def right(self) -> bool | None:
        return None if self.score is None or self.score.value is None else self.score.value == 1


def choose_trio(runs: Sequence[Run]) -> tuple[Run, ...]:
    """One run for each of `COLUMNS`, all else equal, with the settings that are the most usual
    among these runs.

    Raises:
        UserError: there are none that can be compared.
    """
    of = [(run, read_labels(run)) for run in runs]
    usual = {
        name: Counter(str(label[name]) for _, label in of)
        for name in (*COMMON, "curve", "concavity")
    }

    def match(column: int, wanted: dict[str, Any], names: Sequence[str]) -> Iterator[Run]:
        for run, label in of:
            alike = all(label[name] == wanted[name] for name in names)
            if alike and find_column(label["method"]) == column:
                yield run

    def rank(label: dict[str, Any]) -> int:
        return sum(count[str(label[name])] for name, count in usual.items())

    for run, label in sorted(of, key=lambda pair: -rank(pair[1])):
        dm = next(match(0, label, COMMON), None)
        concave = next(match(1, label, (*COMMON, "curve", "concavity")), None)
        if (
            find_column(label["method"]) == 2
            and dm
            and concave
            and choose_prompts((dm, concave, run), 1)
        ):
            return dm, concave, run
    there = {find_column(label["method"]) for _, label in of}
    absent = [method for column, method in enumerate(COLUMNS) if column not in there]
    if absent:
        raise UserError(
            f"no run of {' and '.join(absent)}; ask for it too: mask=none,global,dynamic"
        )
    raise UserError(
        f"no {join_methods(COLUMNS)} of the same prompts, all else equal, with traces; {REMEDY}"
    )


def join_methods(labels: Iterable[str]) -> str:
    """ "DM, DM_concave and AsynDM"."""
    first, second, third = labels
    return f"{first}, {second} and {third}"


def name_methods(runs: Sequence[Run]) -> str:
    """Those that `draw_figure` shows of these runs, in words.

    Raises:
        UserError: as `choose_trio`.
    """
    return join_methods(read_labels(run)["method"] for run in choose_trio(runs))


def find_column(method: MethodLabel) -> int | None:
    """Which of `COLUMNS` does what a run's method does; None: none of them."""
    if not method.bends:
        return 0
    if method.uniform:
        return 1
    return 2 if method.follows_attention else None


def choose_prompts(runs: Sequence[Run], count: int) -> list[SeededPrompt]:
    """The images to show, never by what came out: in the set's order the first prompt of each kind,
    then the others.

    Args:
        runs: those compared; an image counts that all of them have, with its trace, and only a
            prompt's first.
        count: how many at most.
    """
    shared: dict[str, ImageRow] = {}
    having = [{identify(image): image for image in run.images} for run in runs]
    for image in runs[0].images:
        known = all(
            identify(image) in images and find_trace_file(run, images[identify(image)]).exists()
            for run, images in zip(runs, having, strict=True)
        )
        if known:
            shared.setdefault(image.prompt_id, image)
    order = {prompt: number for number, prompt in enumerate(read_prompt_ids(runs[0]))}
    in_order = sorted(shared.values(), key=lambda image: order.get(image.prompt_id, len(order)))
    firsts: dict[str, ImageRow] = {}
    for image in in_order:
        firsts.setdefault(image.kind, image)
    others = (image for image in in_order if firsts[image.kind] is not image)
    return [identify(image) for image in [*firsts.values(), *others][:count]]


def identify(image: ImageRow) -> SeededPrompt:
    """An image across runs."""
    return image.prompt_id, image.prompt, image.seed


def find_judge(runs: Sequence[Run]) -> str | None:
    """The metric that says right or wrong: the exact one, or the first whose values are all 0 or
    1."""
    values: dict[str, set[float]] = {}
    for run in runs:
        for score in run.scores:
            if score.value is not None:
                values.setdefault(score.metric, set()).add(score.value)
    binary = [name for name, found in values.items() if found <= {0.0, 1.0}]
    return min(binary, key=rank_metric, default=None)


def collect_shots(runs: Sequence[Run], count: int) -> list[list[Shot]]:
    """A list for each row, with what each run made of it."""
    metric = find_judge(runs)
    images = [{identify(image): image for image in run.images} for run in runs]
    scores = [{score.key: score for score in run.scores if score.metric == metric} for run in runs]
    return [
        [
            Shot(run, of[wanted], judged.get(of[wanted].key))
            for run, of, judged in zip(runs, images, scores, strict=True)
        ]
        for wanted in choose_prompts(runs, count)
    ]


def draw_figure(runs: Sequence[Run], count: int = 3) -> Figure:
    """A row a prompt, a column a method: the picture, framed right or wrong, and the timestep maps
    and masks of two of its steps.

    Args:
        runs: any; those shown are chosen by `choose_trio`.
        count: rows at most.

    Raises:
        UserError: there are none that can be compared, or a file of theirs cannot be read.
    """
    trio = choose_trio(runs)
    table = collect_shots(trio, count)
    block = TITLE + SIDE + VERDICT
    with apply_style():
        sheet = Sheet.of(WIDTH, HEAD + len(table) * block + FOOT)
        for column, (run, words) in enumerate(zip(trio, COLUMNS.values(), strict=True)):
            x = MARGIN + column * (CELL + BETWEEN)
            method = shorten(read_labels(run)["method"], CELL, SIZE + 3, "bold")
            sheet.text(method, x, 0.1, SIZE + 3, weight="bold")
            sheet.text(words, x, 0.31, SIZE, color=FAINT)
        for row, line in enumerate(table):
            y = HEAD + row * block
            draw_title(sheet, line[-1], y)
            for column, shot in enumerate(line):
                _draw_shot(sheet, shot, MARGIN + column * (CELL + BETWEEN), y + TITLE)
        distinct = len({line[0].image.kind for line in table}) == len(table)
        _draw_foot(sheet, trio, distinct, HEAD + len(table) * block)
    return sheet.figure


def draw_title(sheet: Sheet, shot: Shot, y: float) -> None:
    """The prompt, and its subjects by the colours of their masks."""
    room = WIDTH - 2 * MARGIN
    title = shorten(f"“{shot.image.prompt}”", room, SIZE + 1, "bold")
    x = sheet.text(title, MARGIN, y, SIZE + 1, weight="bold")
    for colour, name in zip(SUBJECTS, shot.image.subjects, strict=False):
        x = draw_swatch(sheet, tuple(int(c) for c in colour), name, x + 0.12, y + 0.01) - 0.12


def _draw_shot(sheet: Sheet, shot: Shot, x: float, y: float) -> None:
    frame = choose_frame(shot.right)
    sheet.picture(open_picture(shot.run, shot.image), x, y, SIDE, frame, 2.6)
    way = read_trace(find_trace_file(shot.run, shot.image))
    last = len(way.steps) - 1
    shown = sorted({round(last / 3), round(2 * last / 3)})
    for i, step in enumerate(shown):
        left = x + SIDE + 0.07 + i * (MAP + GAP)
        sheet.text(f"step {way.steps[step]}", left + MAP / 2, y, color=FAINT, ha="center")
        sheet.picture(way.maps[step], left, y + SIDE - 2 * MAP - GAP, MAP)
        sheet.picture(way.masks[step], left, y + SIDE - MAP, MAP)
    if shot.right is not None:
        reason = shot.score.reason if shot.score else ""
        mark, word = ("✓", "right") if shot.right else ("✗", "wrong")
        said = f"{mark} {word}" if shot.right or not reason else f"{mark} {reason}"
        sheet.text(shorten(said, CELL), x, y + SIDE + 0.05, color=frame)


def _draw_foot(sheet: Sheet, trio: Sequence[Run], distinct: bool, y: float) -> None:
    """What the colours mean, and how rows were chosen; `distinct` says that no two are of one
    kind."""
    x = sheet.text("Above: noise level, clean", MARGIN, y) + 0.06
    sheet.colourbar(x, y + 0.015, 0.6)
    x = sheet.text(
        "noise. Below: what stays noisy, by subject (mixed: overlap, grey: all).", x + 0.66, y
    )
    if find_judge(trio):
        sheet.text("✓", x + 0.14, y, color=RIGHT)
        sheet.text("right", x + 0.26, y)
        sheet.text("✗", x + 0.6, y, color=WRONG)
        sheet.text("wrong", x + 0.72, y)
    of = read_labels(trio[-1])
    unusual = [
        *([f"guidance {of['guidance']}"] if of["guidance"].rest else []),
        *([of["solver"]] if of["solver"] != DDIM.name else []),
    ]
    settings = format_facts(
        {**of, "model": of["model"][0], "beside": ", ".join(unusual)},
        ("model", "beside", "steps", "curve", "concavity"),
    )
    which = "prompts of new kinds" if distinct else "prompts, new kinds first"
    caption = f"Rows: the set's first {which}, never chosen by outcome; one seed a row. {settings}"
    sheet.text(shorten(caption, WIDTH - 2 * MARGIN), MARGIN, y + 0.18, color=FAINT)
