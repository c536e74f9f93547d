"""`python -m unionfs` is the command `pyunionfs`."""

from __future__ import annotations

from unionfs.cli import command

if __name__ == "__main__":
    command()
