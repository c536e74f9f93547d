"""The operations by path, as the system calls that a program would make, and what of their results counts.

They run inside the mount (the worker has changed its root there), as the operation's user, and give
back what a program can see: data or errno. Must never compare, never retry and never look at the time: what
comes back has to be the same on every correct filesystem. Object numbers, device numbers and times that
were not set by an operation are therefore left out here, and looked at by the snapshots where they mean
something.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import mmap
import os
import stat
from collections.abc import Iterator
from typing import Any

Outcome = tuple[str, Any]
"""("ok", what was seen) or ("error", name of the errno)."""

SET_TIMES_END = 1_600_000_000 * 10**9
"""Times that a case sets are before this moment (2020); any later one was made by the machine's clock."""

UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2
AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2
RENAME_WHITEOUT = 4

ALWAYS = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
"""Without O_NONBLOCK an open of a FIFO would wait for ever."""

CHANGES_NOTHING = {
    "read",
    "readlink",
    "getxattr",
    "listxattr",
    "list",
    "stat",
    "access",
    "fread",
    "fstat",
    "fsync",
    "lseek",
    "flock",
    "setlk",
    "getlk",
}

_libc = ctypes.CDLL(None, use_errno=True)


class Slots:
    """The descriptors that operations keep open between them, by slot number."""

    def __init__(self) -> None:
        self.proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY)
        """Of the real root: there is no /proc in the mount."""
        self._fds: dict[int, int] = {}
        self._openers: dict[int, int] = {}
        self.uid = 0
        """The user of the operation at hand."""

    def put(self, slot: int, fd: int) -> None:
        self.close(slot)
        self._fds[slot] = fd
        self._openers[slot] = self.uid

    def opener(self, slot: int) -> int:
        """The user that opened what is in this slot."""
        return self._openers.get(slot, os.getuid())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self._fds.items())

    def __getitem__(self, slot: int) -> int:
        if slot not in self._fds:
            raise OSError(errno.EBADF, "no descriptor in this slot")
        return self._fds[slot]

    def close(self, slot: int) -> None:
        if slot in self._fds:
            os.close(self._fds.pop(slot))

    def close_all(self) -> None:
        for slot in list(self._fds):
            self.close(slot)


class _Timespec(ctypes.Structure):
    _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))


def renameat2(source: bytes, target: bytes, flags: int) -> None:
    if _libc.renameat2(AT_FDCWD, source, AT_FDCWD, target, ctypes.c_uint(flags)) != 0:
        raise OSError(ctypes.get_errno(), "renameat2")


def utimensat(fd: int, path: bytes | None, atime: int, mtime: int, flags: int) -> None:
    """utimensat(2), without a path of the descriptor, with times in ns, or UTIME_NOW or UTIME_OMIT."""

    def spec(value: int) -> _Timespec:
        return _Timespec(0, value) if value in (UTIME_NOW, UTIME_OMIT) else _Timespec(*divmod(value, 10**9))

    times = (_Timespec * 2)(spec(atime), spec(mtime))
    # glibc refuses utimensat() without a path.
    failed = _libc.futimens(fd, times) if path is None else _libc.utimensat(fd, path, times, flags)
    if failed != 0:
        raise OSError(ctypes.get_errno(), "utimensat")


def seen(st: os.stat_result) -> tuple[Any, ...]:
    """What of a stat must be equal on two correct filesystems."""
    kind = stat.S_IFMT(st.st_mode)
    mtime = st.st_mtime_ns if st.st_mtime_ns < SET_TIMES_END else "now"
    size = None if kind == stat.S_IFDIR else st.st_size
    rdev = (os.major(st.st_rdev), os.minor(st.st_rdev))
    return (
        _KINDS[kind],
        f"{stat.S_IMODE(st.st_mode):04o}",
        st.st_uid,
        st.st_gid,
        size,
        st.st_nlink,
        rdev,
        mtime,
    )


SEEN_FIELDS = ("type", "mode", "uid", "gid", "size", "nlink", "rdev", "mtime")

_KINDS = {
    stat.S_IFDIR: "dir",
    stat.S_IFREG: "file",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "sock",
    stat.S_IFCHR: "chr",
    stat.S_IFBLK: "blk",
}


def digest(data: bytes) -> bytes:
    """Data as it is if it is short, else its length and hash."""
    if len(data) <= 64:
        return data
    return b"%d bytes, %s" % (len(data), hashlib.sha256(data).hexdigest()[:16].encode())


# Operations by path ---------------------------------------------------------------------------------------


def op_open(slots: Slots, path: bytes, flags: int, mode: int, slot: int) -> object:
    fd = os.open(path, flags | ALWAYS, mode)
    slots.put(slot, fd)
    return seen(os.fstat(fd))


def op_put(slots: Slots, path: bytes, flags: int, mode: int, offset: int | None, data: bytes) -> object:
    fd = os.open(path, flags | ALWAYS, mode)
    try:
        written = os.write(fd, data) if offset is None else os.pwrite(fd, data, offset)
        return written, seen(os.fstat(fd))
    finally:
        os.close(fd)


