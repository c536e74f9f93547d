"""Extended attributes and ACLs as callers see them: the union's own marks never show.

A caller's `overlay.X` is stored as `overlay.overlay.X`, so that unions can be nested (as overlayfs does since
Linux 6.7). Works by path through /proc, for the system calls take no directory descriptor.
"""

from __future__ import annotations

import errno
import os
import stat

from unionfs.overlay.copy_up import ensure_upper
from unionfs.overlay.cred import CAP_FSETID, CAP_SYS_ADMIN, Caller
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import File, Inode
from unionfs.overlay.protect import check_changeable

_CAPABILITY = b"security.capability"
_ACLS = b"system.posix_acl_"
_ACCESS_ACL = b"system.posix_acl_access"


def _absent() -> OSError:
    return OSError(errno.ENODATA, os.strerror(errno.ENODATA))


def getxattr(fs: OverlayFs, inode: Inode, name: bytes) -> bytes:
    """One attribute; ENODATA where it is not set."""
    path, follow = inode.proc_path()
    if name == _CAPABILITY and isinstance(inode, File):
        # The kernel asks for it before every write.
        if inode.no_capability:
            raise _absent()
        try:
            return os.getxattr(path, name, follow_symlinks=follow)
        except OSError as error:
            if error.errno == errno.ENODATA:
                inode.no_capability = True
            raise
    try:
        return os.getxattr(path, fs.format.to_stored(name), follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP and name.startswith(_ACLS):
            # A layer without ACLs has none to check; fuse.ko takes only this answer for it.
            raise _absent() from None
        raise


def listxattr(fs: OverlayFs, inode: Inode, caller: Caller) -> list[bytes]:
    """The names that *caller* may see: `trusted.` ones only with CAP_SYS_ADMIN."""
    path, follow = inode.proc_path()
    shown = []
    trusted: bool | None = None
    for stored in os.listxattr(path, follow_symlinks=follow):
        name = fs.format.to_shown(os.fsencode(stored))
        if name is None:
            continue
        if name.startswith(b"trusted."):
            if trusted is None:
                trusted = caller.has_capability(CAP_SYS_ADMIN)
            if not trusted:
                continue
        shown.append(name)
    return shown


def setxattr(fs: OverlayFs, inode: Inode, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
    """Set one attribute; *flags* may be XATTR_CREATE or XATTR_REPLACE. May raise `Wait`."""
    fs.writable_work()
    check_changeable(fs, inode)
    ensure_upper(fs, inode, data=False)
    path, follow = inode.proc_path()
    os.setxattr(path, fs.format.to_stored(name), value, flags, follow_symlinks=follow)
    if isinstance(inode, File):
        inode.no_capability = False
    if name == _ACCESS_ACL:
        _settle_mode(inode, caller)


def removexattr(fs: OverlayFs, inode: Inode, name: bytes, caller: Caller) -> None:
    """Remove one attribute; ENODATA, without a copy-up, where it is not set. May raise `Wait`."""
    fs.writable_work()
    check_changeable(fs, inode)
    stored = fs.format.to_stored(name)
    if not inode.on_upper:
        path, follow = inode.proc_path()
        os.getxattr(path, stored, follow_symlinks=follow)
    ensure_upper(fs, inode, data=False)
    path, follow = inode.proc_path()
    os.removexattr(path, stored, follow_symlinks=follow)
    if name == _ACCESS_ACL:
        _settle_mode(inode, caller)


def _settle_mode(inode: Inode, caller: Caller) -> None:
    """An access ACL sets the mode; setgid goes, with the ACL too, unless the caller may keep it."""
    st = inode.lstat()
    mode = st.st_mode
    if mode & stat.S_ISGID and not caller.in_group(st.st_gid) and not caller.has_capability(CAP_FSETID):
        mode &= ~stat.S_ISGID
        os.chmod(inode.proc_path()[0], stat.S_IMODE(mode))
    inode.mode = mode
