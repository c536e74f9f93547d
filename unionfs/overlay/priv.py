"""What a change of a file's data takes away: setuid and setgid, unless the caller holds CAP_FSETID.

`security.capability` the upper filesystem drops by itself.
"""

from __future__ import annotations

import os
import stat

from unionfs.overlay.cred import CAP_FSETID, Caller
from unionfs.overlay.inode import File

_SET_IDS = stat.S_ISUID | stat.S_ISGID


def drop_set_ids(inode: File, caller: Caller) -> None:
    """Take setuid away, and setgid where it is one (with group execute), as a write does on Linux."""
    if not inode.mode & _SET_IDS or caller.has_capability(CAP_FSETID):
        return
    mode = inode.lstat().st_mode
    kept = mode & ~stat.S_ISUID
    if mode & stat.S_IXGRP:
        kept &= ~stat.S_ISGID
    if kept != mode:
        os.chmod(inode.proc_path()[0], stat.S_IMODE(kept))
    inode.mode = kept
