"""``python -m experiments.studies.benchmark``."""

import sys

from experiments.studies.benchmark.command import main

sys.exit(main())
