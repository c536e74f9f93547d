"""Space: fallocate(2) with all its modes, SEEK_DATA and SEEK_HOLE of open files; whether there is room.

What a mode does is the upper filesystem's business, and so is refusing it (EOPNOTSUPP).
"""

from __future__ import annotations

import errno
import functools
import os
from collections.abc import Callable

from unionfs.linux import syscalls
from unionfs.overlay.cred import Caller
from unionfs.overlay.file import OpenFile
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.priv import drop_set_ids
from unionfs.overlay.protect import check_not_append, check_writable

_KEEP_SIZE = 1


def prepare(
    fs: OverlayFs, handle: OpenFile, mode: int, offset: int, length: int, caller: Caller
) -> Callable[[], None]:
    """fallocate(2) as a job for any thread: moving or zeroing what was just written waits for the disk.

    The handle must be able to write, so that its file lies in upper, and stay open. Set-ids go.
    """
    if not handle.writable:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    if mode & ~_KEEP_SIZE:
        check_not_append(fs, handle.inode)
    check_writable(fs, handle.inode)
    drop_set_ids(handle.inode, caller)
    return functools.partial(syscalls.fallocate, handle.fd, mode, offset, length)


def seek(handle: OpenFile, offset: int, whence: int) -> int:
    """lseek(2) by SEEK_DATA or SEEK_HOLE, in the file that holds the data; ENXIO past its end."""
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    handle.follow_copy_up()
    return os.lseek(handle.fd, offset, whence)


def has_room(fs: OverlayFs, size: int) -> bool:
    """Whether *size* bytes could be stored in upper now, by giving them to a nameless file.

    What statvfs(2) says counts reserves that may not be ours, and no quota.
    """
    work = fs.writable_work()
    try:
        fd = os.open(b".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=work.fd)
        try:
            syscalls.fallocate(fd, 0, 0, size)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            there = os.fstatvfs(work.fd)
            return there.f_bavail * there.f_frsize >= size
        return False
    return True
