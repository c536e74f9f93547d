"""The operations by which programs lock files: flock(2), and record locks of processes and of open files.

Two processes perform a case's operations (see `worker`), so that locks do meet. Must never wait for a lock.
"""

from __future__ import annotations

import fcntl
import os
import struct

from testing.oracle.operations import Slots, seen

FLOCKS = {"sh": fcntl.LOCK_SH, "ex": fcntl.LOCK_EX, "un": fcntl.LOCK_UN}
RECORDS = {"read": fcntl.F_RDLCK, "write": fcntl.F_WRLCK, "none": fcntl.F_UNLCK}
_F_OFD_GETLK = 36
_F_OFD_SETLK = 37
_FLOCK = struct.Struct("hhqqi4x")
"""struct flock of 64-bit Linux: type, whence, start, length, pid."""


def op_flock(slots: Slots, slot: int, kind: str) -> object:
    fd = slots[slot]
    fcntl.flock(fd, FLOCKS[kind] | fcntl.LOCK_NB)
    return "granted", seen(os.fstat(fd))


def op_setlk(slots: Slots, slot: int, by_file: bool, kind: str, start: int, length: int) -> object:
    fd = slots[slot]
    wanted = _FLOCK.pack(RECORDS[kind], os.SEEK_SET, start, length, 0)
    fcntl.fcntl(fd, _F_OFD_SETLK if by_file else fcntl.F_SETLK, wanted)
    return "granted", seen(os.fstat(fd))


def op_getlk(slots: Slots, slot: int, by_file: bool, kind: str, start: int, length: int) -> object:
    fd = slots[slot]
    wanted = _FLOCK.pack(RECORDS[kind], os.SEEK_SET, start, length, 0)
    answer = fcntl.fcntl(fd, _F_OFD_GETLK if by_file else fcntl.F_GETLK, wanted)
    found, _, first, count, pid = _FLOCK.unpack(answer)
    holder = "an open file" if pid == -1 else "a process"
    names = {value: name for name, value in RECORDS.items()}
    lock = None if found == fcntl.F_UNLCK else (names[found], first, count, holder)
    return lock, seen(os.fstat(fd))
