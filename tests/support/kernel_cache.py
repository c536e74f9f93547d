"""Have the kernel forget what it caches of one mount, and of no other.

Must not drop the machine's caches: tests that run beside this one look at what theirs remember.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_NR_FSCONFIG = 431
_NR_FSPICK = 433
_FSCONFIG_CMD_RECONFIGURE = 7
_FSPICK_CLOEXEC = 1

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def forget_unused(merged: Path) -> None:
    """Have it forget all names and inodes of this mount that are not in use.

    By a remount without a change, which shrinks the dcache of its superblock first. An inode of FUSE goes
    with its last name.
    """
    context = _checked(_libc.syscall(_NR_FSPICK, -100, os.fsencode(merged), _FSPICK_CLOEXEC))
    try:
        _checked(_libc.syscall(_NR_FSCONFIG, context, _FSCONFIG_CMD_RECONFIGURE, None, None, 0))
    finally:
        os.close(context)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
