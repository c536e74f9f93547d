"""Which errno a caller sees where the daemon's own one would say something untrue of the caller.

Errnos are chosen in `overlay`; here are only those that the system gives the daemon because it is a process
with limits, which kernel overlayfs is not.
"""

from __future__ import annotations

import errno


def errno_for_caller(code: int) -> int:
    """ENFILE, "the system has no more", for EMFILE, "you have too many": it is the daemon that has.

    EMFILE of the caller's own the kernel answers before it asks.
    """
    return errno.ENFILE if code == errno.EMFILE else code
