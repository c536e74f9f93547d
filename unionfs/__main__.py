"""`python -m unionfs` is the command `pyunionfs`."""

from __future__ import annotations

import sys

from unionfs.cli import main

if __name__ == "__main__":
    sys.exit(main())
