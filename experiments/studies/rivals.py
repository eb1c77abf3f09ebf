"""Rival guidances tuned alike: one search each, of as many trials, on validation prompts.

python -m experiments.studies.rivals                    # all but slg and cfg_zero_star
python -m experiments.studies.rivals pag seg limit=40   # some, and what else a run is told
python -m experiments.studies.rivals --into tuned_sd21 model=sd21_base batch_size=4 \\
    prompt_set=file prompt_set.path=VALIDATION.yaml metric=image_reward objective=image_reward

Each search is experiment=rivals_search of one guidance, under DM: its YAML's own settings, and as
many trials for all. The best of these is frozen as a choice, guidance=tuned/NAME, whose comment
says how it was found; one that another search has found is not written over. A search that is
interrupted goes on: its runs are found. The 12 guidances on the embedded model took 11,900
pictures, 720,000 network evaluations and 142,000 backward, as a setting is not made twice.
"""

from __future__ import annotations

import re
import shlex
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from asyndm.errors import UserError, is_whole
from evaluation.choices import CONF
from evaluation.commands import Parser, command_line
from evaluation.labels import count_evaluations
from evaluation.messages import count_things
from evaluation.runs.files import write_bytes
from evaluation.runs.folder import find_runs, read_run
from evaluation.scoring import average_scores
from experiments.engine.hydra_messages import describe
from experiments.engine.plan import Plan, make_plan
from experiments.engine.preflight import Checks
from experiments.engine.registration import register
from experiments.engine.sweep import SEARCH_FILE
from experiments.run import main as run

SCALES = "choice(1.25,1.5,1.75,2.0,2.25,2.5,3.0,3.5,4.0,5.0,6.0,7.0,8.5,10.0)"
"""Of guidance_scale, for all alike but for those that are made for larger ones, or for none: more
than there are trials, so that one with no other setting is not searched less."""
STRENGTHS = "choice(0.3,0.4,0.5,0.6,0.7,0.8,0.9,1.0,1.2,1.4,1.7,2.0,2.4,2.8)"
"""λ of CFG++: at 20 steps and η = 1 as strong in the mean as SCALES from 1 to 8."""
PERTURBED = "choice(0.5,1.0,1.5,2.0,3.0,5.0)"
UPDATES = "choice(5.0,10.0,20.0,40.0)"
SPACES: dict[str, dict[str, str]] = {
    "cfg": {"guidance_scale": SCALES},
    "interval": {
        "guidance_scale": SCALES,
        "start": "choice(0.0,0.1,0.2,0.3)",
        "stop": "choice(0.6,0.8,0.9,1.0)",
    },
    "pag": {"guidance_scale": SCALES, "scale": PERTURBED},
    "seg": {"guidance_scale": SCALES, "scale": PERTURBED},
    "s_cfg": {"guidance_scale": SCALES, "space": "choice(x0,epsilon)"},
    "cfg_plus_plus": {"scale": STRENGTHS},
    "apg": {
        "guidance_scale": "choice(2.0,3.0,4.0,5.0,7.0,10.0,15.0)",
        "rho": "choice(0.03,0.06,0.12,0.25)",
    },
    "z_sampling": {"guidance_scale": SCALES, "inversion_scale": "choice(0.0,1.0)"},
    "fsg": {"guidance_scale": SCALES, "scale": STRENGTHS},
    "attend_and_excite": {"guidance_scale": SCALES, "step_size": UPDATES},
    "syngen": {"guidance_scale": SCALES, "step_size": UPDATES},
    "init_no": {"guidance_scale": SCALES, "step_size": UPDATES},
    "slg": {"guidance_scale": SCALES, "scale": "choice(0.7,1.4,2.8,4.2,5.6)"},
    "cfg_zero_star": {"guidance_scale": SCALES, "zero_steps": "choice(0,1,2)"},
}
"""What is searched of each, and its values."""
TRANSFORMERS = ("slg", "cfg_zero_star")
"""Those that are not for the embedded model, and searched only where they are named."""
WIDTH = 100
"""Of a line of what is written."""
TUNED = "tuned"
"""The folder of choices within ``conf/guidance``."""
NAME = r"[\w-]+(/[\w-]+)*"
"""Of another one."""