def op_read(slots: Slots, path: bytes, offset: int, size: int) -> object:
    fd = os.open(path, os.O_RDONLY | ALWAYS)
    try:
        return digest(os.pread(fd, size, offset))
    finally:
        os.close(fd)


def op_mmap_write(slots: Slots, path: bytes, offset: int, data: bytes) -> object:
    fd = os.open(path, os.O_RDWR | ALWAYS)
    try:
        size = os.fstat(fd).st_size
        if not data or offset + len(data) > size or not stat.S_ISREG(os.fstat(fd).st_mode):
            return "too short"
        # A plain write drops capabilities and setuid, one through a mapping does not: a filesystem in user
        # space that cannot tell a page written back from a write drops them for both. That is safe, so it
        # is not compared.
        os.pwrite(fd, data[:1], offset)
        with mmap.mmap(fd, size) as mapping:
            mapping[offset : offset + len(data)] = data
            mapping.flush()
        return digest(os.pread(fd, len(data) + 10, offset))
    finally:
        os.close(fd)


def op_truncate(slots: Slots, path: bytes, size: int) -> object:
    os.truncate(path, size)
    return seen(os.stat(path))


def op_mkdir(slots: Slots, path: bytes, mode: int) -> object:
    os.mkdir(path, mode)
    return seen(os.lstat(path))


def op_rmdir(slots: Slots, path: bytes) -> None:
    os.rmdir(path)


def op_unlink(slots: Slots, path: bytes) -> None:
    os.unlink(path)


def op_rename(slots: Slots, source: bytes, target: bytes, flags: int) -> object:
    renameat2(source, target, flags)
    return seen(os.lstat(target))


def op_link(slots: Slots, source: bytes, target: bytes) -> object:
    os.link(source, target, follow_symlinks=False)
    return seen(os.lstat(target))


def op_symlink(slots: Slots, target: bytes, path: bytes) -> object:
    os.symlink(target, path)
    return seen(os.lstat(path))


def op_readlink(slots: Slots, path: bytes) -> object:
    return os.readlink(path)


def op_mknod(slots: Slots, path: bytes, mode: int, rdev: tuple[int, int]) -> object:
    os.mknod(path, mode, os.makedev(*rdev))
    return seen(os.lstat(path))


def op_chmod(slots: Slots, path: bytes, mode: int) -> object:
    os.chmod(path, mode)
    return seen(os.stat(path))


def op_chown(slots: Slots, path: bytes, uid: int, gid: int, follow: bool) -> object:
    os.chown(path, uid, gid, follow_symlinks=follow)
    return seen(os.stat(path, follow_symlinks=follow))


def op_utime(slots: Slots, path: bytes, atime: int, mtime: int, follow: bool) -> object:
    utimensat(AT_FDCWD, path, atime, mtime, 0 if follow else AT_SYMLINK_NOFOLLOW)
    return seen(os.stat(path, follow_symlinks=follow))


def op_setxattr(slots: Slots, path: bytes, name: str, value: bytes, flags: int, follow: bool) -> object:
    os.setxattr(path, name, value, flags, follow_symlinks=follow)
    return seen(os.stat(path, follow_symlinks=follow))


def op_getxattr(slots: Slots, path: bytes, name: str, follow: bool) -> object:
    return os.getxattr(path, name, follow_symlinks=follow)


def op_removexattr(slots: Slots, path: bytes, name: str, follow: bool) -> object:
    os.removexattr(path, name, follow_symlinks=follow)
    return seen(os.stat(path, follow_symlinks=follow))


def op_listxattr(slots: Slots, path: bytes, follow: bool) -> object:
    return sorted(os.listxattr(path, follow_symlinks=follow))


def op_list(slots: Slots, path: bytes) -> object:
    with os.scandir(path) as entries:
        found = sorted((entry.name, _entry_kind(entry)) for entry in entries)
    return [(name, kind) for name, kind in found if not_a_ghost(os.path.join(path, name))]


def not_a_ghost(path: bytes | str, dir_fd: int | None = None) -> bool:
    """Whether a listed name can be looked up.

    Kernel overlayfs lists a whiteout that lies in a directory which is merged with nothing (only a layer
    made by hand has such a thing), and then answers ENOENT when one looks. Here a hidden name is not
    listed. So such names are left out of what is compared; if pyunionfs lists one, the snapshot complains.
    """
    try:
        os.stat(path, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return True


def _entry_kind(entry: os.DirEntry[bytes]) -> str:
    if entry.is_symlink():
        return "symlink"
    if entry.is_dir(follow_symlinks=False):
        return "dir"
    return "file" if entry.is_file(follow_symlinks=False) else "special"


def op_stat(slots: Slots, path: bytes, follow: bool) -> object:
    return seen(os.stat(path, follow_symlinks=follow))


def op_access(slots: Slots, path: bytes, mode: int) -> object:
    return os.access(path, mode, effective_ids=True)
