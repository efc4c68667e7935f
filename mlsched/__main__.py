"""``python -m mlsched``: the command line, where the program ``mlsched`` is not on the path."""

from __future__ import annotations

import sys

from mlsched.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
