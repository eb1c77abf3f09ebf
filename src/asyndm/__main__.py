"""``python -m asyndm``, the console command ``asyndm``."""

import sys

from asyndm.command import main

if __name__ == "__main__":
    sys.exit(main())
