"""What a private object in work gets besides data before it is placed: owner, mode, xattrs, times, origin.

Works on objects that nobody else reaches yet; never on one in upper, but for the impure mark of its parent.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterable

from unionfs.linux import fileattr as linux
from unionfs.overlay.access import set_mark
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory
from unionfs.overlay.layer import RealDir

_ACLS = "system.posix_acl_"
_MUST_COPY = (_ACLS, "security.")

_PROT_FLAGS = linux.FS_APPEND_FL | linux.FS_IMMUTABLE_FL
_COPIED_FLAGS = linux.FS_SYNC_FL | linux.FS_NOATIME_FL
_KEPT_FLAGS = linux.FS_FL_USER_MODIFIABLE & ~_PROT_FLAGS
_NO_FLAGS = (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP)
"""What filesystems answer that have no such flags."""


def copy_metadata(fs: OverlayFs, source: bytes, st: os.stat_result, dirfd: int, name: bytes) -> None:
    """Owner, mode, xattrs and times onto a private object; *source* is a path to follow."""
    target = b"/proc/self/fd/%d/%s" % (dirfd, name)
    made = os.stat(name, dir_fd=dirfd, follow_symlinks=False)
    if (made.st_uid, made.st_gid) != (st.st_uid, st.st_gid):
        os.chown(name, st.st_uid, st.st_gid, dir_fd=dirfd, follow_symlinks=False)
    # After the owner, for chown drops capabilities; before the mode, which may keep an ordinary user out; the
    # ACLs last, for chmod would change them.
    names = _xattrs_to_copy(fs, source)
    _copy_xattrs(source, target, (name for name in names if not name.startswith(_ACLS)))
    if not stat.S_ISLNK(st.st_mode):
        os.chmod(name, stat.S_IMODE(st.st_mode), dir_fd=dirfd)
    _copy_xattrs(source, target, (name for name in names if name.startswith(_ACLS)))
    os.utime(name, ns=(st.st_atime_ns, st.st_mtime_ns), dir_fd=dirfd, follow_symlinks=False)


def _xattrs_to_copy(fs: OverlayFs, source: bytes) -> list[str]:
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM):
            return []
        raise
    return [name for name in names if not fs.format.is_private(name)]


def _copy_xattrs(source: bytes, target: bytes, names: Iterable[str]) -> None:
    for name in names:
        value = os.getxattr(source, name)
        try:
            os.setxattr(target, name, value, follow_symlinks=False)
        except OSError as error:
            # As ovl_copy_xattr(): what upper cannot store may be lost, security never.
            if error.errno != errno.EOPNOTSUPP or name.startswith(_MUST_COPY):
                raise


def set_origin(
    fs: OverlayFs, directory: RealDir | None, name: bytes, source: RealDir | None, dirfd: int, temp: bytes
) -> None:
    """Note on a private object what it was copied up from; *source* when that is a directory."""
    if source is not None:
        value = fs.format.encode_origin(source.layer, source, b"")
    else:
        assert directory is not None
        value = fs.format.encode_origin(directory.layer, directory, name)
    set_mark(fs, b"/proc/self/fd/%d/%s" % (dirfd, temp), fs.format.origin, value)


def set_impure(fs: OverlayFs, directory: Directory) -> None:
    """Mark an upper directory as holding objects from below, which tells overlayfs to adjust their d_ino."""
    if directory.impure or directory.upper is None:
        return
    set_mark(fs, directory.proc_path()[0], fs.format.impure, b"y", follow=True)
    directory.impure = True


def copy_flags(fs: OverlayFs, source: bytes, target: bytes) -> None:
    """chattr(1)'s flags of a lower file or directory onto a private object, as ovl_copy_fileattr().

    Synchronous and no-atime are copied; immutable and append-only become `overlay.protattr`. *source* is a
    path to follow.
    """
    flags = _flags_of(source)
    prot = flags & _PROT_FLAGS
    if prot:
        set_mark(fs, target, fs.format.protattr, fs.format.encode_protattr(prot))
    if flags & _COPIED_FLAGS:
        _change_flags(target, _COPIED_FLAGS, flags)


def keep_flags(source: bytes, target: bytes) -> None:
    """All flags and the project of an upper file onto the private one that will take its place."""
    flags = _flags_of(source)
    _change_flags(target, _KEPT_FLAGS, flags)
    with _Opened(source) as old, _Opened(target) as new:
        try:
            theirs, ours = linux.get_fsxattr(old), linux.get_fsxattr(new)
            if _sans_extents(theirs) != _sans_extents(ours):
                linux.set_fsxattr(new, theirs)
        except OSError as error:
            if error.errno not in _NO_FLAGS:
                raise


def _sans_extents(value: bytes) -> bytes:
    """A `struct fsxattr` without what only tells how the data lies."""
    return value[:8] + value[12:]


def _flags_of(source: bytes) -> int:
    try:
        with _Opened(source) as fd:
            return linux.get_flags(fd)
    except PermissionError:
        # An ordinary user's daemon: what the flags forbid can be seen all the same.
        fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
        try:
            return linux.protection_of(linux.statx(fd).attributes)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _NO_FLAGS:
            return 0
        raise


def _change_flags(target: bytes, mask: int, flags: int) -> None:
    with _Opened(target) as fd:
        try:
            now = linux.get_flags(fd)
        except OSError as error:
            if error.errno in _NO_FLAGS:
                return  # upper's filesystem has no flags; overlayfs goes without, too
            raise
        wanted = now & ~mask | flags & mask
        if wanted != now:
            linux.set_flags(fd, wanted)


class _Opened:
    """A regular file or directory, opened for the length of a context."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: bytes) -> None:
        self._path = path

    def __enter__(self) -> int:
        self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return self._fd

    def __exit__(self, *exc: object) -> None:
        os.close(self._fd)
