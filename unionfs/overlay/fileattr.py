"""chattr(1)'s flags and `struct fsxattr`, got and set as ovl_fileattr_get() and ovl_fileattr_set() do.

Upper's object has all flags but two: immutable and append-only would keep the union itself out, so they are
kept in `overlay.protattr` and honoured by `protect.py`. A lower's flags are shown as they are.
"""

from __future__ import annotations

import errno
import os
import stat
import struct

from unionfs.linux import fileattr
from unionfs.linux.fileattr import FSXATTR_SIZE
from unionfs.overlay.access import READ, WRITE, OwnerAccess
from unionfs.overlay.copy_up import ensure_upper
from unionfs.overlay.cred import CAP_FOWNER, CAP_LINUX_IMMUTABLE, Caller
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Inode
from unionfs.overlay.protect import protection

_PROT_FLAGS = fileattr.FS_APPEND_FL | fileattr.FS_IMMUTABLE_FL
_PROT_XFLAGS = fileattr.FS_XFLAG_APPEND | fileattr.FS_XFLAG_IMMUTABLE


def get_flags(fs: OverlayFs, inode: Inode) -> int:
    """The `FS_*_FL` flags; ENOTTY where the filesystem has none."""
    fd = _open(fs, inode)
    try:
        return fileattr.get_flags(fd) | protection(fs, inode)
    finally:
        os.close(fd)


def get_fsxattr(fs: OverlayFs, inode: Inode) -> bytes:
    """The `struct fsxattr`; ENOTTY where the filesystem has none."""
    fd = _open(fs, inode)
    try:
        value = fileattr.get_fsxattr(fd)
    finally:
        os.close(fd)
    (xflags,) = struct.unpack_from("=I", value)
    return struct.pack("=I", xflags | _to_xflags(protection(fs, inode))) + value[4:]


def set_flags(fs: OverlayFs, inode: Inode, flags: int, caller: Caller) -> None:
    """Set the flags, all of them, after a copy-up. May raise `Wait`."""
    _check(fs, inode, flags & _PROT_FLAGS, caller)
    ensure_upper(fs, inode, data=False)
    fd = _open(fs, inode)
    try:
        fileattr.set_flags(fd, flags & ~_PROT_FLAGS)
    finally:
        os.close(fd)
    _set_protection(fs, inode, flags & _PROT_FLAGS)


def set_fsxattr(fs: OverlayFs, inode: Inode, value: bytes, caller: Caller) -> None:
    """Set a `struct fsxattr` after a copy-up. May raise `Wait`."""
    if len(value) != FSXATTR_SIZE:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    (xflags,) = struct.unpack_from("=I", value)
    prot = _from_xflags(xflags)
    _check(fs, inode, prot, caller)
    ensure_upper(fs, inode, data=False)
    fd = _open(fs, inode)
    try:
        fileattr.set_fsxattr(fd, struct.pack("=I", xflags & ~_PROT_XFLAGS) + value[4:])
    finally:
        os.close(fd)
    _set_protection(fs, inode, prot)


def _check(fs: OverlayFs, inode: Inode, prot: int, caller: Caller) -> None:
    """As vfs_fileattr_set(): the owner may set flags, and protection needs CAP_LINUX_IMMUTABLE."""
    fs.writable_work()
    st = inode.lstat()
    if caller.uid != st.st_uid and not caller.has_capability(CAP_FOWNER, st):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    if prot != protection(fs, inode) and not caller.has_capability(CAP_LINUX_IMMUTABLE):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def _set_protection(fs: OverlayFs, inode: Inode, prot: int) -> None:
    path, follow = inode.proc_path()
    name = fs.format.protattr
    with OwnerAccess(fs, path, WRITE, follow=follow):
        if prot:
            os.setxattr(path, name, fs.format.encode_protattr(prot), follow_symlinks=follow)
        elif inode.prot:
            try:
                os.removexattr(path, name, follow_symlinks=follow)
            except OSError as error:
                if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
                    raise
    inode.prot = prot
    # What has changed is the change time, which the kernel may hold.
    fs.attrs_to_invalidate.append(inode.ino)


def _open(fs: OverlayFs, inode: Inode) -> int:
    """A descriptor of the topmost real object on which the ioctls work."""
    if not stat.S_ISREG(inode.mode) and not stat.S_ISDIR(inode.mode):
        raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
    path, follow = inode.proc_path()
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW)
    try:
        return os.open(path, flags)
    except PermissionError:
        if not inode.on_upper:
            raise
        with OwnerAccess(fs, path, READ, follow=follow, ino=inode.ino):
            return os.open(path, flags)


def _to_xflags(prot: int) -> int:
    append = fileattr.FS_XFLAG_APPEND if prot & fileattr.FS_APPEND_FL else 0
    return append | (fileattr.FS_XFLAG_IMMUTABLE if prot & fileattr.FS_IMMUTABLE_FL else 0)


def _from_xflags(xflags: int) -> int:
    append = fileattr.FS_APPEND_FL if xflags & fileattr.FS_XFLAG_APPEND else 0
    return append | (fileattr.FS_IMMUTABLE_FL if xflags & fileattr.FS_XFLAG_IMMUTABLE else 0)