@dataclass(frozen=True)
class Search:
    """Of one guidance.

    Attributes:
        given: settings of all its runs, as they were asked for.
        words: these, and what else makes them.
        own: its run with its YAML's own settings.
        trials: how many are tried beside these.
        sign: 1 where the objective is to be large, -1 where small.
    """

    name: str
    given: tuple[str, ...]
    words: tuple[str, ...]
    own: Plan
    trials: int
    sign: int


@dataclass(frozen=True)
class Found:
    """The best settings of a search.

    Attributes:
        value: the objective's mean with them.
        own_value: with the YAML's own.
        rows: of the network for a picture, forward and backward, as counted with the best.
        tried: how many settings there were, since trials can be alike.
    """

    settings: dict[str, Any]
    value: float
    own_value: float
    rows: tuple[float, float]
    tried: int


class Searcher:
    """Searches guidances one by one.

    Args:
        words: settings of all runs.
        folder: of the caller's own choices, beside ``conf``; None: there is none.
        into: what is found is ``guidance=INTO/NAME``.

    Raises:
        UserError: an `into` that is no name.
    """

    def __init__(
        self, words: Sequence[str] = (), folder: Path | None = None, into: str = TUNED
    ) -> None:
        if not re.fullmatch(NAME, into):
            raise UserError(f"--into {into}: is no name; give letters, digits, _ and -, as in mine")
        self._words, self._folder = tuple(words), folder
        self.frozen = (folder or CONF) / "guidance" / into
        self._check, self._into = Checks(), into
        register()

    def plan(self, name: str) -> Search:
        """What will be searched, before anything is sampled.

        Raises:
            UserError: an unknown guidance, no objective, a setting that is none or is searched, or
                one that another search has frozen; as the checks of a run.
        """
        if name not in SPACES:
            raise UserError(f"{name}: no guidance to search; there are {', '.join(SPACES)}")
        for word in self._words:
            if word.lstrip("+~").startswith("guidance"):
                raise UserError(f"{word}: is what is searched; name guidances alone, as in pag")
        begin = ["experiment=rivals_search", f"guidance={name}"]
        config = self._compose([*begin, *self._words])
        given = tuple(word for word in self._words if not word.startswith("output_dir="))
        words = (*begin, *given, f"output_dir={Path(config.output_dir) / name}")
        own = self._plan_run(words)
        if own.config["objective"] is None:
            raise UserError("objective is missing: name a metric, as in objective=exact")
        sweeper = config.hydra.sweeper
        signs = {"maximize": 1, "minimize": -1}
        if (direction := str(getattr(sweeper.direction, "name", sweeper.direction))) not in signs:
            raise UserError(f"hydra.sweeper.direction={direction}: choose {' or '.join(signs)}")
        if not is_whole(sweeper.n_trials) or sweeper.n_trials < 1:
            raise UserError(f"hydra.sweeper.n_trials={sweeper.n_trials}: must be at least 1")
        self._check(own)
        search = Search(name, given, words, own, sweeper.n_trials, signs[direction])
        file = self.frozen / f"{name}.yaml"
        if file.exists() and not _read_comment(file).endswith(f" By {self.spell(search)}"):
            raise UserError(
                f"{file}: is not of this search; write elsewhere with --into NAME, or remove it"
            )
        return search

    def spell(self, planned: Search) -> str:
        """The command that makes a search."""
        own = [] if self._folder is None else ["--config-dir", str(self._folder)]
        into = [] if self._into == TUNED else ["--into", self._into]
        words = shlex.join([planned.name, *planned.given, *own, *into])
        return f"python -m experiments.studies.rivals {words}"

    def search(self, planned: Search) -> Found:
        """The best settings of a guidance: its YAML's own where no trial does better.

        Raises:
            SystemExit: a run failed or was interrupted, and has said so.
        """
        space, objective = SPACES[planned.name], planned.own.config["objective"]
        self._run([*planned.words, "hydra.mode=RUN"])
        own_value = average_scores(read_run(planned.own.folder).scores)[objective]
        choices = [f"guidance.{setting}={values}" for setting, values in space.items()]
        self._run([*planned.words, *choices])
        told = OmegaConf.load(planned.own.output_dir / ".hydra" / SEARCH_FILE)
        settings = {name: planned.own.config["guidance"][name] for name in space}
        value = own_value
        if planned.sign * told.best_value > planned.sign * own_value:
            settings = {name: told.best_params[f"guidance.{name}"] for name in space}
            value = float(told.best_value)
        given = [f"guidance.{name}={setting}" for name, setting in settings.items()]
        counted = count_evaluations(read_run(self._plan_run([*planned.words, *given]).folder))
        forward, backward, images = counted or (0.0, 0.0, 1)
        rows = forward / images, backward / images
        return Found(settings, value, own_value, rows, _count_tried(planned))

    def _plan_run(self, words: Sequence[str]) -> Plan:
        config = self._compose(words)
        return make_plan(OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"]))

    def _compose(self, words: Sequence[str]) -> DictConfig:
        path = [f"hydra.searchpath=[file://{self._folder.resolve()}]"] if self._folder else []
        with initialize_config_dir(str(CONF), version_base="1.3"):
            try:
                return compose("config", [*words, *path], return_hydra_config=True)
            except HydraException as error:
                raise UserError(describe(error)) from error

    def _run(self, words: Sequence[str]) -> None:
        folder = ["--config-dir", str(self._folder)] if self._folder else []
        if status := run([*folder, *words]):
            raise SystemExit(status)


def _count_tried(planned: Search) -> int:
    """The settings that its runs have, its own among them."""

    def drop_guidance(identity: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in identity.items() if name != "guidance"}

    known = drop_guidance(planned.own.identity)
    runs = map(read_run, find_runs([planned.own.output_dir]))
    return sum(drop_guidance(run.identity) == known for run in runs)


def _read_comment(file: Path) -> str:
    """What a frozen choice says of how it was found."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return " ".join(line.removeprefix("# ") for line in lines if line.startswith("#"))


def freeze(planned: Search, found: Found, file: Path, command: str) -> None:
    """Writes what was found as a choice of its own, with how it was found: by which command."""
    name, config, (forward, backward) = planned.name, planned.own.config, found.rows
    eta = "" if config["eta"] is None else f" at eta {config['eta']:g}"
    prompts = count_things(len(planned.own.prompts), "prompt")
    chosen = config["prompt_set"]
    of = "/".join(filter(None, [chosen["name"], chosen.get("split") or ""]))
    said = (
        f"{name} as found best for {config['model']['name']} in {config['num_inference_steps']} "
        f"steps{eta} under {planned.own.mask.label}, by {config['objective']} "
        f"on {prompts} of {of}: {found.value:.3f}, where guidance={name} has "
        f"{found.own_value:.3f}. Tried were its own settings and {planned.trials} trials of "
        f"{', '.join(f'{key} {values}' for key, values in SPACES[name].items())}, "
        f"{found.tried} different ones in all. A picture took {forward:.4g} rows of the network "
        f"forward and {backward:.4g} backward. By {command}"
    )
    lines = textwrap.wrap(said, WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    text = (
        "".join(f"# {line}\n" for line in lines)
        + f"defaults:\n  - /guidance/{name}@_here_\n  - _self_\n"
        + OmegaConf.to_yaml(OmegaConf.create(found.settings))
    )
    write_bytes(file, text.encode())


@command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """Searches the guidances named, or all."""
    parser = Parser("experiments.studies.rivals", __doc__)
    parser.add_argument("words", nargs="*", help="guidances, and settings of all their runs")
    parser.add_argument(
        "--config-dir",
        type=Path,
        metavar="FOLDER",
        help="of your own choices, as for experiments.run; what is found is frozen there",
    )
    parser.add_argument(
        "--into",
        default=TUNED,
        metavar="NAME",
        help=f"what is found is guidance=NAME/cfg and so on; {TUNED} by default",
    )
    chosen = parser.read(arguments)
    names = [word for word in chosen.words if "=" not in word]
    names = names or [name for name in SPACES if name not in TRANSFORMERS]
    settings = [word for word in chosen.words if "=" in word]
    searcher = Searcher(settings, chosen.config_dir, chosen.into)
    for planned in list(map(searcher.plan, names)):
        file = searcher.frozen / f"{planned.name}.yaml"
        freeze(planned, searcher.search(planned), file, searcher.spell(planned))
        print(file, flush=True)
    found = ",".join(f"{chosen.into}/{name}" for name in names)
    beside = "" if chosen.config_dir is None else f", with --config-dir {chosen.config_dir}"
    print(f"now on test prompts, as guidance={found}{beside}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
