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
from collections.abc import Sequence

from evaluation.commands import command_line
from experiments.studies.planned import Claim, Study

ALL, HALF = 2_000, 1_000
"""Pairs: of what has two sets of seeds, and of what has the first alone."""
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
STUDY = Study(
    "experiments.studies.regions",
    __doc__,
    {"Where masks fit": CLAIMS},
    "make all: python -m experiments.run experiment=regions, then regions_things and "
    "regions_equal_cost",
)


@command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """The command line. Returns its exit status."""
    return STUDY.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
