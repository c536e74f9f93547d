"""Deletions as AUFS and image layers record them (`whiteouts=aufs`): `.wh.NAME` and `.wh..wh..opq`.

For filesystems on which no device 0/0 can be made, and for programs that read upper as an image layer. A name
cannot go in the same step in which its mark comes; so the order does it. A mark beside the name itself hides
nothing but what the lowers have of that name (`readdir.ALONE`), which a file or an empty directory hides
anyway: the mark comes first and the name goes after it, or the new object comes and the mark goes after it.
A crash in between leaves the old tree or the new one. What would not be so must not be done here: a merged
directory is not renamed, for the mark would hide its lower part before it has moved.
"""

from __future__ import annotations

import contextlib
import errno
import os

from unionfs.overlay.access import PLACE, OwnerAccess, PreserveParentTimes
from unionfs.overlay.format import OPAQUE_FILE, WHITEOUT_PREFIX
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.layer import NAME_MAX, RealDir
from unionfs.overlay.work import MARK_MODE


def check_name(name: bytes) -> None:
    """Before anything is changed: ENAMETOOLONG or EINVAL for a name that no mark can be made for."""
    if len(name) > NAME_MAX - len(WHITEOUT_PREFIX):
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if name.startswith(WHITEOUT_PREFIX):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def hide(fs: OverlayFs, place: RealDir, name: bytes) -> bool:
    """Make the mark that hides *name* in the layers below; returns whether it had to be made."""
    try:
        fs.writable_work().link_whiteout(place.open(), WHITEOUT_PREFIX + name)
    except FileExistsError:
        return False
    return True


def unhide(place: RealDir, name: bytes) -> None:
    """Take the mark away, in whose place there is an object now.

    Should it stay, that changes nothing: see above.
    """
    with contextlib.suppress(OSError):
        os.unlink(WHITEOUT_PREFIX + name, dir_fd=place.open())


def mark_new_opaque(fs: OverlayFs, path: bytes) -> None:
    """Make the opaque mark in a private directory."""
    with OwnerAccess(fs, path, PLACE):
        os.mknod(path + b"/" + OPAQUE_FILE, MARK_MODE)


def mark_opaque(fs: OverlayFs, directory: RealDir) -> None:
    """Make it in a directory of upper that has nothing below it; its times stay."""
    with PreserveParentTimes(fs, directory), contextlib.suppress(FileExistsError):
        os.mknod(OPAQUE_FILE, MARK_MODE, dir_fd=directory.open())
