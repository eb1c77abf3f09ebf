"""``python -m experiments.gpu_check``."""

import sys

from experiments.gpu_check.command import main

sys.exit(main())
