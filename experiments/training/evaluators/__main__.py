"""``python -m experiments.training.evaluators``."""

import sys

from experiments.training.evaluators.command import main

sys.exit(main())
