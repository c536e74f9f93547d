"""Copying a directory with all that is in it, by descriptors: what volumes are filled with.

Kept are data with its holes, owners, modes, both times, extended attributes and hard links, as by Docker
(containerd's continuity/fs, CopyDir). Follows no symlink.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

from unionfs.overlay.copy_data import copy_data

_OPEN_DIR = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW_FILE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ACLS = "system.posix_acl_"
_LABEL = "security.selinux"
"""It belongs to the place, not to the content."""
_NOT_HERE = (errno.EOPNOTSUPP, errno.EPERM, errno.EACCES)
"""What setxattr(2) answers where this filesystem or this user cannot have an attribute."""


@dataclass(slots=True)
class _Directory:
    source: int
    target: int
    path: bytes
    """From the top, with a slash behind, or empty."""
    st: os.stat_result
    names: list[bytes]
    """Those still to come."""


def copy_directory(source: int, target: int, *, keep_owners: bool) -> None:
    """Copy what is in the directory *source* into the empty one *target*, and its attributes.

    Without *keep_owners* everything belongs to this process. Device nodes that it may not make are left out.
    Changes the working directory.
    """
    copy = _Copy(target, keep_owners)
    stack = [_Directory(source, target, b"", os.fstat(source), _names(source))]
    try:
        while stack:
            above = stack[-1]
            if not above.names:
                copy.attributes(above.source, above.target, above.st)
                _close(stack.pop(), source)
                continue
            name = above.names.pop()
            st = os.stat(name, dir_fd=above.source, follow_symlinks=False)
            if not stat.S_ISDIR(st.st_mode):
                copy.other(above, name, st)
                continue
            os.mkdir(name, 0o700, dir_fd=above.target)
            below = os.open(name, _OPEN_DIR, dir_fd=above.source)
            made = os.open(name, _OPEN_DIR, dir_fd=above.target)
            stack.append(_Directory(below, made, above.path + name + b"/", st, _names(below)))
    finally:
        for each in stack:
            _close(each, source)


def _names(fd: int) -> list[bytes]:
    return sorted(map(os.fsencode, os.listdir(fd)), reverse=True)


def _close(each: _Directory, top: int) -> None:
    if each.source != top:
        os.close(each.source)
        os.close(each.target)


def copy_attributes(source: int, target: int, *, keep_owners: bool) -> None:
    """Owner, mode, times and extended attributes of what is open, onto another of its kind."""
    _Copy(target, keep_owners).attributes(source, target, os.fstat(source))


class _Copy:
    def __init__(self, top: int, keep_owners: bool) -> None:
        self._top = top
        self._keep_owners = keep_owners
        self._links: dict[tuple[int, int], bytes] = {}
        """Files with several names, by device and number, and the path at which one was made."""

    def other(self, above: _Directory, name: bytes, st: os.stat_result) -> None:
        """Copy what is no directory."""
        identity = (st.st_dev, st.st_ino)
        if st.st_nlink > 1 and identity in self._links:
            first = self._links[identity]
            os.link(first, name, src_dir_fd=self._top, dst_dir_fd=above.target, follow_symlinks=False)
            return
        if stat.S_ISREG(st.st_mode):
            self._file(above, name, st)
        elif not self._special(above, name, st):
            return
        if st.st_nlink > 1:
            self._links[identity] = above.path + name

    def _file(self, above: _Directory, name: bytes, st: os.stat_result) -> None:
        source = os.open(name, _OPEN_FILE, dir_fd=above.source)
        try:
            target = os.open(name, _NEW_FILE, 0o600, dir_fd=above.target)
            try:
                copy_data(source, target, st.st_size)
                self.attributes(source, target, st)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _special(self, above: _Directory, name: bytes, st: os.stat_result) -> bool:
        """A symlink, FIFO, socket or device, which are not opened; whether it could be made."""
        target = above.target
        if stat.S_ISLNK(st.st_mode):
            os.symlink(os.readlink(name, dir_fd=above.source), name, dir_fd=target)
        else:
            try:
                os.mknod(name, stat.S_IFMT(st.st_mode) | 0o600, st.st_rdev, dir_fd=target)
            except PermissionError:
                if not (stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode)):
                    raise
                return False  # in a user namespace, where it could not be opened either
        if self._keep_owners:
            os.chown(name, st.st_uid, st.st_gid, dir_fd=target, follow_symlinks=False)
        os.fchdir(above.source)  # xattrs of a symlink have no call with a directory before Linux 6.13
        found = {each: os.getxattr(name, each, follow_symlinks=False) for each in _xattrs(name)}
        os.fchdir(target)
        for each, value in found.items():
            self._set(name, each, value)
        if not stat.S_ISLNK(st.st_mode):
            os.chmod(name, stat.S_IMODE(st.st_mode), dir_fd=target)
        times = (st.st_atime_ns, st.st_mtime_ns)
        os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)
        return True

    def attributes(self, source: int, target: int, st: os.stat_result) -> None:
        """In the order in which none takes another away: chown(2) capabilities, chmod(2) what an ACL says."""
        if self._keep_owners:
            os.fchown(target, st.st_uid, st.st_gid)
        found = {name: os.getxattr(source, name) for name in _xattrs(source)}
        acls = {name: value for name, value in found.items() if name.startswith(_ACLS)}
        for name in found.keys() - acls.keys():
            self._set(target, name, found[name])
        os.fchmod(target, stat.S_IMODE(st.st_mode))
        for name, value in acls.items():
            self._set(target, name, value)
        os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns))

    def _set(self, target: int | bytes, name: str, value: bytes) -> None:
        try:
            os.setxattr(target, name, value, follow_symlinks=isinstance(target, int))
        except OSError as error:
            # An ACL may name ids that do not exist where all files have one owner.
            foreign = error.errno == errno.EINVAL and name.startswith(_ACLS) and not self._keep_owners
            if error.errno not in _NOT_HERE and not foreign:
                raise


def _xattrs(of: int | bytes) -> list[str]:
    try:
        names = os.listxattr(of, follow_symlinks=isinstance(of, int))
    except OSError as error:
        if error.errno == errno.EOPNOTSUPP:
            return []
        raise
    return [name for name in names if name != _LABEL]
