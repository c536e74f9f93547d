"""What a change of a file's data clears: setuid and setgid, unless the caller holds CAP_FSETID.

`security.capability` the upper filesystem drops by itself, at every write of ours.
"""

from __future__ import annotations

import errno
import os
import stat

from unionfs.overlay.cred import CAP_FSETID, Caller
from unionfs.overlay.inode import File

CAPABILITY = "security.capability"

_SET_IDS = stat.S_ISUID | stat.S_ISGID


def drop_set_ids(inode: File, caller: Caller, kill: bool | None = None, *, keep_group: bool = False) -> None:
    """Take setuid and setgid away, as a write does on Linux (setattr_should_drop_suidgid()).

    *kill* is what the kernel knows about the process that writes (HANDLE_KILLPRIV_V2): True for one without
    CAP_FSETID, False for one with it; None: *caller* is looked at. Setgid without group execute stays for a
    member of the file's group, and with *keep_group*: in a chown of a caller with CAP_FSETID
    (in_group_or_capable()).
    """
    if not inode.mode & _SET_IDS or kill is False:
        return
    st = inode.lstat()
    if kill is None and caller.has_capability(CAP_FSETID, st):
        return
    kept = without_set_ids(st, caller, keep_group=keep_group)
    if kept != st.st_mode:
        inode.set_mode(kept)
    inode.mode = kept


def without_set_ids(st: os.stat_result, caller: Caller, *, keep_group: bool) -> int:
    """The mode that is left of a file's, as `drop_set_ids` leaves it."""
    mode = st.st_mode
    kept = mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP or (mode & stat.S_ISGID and not keep_group and not caller.in_group(st.st_gid)):
        kept &= ~stat.S_ISGID
    return kept


def capability_of(fd: int) -> bytes | None:
    """The file's `security.capability`; None where it has none."""
    try:
        return os.getxattr(fd, CAPABILITY)
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise
