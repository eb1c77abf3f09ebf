"""``python -m evaluation.quality``."""

import sys

from evaluation.quality.command import main

sys.exit(main())
