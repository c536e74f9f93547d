"""Errnos that are true of the daemon and would be wrong for the caller.

Errnos are chosen in `overlay`; here are only those that the daemon gets because it is a process with limits,
which kernel overlayfs is not.
"""

from __future__ import annotations

import errno


def errno_for_caller(code: int) -> int:
    """ENFILE (too many open files in the system) for the daemon's EMFILE (too many in this process).

    For the caller's own limit the kernel returns EMFILE without a request.
    """
    return errno.ENFILE if code == errno.EMFILE else code
