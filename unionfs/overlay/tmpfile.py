"""O_TMPFILE: a regular file without a name, made in upper's directory as the caller.

It is served by descriptor like one that lost its last name, and `link` can give it one. What it inherits from
the directory (group, ACL) the filesystem gives it; one without O_TMPFILE answers EOPNOTSUPP.
"""

from __future__ import annotations

import os
import stat

from unionfs.overlay.copy_up import upper_dir
from unionfs.overlay.cred import Caller
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.iget import adopt_nameless
from unionfs.overlay.inode import Directory, File


def tmpfile(
    fs: OverlayFs, parent: Directory, mode: int, flags: int, caller: Caller
) -> tuple[File, os.stat_result, int]:
    """open(2) with O_TMPFILE; of *flags* the access mode matters, and O_EXCL (it shall never have a name)."""
    fs.writable_work()
    place = upper_dir(fs, parent)
    how = flags & (os.O_ACCMODE | os.O_EXCL) | os.O_TMPFILE | os.O_CLOEXEC
    with fs.identity.acting_as(caller):
        fd = os.open(b".", how, stat.S_IMODE(mode), dir_fd=place.open())
    try:
        inode, st = adopt_nameless(fs, fd)
    except BaseException:
        os.close(fd)
        raise
    return inode, st, fd
