"""Runs a module of the test suite as root of a user namespace: `-m tests.programs.in_namespace MODULE ...`.

It is the unprivileged caller that makes the namespace, so this must be started as that user.
"""

from __future__ import annotations

import os
import sys


def main(arguments: list[str]) -> None:
    """Replace this process by unshare(1)."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    os.execvp(unshare[0], [*unshare, sys.executable, "-B", "-m", *arguments])


if __name__ == "__main__":
    main(sys.argv[1:])
