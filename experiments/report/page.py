"""The report as one folder to open in any browser, from a disk or a server, or to hand on as an
archive.

``index.html`` holds the tables and the gallery's data; ``figures``, ``pictures`` and ``traces``
what it shows. Pictures are named by their content, so that another writing adds only what is new.
Nothing is loaded from elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from asyndm.errors import UserError
from asyndm.terminal import printable
from evaluation.messages import name_first
from evaluation.runs import colours
from evaluation.runs.files import write_bytes
from evaluation.runs.folder import Run
from evaluation.runs.traces import VIRIDIS
from experiments.figures import seeds
from experiments.figures.lines import SETTINGS
from experiments.report.assets import Assets
from experiments.report.gallery import Gallery, make_gallery

INDEX = "index.html"
TEMPLATE = Path(__file__).parent / "template"
CAPTIONS = {
    "strip": "One picture over its steps: timesteps, masks and the picture predicted",
    "curves": "The timestep curves and the region Proposition 1 speaks of",
    "cost": "Score against network evaluations per image; bars: 95 %",
}
NUMBER = re.compile(r"[-+−<]?\d([^A-Za-z]|e-)*(unknown\])?")


@dataclass(frozen=True)
class Section:
    """One table: plain text cells, those of `bold` (row, column) emphasised, with notes below
    it."""

    title: str
    heads: Sequence[str]
    body: Sequence[Sequence[str]]
    bold: frozenset[tuple[int, int]] = frozenset()
    notes: Sequence[str] = ()

    @property
    def numeric(self) -> list[bool]:
        """Whether a column holds only numbers, intervals and empty cells."""
        columns = [[row[i] for row in self.body if row[i]] for i in range(len(self.heads))]
        return [bool(column) and all(map(NUMBER.fullmatch, column)) for column in columns]


def write_page(
    folder: Path,
    title: str,
    sections: Sequence[Section],
    figures: Sequence[Path],
    runs: Sequence[Run],
) -> Path:
    """Writes the page with its tables, figures and gallery. Pictures that cannot be read are named,
    on the page too.

    Args:
        folder: made if it is not there; what an earlier writing left in it stays.
        title: of the page.
        sections: the tables.
        figures: SVG or PNG files, copied.
        runs: for the gallery; none leaves it out.

    Returns:
        The page, ``folder/index.html``.

    Raises:
        UserError: the folder is a file, a figure does not exist, or the record of a run lacks its
            labels.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: a file; name a folder for the page")
    copies = _copy_figures(folder, figures, runs)
    shown, assets = make_gallery(runs), Assets(folder)
    shown.data["pictures"], shown.data["ways"] = assets.copy(shown.sources)
    write_bytes(folder / INDEX, _render(title, sections, copies, shown).encode("utf-8", "replace"))
    if assets.missing:
        print(
            printable(f"warning: missing from the page: {name_first(assets.missing)}"),
            file=sys.stderr,
        )
    return folder / INDEX


def _copy_figures(
    folder: Path, figures: Sequence[Path], runs: Sequence[Run]
) -> list[tuple[str, str]]:
    """File and caption of each; two of one name are told apart by a number."""
    copies: dict[str, str] = {}
    for figure in figures:
        if not figure.is_file():
            raise UserError(f"{figure}: no such figure; leave it out or draw it first")
        name, number = f"figures/{figure.name}", 2
        while name in copies:
            name, number = f"figures/{figure.stem}-{number}{figure.suffix}", number + 1
        copies[name] = make_caption(figure.stem, runs)
        content, target = figure.read_bytes(), folder / name
        if not target.exists() or target.read_bytes() != content:
            write_bytes(target, content, durable=False)
    return list(copies.items())


def make_caption(stem: str, runs: Sequence[Run]) -> str:
    """What a figure of `experiments.figures` shows of these runs; of others, their name in
    words."""
    if stem == "seeds":
        try:
            methods = printable(seeds.name_methods(runs))
        except UserError:  # it was drawn of other runs
            methods = "three methods"
        return (
            f"The same prompts and seeds under {methods}, with timestep maps and masks of two steps"
        )
    figure, _, setting = stem.partition("_")
    if figure == "lines" and setting:
        return f"Score against {SETTINGS.get(setting, setting)}; bands: 95 % of each line alone"
    return CAPTIONS.get(stem, re.sub(r"[_-]+", " ", stem))


def _render(
    title: str, sections: Sequence[Section], figures: Sequence[tuple[str, str]], shown: Gallery
) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=FileSystemLoader(TEMPLATE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css, js = ((TEMPLATE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    css = Template(css).substitute(vars(colours))
    data = json.dumps(shown.data, ensure_ascii=False, separators=(",", ":"))
    return environment.get_template("index.html.jinja").render(
        title=printable(title),
        sections=sections,
        figures=figures,
        shared=shown.shared,
        choices=_list_choices(shown.data),
        cards=len({(prompt, seed) for prompt, seed, *_ in shown.data["cards"]}),
        pictures=sum(isinstance(entry, list) for entry in shown.data["pictures"]),
        css=Markup(css),
        js=Markup(js),
        css_hash=_hash_inline(css),
        js_hash=_hash_inline(js),
        viridis=["#" + bytes(int(c) for c in colour).hex() for colour in VIRIDIS],
        data=Markup(data.replace("<", "\\u003c")),
    )


def _hash_inline(text: str) -> str:
    """As a content security policy names an inline script or style."""
    return f"'sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _list_choices(data: dict[str, Any]) -> dict[str, Any]:
    """What the filters choose from; A is the AsynDM of which there are most pictures, B the first
    other method."""
    methods = [" ".join(filter(None, caption)) for caption in data["methods"]]
    shown = Counter(cell[0] for *_, cells in data["cards"] for cell in cells)
    ours = [
        i
        for i, (name, _) in enumerate(data["methods"])
        if getattr(name, "follows_attention", False)
    ]
    first = max(ours, key=lambda i: shown[i], default=len(methods) - 1)
    return {
        "methods": methods,
        "first": first,
        "second": next((i for i in range(len(methods)) if i != first), 0),
        "kinds": list(dict.fromkeys(kind for _, kind in data["prompts"])),
        "metrics": data["metrics"],
        "judges": [name for name, binary, _ in data["metrics"] if binary],
        "conditions": {
            name: sorted({values[i] for values in data["conditions"]}, key=_number_key)
            for i, name in enumerate(data["fields"])
        },
    }


def _number_key(value: str) -> tuple[bool, float, str]:
    try:
        return False, float(value), value
    except ValueError:
        return True, 0.0, value
