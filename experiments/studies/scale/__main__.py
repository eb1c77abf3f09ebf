"""``python -m experiments.studies.scale``."""

import sys

from experiments.studies.scale.command import main

sys.exit(main())
