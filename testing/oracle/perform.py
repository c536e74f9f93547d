"""Performs one operation as its user: where the operations of all modules come together.

Must leave the process as the user that it was, whatever the operation did.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable

from testing.oracle import descriptors, locking, operations
from testing.oracle.case import Op
from testing.oracle.operations import Outcome, Slots

GROUPS = {0: [0], 1000: [1000, 2000], 1001: [1001]}
"""The users that operations run as, and their groups, the first of them the effective one."""

OPERATIONS: dict[str, Callable[..., object]] = {
    name.removeprefix("op_"): function
    for module in (operations, descriptors, locking)
    for name, function in vars(module).items()
    if name.startswith("op_")
}

_AS_OPENER = ("fwrite", "fallocate")
"""Whether these drop setgid depends on the caller.

FUSE tells pyfuse3's handlers only the opener, and a descriptor that is handed to a process with other rights
is rare: it is not compared.
"""

_PR_SET_DUMPABLE = 4
_libc = ctypes.CDLL(None, use_errno=True)


def perform(slots: Slots, op: Op) -> Outcome:
    """Perform one operation as its user, and give what that user saw."""
    function = OPERATIONS[op.name]
    os.umask(op.umask)
    uid = slots.opener(op.args[0]) if op.name in _AS_OPENER else op.uid
    slots.uid = uid
    groups = GROUPS[uid]
    other = uid != os.getuid()
    if other:
        os.setgroups(groups)
        os.setegid(groups[0])
        os.seteuid(uid)
        # Else its own /proc/self/fd is closed to it.
        if _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0) != 0:
            raise RuntimeError("prctl(PR_SET_DUMPABLE) failed")
    try:
        return "ok", function(slots, *op.args)
    except OSError as error:
        return "error", errno.errorcode.get(error.errno or 0, str(error.errno))
    finally:
        if other:
            os.seteuid(0)
            os.setegid(0)
            os.setgroups(GROUPS[0])
