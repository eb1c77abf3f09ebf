"""The differences that were planned for experiment=networks, each in one direction, and those of
one question corrected together.

    python -m experiments.studies.networks runs/networks
    python -m experiments.studies.networks runs/networks --markdown planned.md --csv planned.csv
    python -m experiments.studies.networks --plan  # the planned ones, as plan.md has them

The runs are those of experiment=networks on the checkpoints and LoRAs of conf/training, and nothing
is told before all are there. Why these differences, what counts as repeated, and how all is made:
experiments/results/networks/plan.md.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from evaluation.commands import command_line
from experiments.studies.planned import Claim, Study

GUIDANCE, PAIRS = 2, 500
MINUTES = (1, 5, 20)


def _plan_free(model: str) -> Iterator[Claim]:
    """Of a network to which the timestep map is no order."""
    for mask in ("dynamic", "static", "things", "planted"):
        yield Claim(model, GUIDANCE, mask, "none", 1, PAIRS)
    yield Claim(model, GUIDANCE, "planted", "planted ahead", 1, PAIRS)
    yield Claim(model, GUIDANCE, "planted another", "none", 0, PAIRS)


QUESTIONS = {
    "Where the timestep map is no order": tuple(
        claim for model in ("shapes_free", "free_again") for claim in _plan_free(model)
    ),
    "Trained a second time": (
        Claim("mixed_again", GUIDANCE, "things", "none", 1, PAIRS),
        Claim("mixed_again", GUIDANCE, "planted", "none", 1, PAIRS),
        Claim("mixed_again", GUIDANCE, "planted", "planted ahead", 1, PAIRS),
        Claim("shapes_again", GUIDANCE, "things", "none", 0, PAIRS),
        Claim("shapes_again", GUIDANCE, "planted", "none", 0, PAIRS),
    ),
    "Minutes of training on mixed levels": tuple(
        Claim(f"{how}_{minutes}min", GUIDANCE, mask, "none", 1, PAIRS)
        for how in ("mixed", "lora")
        for minutes in MINUTES
        for mask in ("things", "planted")
    ),
}
"""The plan. Those of a question that have a direction are corrected together."""
STUDY = Study(
    "experiments.studies.networks",
    __doc__,
    QUESTIONS,
    "experiments/results/networks/plan.md says how all are made",
)


@command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    return STUDY.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
