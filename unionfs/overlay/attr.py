"""getattr, setattr, readlink and statfs: attributes as the caller sees them, and changing them.

A change of attributes copies up first (without data where `metacopy=on`). Setuid, setgid and capabilities are
dropped as Linux drops them on truncate and chown; on write, `file.py` does.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from unionfs.linux import fileattr
from unionfs.overlay import xattr
from unionfs.overlay.access import WRITE, OwnerAccess, open_for_daemon
from unionfs.overlay.copy_up import ensure_upper
from unionfs.overlay.cred import CAP_DAC_OVERRIDE, CAP_FOWNER, CAP_FSETID, Caller
from unionfs.overlay.file import OpenFile
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.owners import acl
from unionfs.overlay.priv import drop_set_ids, without_set_ids
from unionfs.overlay.protect import check_changeable, check_not_append, check_writable, protection


@dataclass(slots=True)
class Changes:
    """What a setattr asks for; None leaves as it is. Times are nanoseconds since the epoch.

    `touch`: the times are those of now, which takes less right than others do. `by_handle`: it comes by an
    open file, also where that is not at hand. `kept`: the kernel keeps this file's times, and may be writing
    them back. `keeps_mtime` goes with `size`: where that is the size already, the kernel goes on showing the
    modification time that it has. `kill` goes with `size`: whether the caller lacks CAP_FSETID, where the
    kernel says so (`drop_set_ids`). `writing` counts where nothing is to be set: True says that the file is
    open for writing, False that it is not, None that it is not known.
    """

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    touch: bool = False
    by_handle: bool = False
    kept: bool = False
    keeps_mtime: bool = False
    kill: bool | None = None
    writing: bool | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be set."""
        return self.mtime_ns is None and self._is_mtime_at_most

    @property
    def _is_mtime_at_most(self) -> bool:
        asked = (self.mode, self.uid, self.gid, self.size, self.atime_ns)
        return all(value is None for value in asked)

    def says_nothing_new_of(self, inode: Inode) -> bool:
        """Whether it only brings back the mtime that a lower file has: its ctime has changed in the cache.

        fuse.ko writes back (fuse_flush_times()) after every unlink of a file whose times it keeps, and a
        copy-up for a file that is gone would be much work for nothing.
        """
        if not self.kept or not self._is_mtime_at_most or inode.on_upper:
            return False
        return inode.lstat().st_mtime_ns == self.mtime_ns


@dataclass(slots=True)
class StatX:
    """What statx(2) says: `stat` and, of the same object, what stat(2) lacks.

    `btime` is (seconds, nanoseconds), None where nothing records it; the attributes are `STATX_ATTR_*`.
    """

    inode: Inode
    stat: os.stat_result
    btime: tuple[int, int] | None
    attributes: int
    attributes_mask: int


def statx(fs: OverlayFs, inode: Inode) -> StatX:
    """Of the topmost real object, as overlayfs: a copy-up is a birth."""
    if isinstance(inode, File) and inode.fd < 0:
        directory, name = inode.real()
        found = fileattr.statx(directory.open(), name)
    elif isinstance(inode, File):
        found = fileattr.statx(inode.fd)
    else:
        assert isinstance(inode, Directory)
        found = fileattr.statx(inode.top.open())
    attributes = found.attributes | fileattr.attributes_of(protection(fs, inode))
    mask = found.attributes_mask | fileattr.STATX_ATTR_APPEND | fileattr.STATX_ATTR_IMMUTABLE
    return StatX(inode, inode.lstat(), found.btime, attributes, mask)


def link_count(inode: Inode, st: os.stat_result) -> int:
    """`st_nlink`: 1 for a merged directory, as overlayfs says, never counted by walking."""
    if isinstance(inode, Directory):
        return 1 if inode.merged else st.st_nlink
    assert isinstance(inode, File)
    return st.st_nlink if inode.nlink is None else inode.nlink


def link_counter(fs: OverlayFs) -> Callable[[Inode, os.stat_result], int]:
    """`link_count`, or with `static_nlink` what says 1 for every directory."""
    return _one_for_directories if fs.config.static_nlink else link_count


def _one_for_directories(inode: Inode, st: os.stat_result) -> int:
    return 1 if isinstance(inode, Directory) else link_count(inode, st)


