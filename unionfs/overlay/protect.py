"""Immutable and append-only objects: what the VFS refuses on them for overlayfs, refused here.

overlayfs gives its inodes S_IMMUTABLE and S_APPEND, from a lower object's own flags or from an upper one's
`overlay.protattr`; nothing lets a FUSE filesystem do that. So every change asks here first, before anything
has been copied up. Raises EPERM, for root too. Changes no layer.
"""

from __future__ import annotations

import errno
import os
import stat

from unionfs.linux import fileattr
from unionfs.linux.fileattr import FS_APPEND_FL as APPEND
from unionfs.linux.fileattr import FS_IMMUTABLE_FL as IMMUTABLE
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode


def protection(fs: OverlayFs, inode: Inode) -> int:
    """APPEND and IMMUTABLE, as far as they are set; looked at once."""
    if inode.prot < 0:
        inode.prot = _look(fs, inode)
    return inode.prot


def _look(fs: OverlayFs, inode: Inode) -> int:
    if not stat.S_ISREG(inode.mode) and not stat.S_ISDIR(inode.mode):
        return 0
    if inode.on_upper:
        # Of what upper itself protects, its filesystem refuses every change anyway.
        path, follow = inode.proc_path()
        return fs.format.read_protattr(path, follow=follow)
    if isinstance(inode, File):
        directory, name = inode.real()
        attributes = fileattr.statx_attributes(directory.open(), name)
    else:
        assert isinstance(inode, Directory)
        attributes = fileattr.statx_attributes(inode.top.open())
    return fileattr.protection_of(attributes)


def _refused() -> OSError:
    return OSError(errno.EPERM, os.strerror(errno.EPERM))


def check_changeable(fs: OverlayFs, inode: Inode) -> None:
    """Before a change of mode, owner, times, xattrs or names: neither may be set."""
    if protection(fs, inode):
        raise _refused()


def check_writable(fs: OverlayFs, inode: Inode) -> None:
    """Before a change that appending may be, too."""
    if protection(fs, inode) & IMMUTABLE:
        raise _refused()


def check_not_append(fs: OverlayFs, inode: Inode) -> None:
    """Before a change of data by a handle that was opened for writing."""
    if protection(fs, inode) & APPEND:
        raise _refused()


def check_open(fs: OverlayFs, inode: Inode, flags: int) -> None:
    """Before a file is opened for writing or cut (may_open())."""
    prot = protection(fs, inode)
    if prot & IMMUTABLE or (prot and (flags & os.O_TRUNC or not flags & os.O_APPEND)):
        raise _refused()


def check_create(fs: OverlayFs, parent: Directory) -> None:
    """Before a new name in a directory (may_create())."""
    check_writable(fs, parent)


def check_delete(fs: OverlayFs, parent: Directory, inode: Inode) -> None:
    """Before a name is removed or replaced (may_delete())."""
    if protection(fs, parent) or protection(fs, inode):
        raise _refused()
