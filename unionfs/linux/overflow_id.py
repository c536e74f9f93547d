"""The ids that the kernel shows for those that have no meaning in a user namespace."""

from __future__ import annotations

import functools


@functools.cache
def overflow_id(kind: str) -> int:
    """What is shown for an id that has no meaning here; *kind* is "uid" or "gid"."""
    try:
        with open(f"/proc/sys/kernel/overflow{kind}", "rb") as file:
            return int(file.read())
    except (OSError, ValueError):
        return 65534
