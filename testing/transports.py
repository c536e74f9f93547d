"""Which transport the mounts of a program use.

The choice travels in the environment, because tests and scripts start programs that mount; without it a mount
takes what `transport=auto` means.
"""

from __future__ import annotations

import os

TRANSPORTS = ("direct", "pyfuse3")

VARIABLE = "PYUNIONFS_TEST_TRANSPORT"


def chosen() -> str:
    """The transport of this program, or of this test."""
    return os.environ.get(VARIABLE, "auto")


def mount_words() -> list[str]:
    """What `pyunionfs mount` gets first of all; a later `-o transport=` counts more."""
    return ["-o", f"transport={chosen()}"] if VARIABLE in os.environ else []


def choose(name: str) -> None:
    """Have everything that this program mounts from now on use it; "auto": the default."""
    os.environ[VARIABLE] = name
