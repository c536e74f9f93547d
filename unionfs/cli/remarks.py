"""Remarks on what becomes a layer or an archive, for standard error: what is left out, or not as it was."""

from __future__ import annotations

import os
import sys

from unionfs.cli.text import printable


def printed(path: bytes, text: str) -> None:
    """Print one; *path* is below the root."""
    print(f"pyunionfs: /{printable(os.fsdecode(path))}: {text}", file=sys.stderr)