def blocks(inode: Inode, st: os.stat_result) -> int:
    """`st_blocks`: those of the data, which for a metacopy lies below."""
    if isinstance(inode, File) and inode.metacopy:
        data = inode.data_stat()
        # Data-only layers are not asked before the data is: a guess, as overlayfs's.
        return -(-st.st_size // st.st_blksize) * st.st_blksize // 512 if data is None else data.st_blocks
    return st.st_blocks


def change(
    fs: OverlayFs, inode: Inode, changes: Changes, caller: Caller, handle: OpenFile | None = None
) -> os.stat_result:
    """chmod, chown, truncate and utimes in one. Returns the new stat. May raise `Wait`."""
    size = changes.size
    if isinstance(inode, Directory) and size is not None:
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if size is not None and not stat.S_ISREG(inode.mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    fs.writable_work()
    if changes.is_empty:
        return _set_nothing(fs, inode, caller, writing=changes.writing)
    if changes.says_nothing_new_of(inode):
        return inode.lstat()
    _check(fs, inode, changes, handle)
    owner = inode.owner_to_store(changes.uid, changes.gid)
    before = None if size is None else inode.lstat()
    size_changes = before is not None and before.st_size != size
    ensure_upper(fs, inode, data=size is not None, truncate=size == 0)
    if size is not None:
        assert isinstance(inode, File)
        drop_set_ids(inode, caller, changes.kill)
        path, follow = inode.proc_path()
        fs.owner_store.drop_capability(path, follow=follow)
        _truncate(fs, inode, size, size_changes, handle)
        if changes.keeps_mtime and before is not None and not size_changes:
            _put_back_mtime(inode, before.st_mtime_ns)
    if changes.uid is not None or changes.gid is not None:
        # The filesystem drops the capability by itself, and setuid and setgid but for one case that it
        # allows to privileged callers: setgid without group execute.
        if isinstance(inode, File):
            drop_set_ids(inode, caller)
        inode.set_owner(*owner)
    if changes.mode is not None:
        if stat.S_ISLNK(inode.mode):
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        inode.set_mode(changes.mode)
    if changes.atime_ns is not None or changes.mtime_ns is not None:
        _set_times(inode, changes)
    st = inode.lstat()
    inode.mode = st.st_mode
    if isinstance(inode, File):
        inode.no_capability = False
    return st


def _set_times(inode: Inode, changes: Changes) -> None:
    """utimensat(2). What is append-only in upper itself takes the times of now only (setattr_prepare()).

    Where the kernel keeps the times, a `touch` may be of the access time alone, beside any modification time:
    what was asked for is tried first.
    """
    path, at, follow = inode.place()
    atime, mtime = changes.atime_ns, changes.mtime_ns
    if changes.kept or not changes.touch:
        if atime is None or mtime is None:
            now = inode.lstat()
            atime = now.st_atime_ns if atime is None else atime
            mtime = now.st_mtime_ns if mtime is None else mtime
        try:
            os.utime(path, ns=(atime, mtime), dir_fd=at, follow_symlinks=follow)
            return
        except PermissionError as error:
            # The times of writes that the kernel has cached: of appending, where that was allowed.
            if error.errno != errno.EPERM or not (changes.kept and (changes.touch or changes.by_handle)):
                raise
    os.utime(path, dir_fd=at, follow_symlinks=follow)


def _set_nothing(fs: OverlayFs, inode: Inode, caller: Caller, *, writing: bool | None) -> os.stat_result:
    """Before a write, or chown(2) that leaves both ids, which is a change as any other.

    It copies up, sets the ctime, and takes setuid, setgid and a capability away, even where root asks for it
    (chown_common(), ovl_setattr()). Every caller may ask for it, but where a set-id bit goes only the owner.
    fuse.ko says no more of either than that something is to be set. *writing* is that of `Changes`: even with
    True or None it is a chown if the caller has CAP_FSETID, whose write removes at most a capability
    (file_remove_privs(), setattr_should_drop_suidgid()), so there must be one; and with None a process that
    may write could remove them by a write.
    """
    if not stat.S_ISREG(inode.mode):
        writing = False
    st = inode.lstat()
    if not isinstance(inode, File) or not st.st_mode & (stat.S_ISUID | stat.S_ISGID):
        if writing and not inode.on_upper:
            return st  # the write copies up
        ensure_upper(fs, inode, data=False)
        inode.set_owner(*inode.owner_to_store(None, None))
        return inode.lstat()
    keeps_group = caller.has_capability(CAP_FSETID, st)
    if writing is not False and keeps_group:
        # The kernel has asked for it, and removed it by now if there was one.
        writing = not (inode.no_capability or inode.no_xattrs)
    if not writing and without_set_ids(st, caller, keep_group=keeps_group) != st.st_mode:
        allowed = caller.uid == st.st_uid or (writing is None and _may_write(fs, inode, st, caller))
        if not allowed and not caller.has_capability(CAP_FOWNER, st):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        check_changeable(fs, inode)
    ensure_upper(fs, inode, data=False)
    # A capability that goes sends the same request, of root too, whose writes leave set-ids.
    if writing:
        drop_set_ids(inode, caller)
    else:
        drop_set_ids(inode, caller, kill=True, keep_group=keeps_group)
        inode.set_owner(*inode.owner_to_store(None, None))
    return inode.lstat()


def _may_write(fs: OverlayFs, inode: File, st: os.stat_result, caller: Caller) -> bool:
    """Whether *caller*, not the owner, may open a file for writing (generic_permission())."""
    if caller.has_capability(CAP_DAC_OVERRIDE, st):
        return True
    try:
        access = xattr.getxattr(fs, inode, acl.ACCESS.encode())
    except OSError as error:
        if error.errno not in (errno.ENODATA, errno.EOPNOTSUPP):
            raise
        return bool(st.st_mode & (stat.S_IWGRP if caller.in_group(st.st_gid) else stat.S_IWOTH))
    return acl.grants(access, os.W_OK, caller.uid, st.st_uid, caller.in_group, st.st_gid)


def _check(fs: OverlayFs, inode: Inode, changes: Changes, handle: OpenFile | None) -> None:
    """What immutable and append-only forbid (may_setattr(), vfs_truncate(), do_ftruncate())."""
    by_handle = changes.by_handle or handle is not None
    if changes.mode is not None or changes.uid is not None or changes.gid is not None:
        check_changeable(fs, inode)
    elif not by_handle and (changes.atime_ns is not None or changes.mtime_ns is not None):
        # By a handle come only the times that the kernel's own cache of writes has kept.
        (check_writable if changes.touch else check_changeable)(fs, inode)
    if changes.size is not None:
        (check_not_append if by_handle else check_changeable)(fs, inode)


def _truncate(fs: OverlayFs, inode: File, size: int, size_changes: bool, handle: OpenFile | None) -> None:
    if handle is not None and handle.writable and handle.is_current:
        os.ftruncate(handle.fd, size)
    elif size_changes:
        # The copy-up may have cut it already: ftruncate sets the times even then.
        fd = open_for_daemon(fs, inode, os.O_WRONLY)
        try:
            os.ftruncate(fd, size)
        finally:
            os.close(fd)
    else:
        # truncate to the same size leaves the times to the filesystem.
        path, follow = inode.proc_path()
        with OwnerAccess(fs, path, WRITE, follow=follow, ino=inode.ino):
            _truncate_path(path, size, follow=follow)


def _truncate_path(path: bytes, size: int, *, follow: bool) -> None:
    """truncate(2), which would follow a symlink that has taken the file's place."""
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        os.truncate(b"/proc/self/fd/%d" % fd, size)
    finally:
        os.close(fd)


def _put_back_mtime(inode: File, mtime_ns: int) -> None:
    """Let upper have the time that the mount goes on showing."""
    now = inode.lstat()
    if now.st_mtime_ns == mtime_ns:
        return
    path, at, follow = inode.place()
    try:
        os.utime(path, ns=(now.st_atime_ns, mtime_ns), dir_fd=at, follow_symlinks=follow)
    except OSError:
        # The truncation is done, and an ordinary user's daemon may not own the file: the time is new then.
        pass


def readlink(inode: Inode) -> bytes:
    """The target of a symlink."""
    if isinstance(inode, File):
        if inode.fd >= 0:
            return os.readlink(b"", dir_fd=inode.fd)
        directory, name = inode.real()
        return os.readlink(name, dir_fd=directory.open())
    raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))


def statfs(fs: OverlayFs) -> os.statvfs_result:
    """Upper's filesystem; that of the top lower without an upper."""
    return os.fstatvfs(fs.root.top.open())
