"""What a private object in work gets besides data before it is placed: owner, mode, xattrs, times, origin.

Works on objects that only this daemon can reach yet; never on one in upper, but for the impure mark of
its parent.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable

from unionfs.linux import fileattr
from unionfs.linux.as_owner import attributes_as_owner, open_as_owner
from unionfs.overlay.access import set_mark
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory
from unionfs.overlay.layer import Layer
from unionfs.overlay.owners import override_stat

_ACLS = "system.posix_acl_"
_MUST_COPY = (_ACLS, "security.")

_PROT_FLAGS = fileattr.FS_APPEND_FL | fileattr.FS_IMMUTABLE_FL
_COPIED_FLAGS = fileattr.FS_SYNC_FL | fileattr.FS_NOATIME_FL
_KEPT_FLAGS = fileattr.FS_FL_USER_MODIFIABLE & ~_PROT_FLAGS
_NO_FLAGS = (errno.ENOTTY, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS)
"""What filesystems answer that have no such flags."""


def copy_metadata(
    fs: OverlayFs,
    source: bytes | int,
    st: os.stat_result,
    target: bytes | int,
    *,
    no_xattrs: bool = False,
    layer: Layer | None = None,
) -> int:
    """Owner, mode, xattrs and times onto a private object; returns its inode number.

    *st* is what is stored of the source (`Inode.stored`).

    *source* is a descriptor, or a path to follow; *target* a descriptor, or a path that is not followed.
    *no_xattrs* says that there are no xattrs to be copied; *layer* is the source's, if not upper.
    """
    by_path = isinstance(target, bytes)
    made = os.stat(target, follow_symlinks=not by_path)
    store = fs.owner_store
    store.copy_owner(target, made, st)
    # After the owner, for chown drops capabilities; before the mode, which may keep an ordinary user out; the
    # ACLs last, for chmod would change them.
    names = [] if no_xattrs else _xattrs_to_copy(fs, source)
    if names:
        others = [name for name in names if not name.startswith(_ACLS)]
        _copy_xattrs(fs, source, target, _renamed(fs, layer, others))
    store.copy_mode(target, made, st)
    if names:
        _copy_xattrs(fs, source, target, [(name, name) for name in names if name.startswith(_ACLS)])
    store.finish_copy(target, made, st)
    os.utime(target, ns=(st.st_atime_ns, st.st_mtime_ns), follow_symlinks=not by_path)
    return made.st_ino


def _xattrs_to_copy(fs: OverlayFs, source: bytes | int) -> list[str]:
    try:
        names = os.listxattr(source)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM):
            return []
        raise
    return [name for name in names if not fs.format.xattrs.is_private(name)] if names else names


def _renamed(fs: OverlayFs, layer: Layer | None, names: list[str]) -> list[tuple[str, str]]:
    """The names with those that upper stores the same attributes by; without what *layer* does not show."""
    source = layer or fs.upper
    isolates = fs.upper is not None and fs.upper.isolates_security
    if source is fs.upper or not (isolates or (source is not None and source.isolates_security)):
        return [(name, name) for name in names]
    pairs = []
    for name in names:
        shown: bytes | None = os.fsencode(name)
        if source is not None and source.isolates_security:
            shown = override_stat.unisolated(os.fsencode(name))
        if shown is not None:
            pairs.append((name, os.fsdecode(override_stat.isolated(shown) if isolates else shown)))
    return pairs


def _copy_xattrs(
    fs: OverlayFs, source: bytes | int, target: bytes | int, names: Iterable[tuple[str, str]]
) -> None:
    follow = isinstance(target, int)
    out_of_reach: dict[str, bytes] | None = None
    for name, stored in names:
        try:
            value = os.getxattr(source, name)
        except PermissionError:
            # What an ordinary user's mode denies to himself: `user.` attributes are read as data is.
            if fs.lender is None:
                raise
            if out_of_reach is None:
                out_of_reach = _as_owner(source)
            value = out_of_reach[name]
        try:
            os.setxattr(target, stored, value, follow_symlinks=follow)
        except OSError as error:
            if stored != name and error.errno == errno.EPERM:
                continue  # a symlink or a device has no `user.` ones
            # As ovl_copy_xattr(): what upper cannot store may be lost, security never.
            if error.errno != errno.EOPNOTSUPP or name.startswith(_MUST_COPY):
                raise


def _as_owner(source: bytes | int) -> dict[str, bytes]:
    if isinstance(source, int):
        return attributes_as_owner(source)
    fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
    try:
        return attributes_as_owner(fd)
    finally:
        os.close(fd)


def set_impure(fs: OverlayFs, directory: Directory) -> None:
    """Mark an upper directory as holding objects from below, which tells overlayfs to adjust their d_ino."""
    if directory.impure or directory.upper is None:
        return
    set_mark(fs, directory.proc_path()[0], fs.format.impure, b"y", follow=True)
    directory.impure = True


def copy_flags(fs: OverlayFs, source: bytes | int, target: bytes | int) -> None:
    """chattr(1)'s flags of a lower file or directory onto a private object, as ovl_copy_fileattr().

    Synchronous and no-atime are copied; immutable and append-only become `overlay.protattr`. *source* and
    *target* as for `copy_metadata`.
    """
    flags = _flags_of(source)
    prot = flags & _PROT_FLAGS
    if prot:
        set_mark(fs, target, fs.format.protattr, fs.format.encode_protattr(prot))
    if flags & _COPIED_FLAGS:
        _change_flags(target, _COPIED_FLAGS, flags)


def keep_flags(source: bytes | int, target: bytes | int) -> None:
    """All flags and the project of an upper file onto the private one that will take its place."""
    flags = _flags_of(source)
    _change_flags(target, _KEPT_FLAGS, flags)
    with _Opened(source) as old, _Opened(target) as new:
        try:
            theirs, ours = fileattr.get_fsxattr(old), fileattr.get_fsxattr(new)
            if _sans_extents(theirs) != _sans_extents(ours):
                fileattr.set_fsxattr(new, theirs)
        except OSError as error:
            if error.errno not in _NO_FLAGS:
                raise


def _sans_extents(value: bytes) -> bytes:
    """A `struct fsxattr` without what only tells how the data lies."""
    return value[:8] + value[12:]


def _flags_of(source: bytes | int) -> int:
    try:
        with _Opened(source) as fd:
            return fileattr.get_flags(fd)
    except PermissionError:
        if isinstance(source, int):
            raise  # it is open already: no mode is in the way
        fd = os.open(source, os.O_PATH | os.O_CLOEXEC)
        try:
            with contextlib.suppress(PermissionError):
                return _flags_as_owner(fd)
            # An ordinary user's daemon: what the flags forbid can be seen all the same.
            return fileattr.protection_of(fileattr.statx(fd).attributes)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _NO_FLAGS:
            return 0
        raise


def _flags_as_owner(fd: int) -> int:
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    opened = open_as_owner(fd, b"/proc/self/fd/%d" % fd, flags)
    try:
        return fileattr.get_flags(opened)
    finally:
        os.close(opened)


def _change_flags(target: bytes | int, mask: int, flags: int) -> None:
    with _Opened(target) as fd:
        try:
            now = fileattr.get_flags(fd)
        except OSError as error:
            if error.errno in _NO_FLAGS:
                return  # upper's filesystem has no flags; overlayfs goes without, too
            raise
        wanted = now & ~mask | flags & mask
        if wanted != now:
            fileattr.set_flags(fd, wanted)


class _Opened:
    """A regular file or directory, opened for the length of a context unless it is a descriptor already."""

    __slots__ = ("_fd", "_path")

    def __init__(self, path: bytes | int) -> None:
        self._path = path

    def __enter__(self) -> int:
        if isinstance(self._path, int):
            return self._path
        self._fd = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        return self._fd

    def __exit__(self, *exc: object) -> None:
        if not isinstance(self._path, int):
            os.close(self._fd)
