"""Pulls and pushes, as the user that tests/programs/as_user.py has become: STORE NAME."""

from __future__ import annotations

import sys

from unionfs.cli import main


def run(store: str, name: str) -> int:
    """The exit status of the first command that fails, or 0."""
    for words in (["pull", name], ["push", f"{name}:latest", f"{name}:again"]):
        status = main([words[0], "-q", "--store", store, *words[1:]])
        if status != 0:
            return status
    return 0


if __name__ == "__main__":
    sys.exit(run(*sys.argv[1:]))
