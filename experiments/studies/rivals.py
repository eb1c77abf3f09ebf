"""Rival guidances tuned alike: one search each, of as many trials, on validation prompts.

    python -m experiments.studies.rivals                    # all of them, 11,000 pictures
    python -m experiments.studies.rivals pag seg limit=40   # some, and what else a run is told
    python -m experiments.run experiment=rivals_tuned       # then the test prompts, once

Each search is ``experiment=rivals_search`` of one guidance, under DM and at equal steps. The best
setting found is frozen in ``conf/guidance/tuned``, which the last command reads.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from asyndm.errors import UserError
from evaluation.commands import command_line
from experiments.engine.sweep import SEARCH_FILE
from experiments.run import main as run

SCALES = "choice(1.5,2,2.5,3,4,5,7)"
"""Of guidance_scale, for all alike."""
SPACES: dict[str, dict[str, str]] = {
    "cfg": {},
    "interval": {"start": "choice(0.0,0.1,0.2,0.3)", "stop": "choice(0.6,0.8,0.9,1.0)"},
    "pag": {"scale": "choice(0.5,1,1.5,2,3,5)"},
    "seg": {"scale": "choice(0.5,1,1.5,2,3,5)"},
    "s_cfg": {"space": "choice(x0,epsilon)"},
    "cfg_plus_plus": {"scale": "choice(0.3,0.4,0.6,0.8,1.0,1.4,2.0)"},
    "apg": {"rho": "choice(0.03,0.06,0.12,0.25)", "parallel": "choice(0.0,0.5)"},
    "z_sampling": {"inversion_scale": "choice(0.0,1.0)"},
    "fsg": {"scale": "choice(0.3,0.6,1.0,1.5,2.0)"},
    "attend_and_excite": {"step_size": "choice(5.0,10.0,20.0,40.0)"},
    "syngen": {"step_size": "choice(5.0,10.0,20.0,40.0)"},
    "init_no": {"step_size": "choice(5.0,10.0,20.0,40.0)"},
}
"""What is searched of each beside guidance_scale, which CFG++ alone makes nothing of."""
TUNED = Path("conf/guidance/tuned")


def search(name: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The best settings of a guidance, by the search that is there.

    Returns:
        setting of the guidance -> value; and beside them ``objective``, its mean.

    Raises:
        UserError: the search failed, and has said why.
    """
    space = dict(SPACES[name])
    if name != "cfg_plus_plus":
        space = {"guidance_scale": SCALES, **space}
    folder = _find_folder(overrides) / name
    own = [word for word in overrides if not word.startswith("output_dir=")]
    words = [f"guidance.{setting}={values}" for setting, values in space.items()]
    if run(["experiment=rivals_search", f"guidance={name}", *own, *words, f"output_dir={folder}"]):
        raise UserError(f"the search of guidance={name} failed")
    found: Any = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / SEARCH_FILE))
    best = {key.removeprefix("guidance."): value for key, value in found["best_params"].items()}
    return best | {"objective": found["best_value"]}


def freeze(name: str, best: dict[str, Any], folder: Path = TUNED) -> Path:
    """Writes what was found as a choice of its own, ``guidance=tuned/NAME``."""
    settings = {key: value for key, value in best.items() if key != "objective"}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.yaml"
    file.write_text(
        f"# {name} as found best on validation prompts, by {best['objective']:.3f}:\n"
        "# python -m experiments.studies.rivals\n"
        f"defaults:\n  - /guidance/{name}@_here_\n  - _self_\n" + OmegaConf.to_yaml(settings),
        encoding="utf-8",
    )
    return file


def _find_folder(overrides: Sequence[str]) -> Path:
    given = [word.partition("=")[2] for word in overrides if word.startswith("output_dir=")]
    return Path(given[-1] if given else "runs/rivals_search")


@command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """Searches the guidances named, or all."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    names = [word for word in words if "=" not in word]
    if unknown := [name for name in names if name not in SPACES]:
        raise UserError(f"{unknown[0]}: no guidance to search; there are {', '.join(SPACES)}")
    for name in names or SPACES:
        print(freeze(name, search(name, [word for word in words if "=" in word])))
    return 0


if __name__ == "__main__":
    sys.exit(main())
