"""Open files: read, write, sync. Data goes to and from one real descriptor a handle.

A handle that was opened for reading before its file was copied up changes over to the upper file at its next
read, so that old readers see new data as POSIX has it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import os
import stat
from collections.abc import Callable

from unionfs.overlay.access import lent_for, open_data_for_daemon, open_for_daemon
from unionfs.overlay.copy_up import ensure_upper
from unionfs.overlay.cred import Caller
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import File, Inode
from unionfs.overlay.priv import CAPABILITY, capability_of, drop_set_ids
from unionfs.overlay.protect import check_open

_SET_IDS = stat.S_ISUID | stat.S_ISGID
_RWF_NOWAIT = os.RWF_NOWAIT
BLOCKS = (errno.EAGAIN, errno.EOPNOTSUPP, errno.EINVAL)
"""What a read with RWF_NOWAIT fails with where the disk would have to be waited for."""


class OpenFile:
    """One open of a regular file. `fd` is what reads and writes use now.

    `stays` keeps it at the lower file, come what may: its reader reads past the union.
    """

    __slots__ = (
        "_appends",
        "_fs",
        "_noatime",
        "_retired",
        "_upper",
        "caller",
        "fd",
        "inode",
        "stays",
        "writable",
    )

    def __init__(
        self,
        fs: OverlayFs,
        inode: File,
        fd: int,
        caller: Caller,
        *,
        writable: bool,
        stays: bool = False,
        appends: bool = False,
    ) -> None:
        self._fs = fs
        self.inode = inode
        self.fd = fd
        self.writable = writable
        self.caller = caller
        self.stays = stays
        self._upper = inode.on_upper and not inode.metacopy and not stays
        if self._upper:
            inode.opened(fd)
        self._noatime = False
        self._appends = appends
        # Descriptors that a read in another thread may still be using; closed with the handle.
        self._retired: list[int] = []

    @property
    def is_current(self) -> bool:
        """Whether `fd` is the file that holds the data now."""
        inode = self.inode
        return self._upper or inode.metacopy or not inode.on_upper

    def follow_copy_up(self) -> None:
        """Change over to the upper file when there is one by now."""
        if not self._upper and not self.stays and not self.is_current:
            fd = open_for_daemon(self._fs, self.inode, os.O_RDONLY)
            self._retired.append(self.fd)
            self.fd = fd
            self._upper = True
            if self._noatime:
                self._noatime = False
                self.leave_atime(True)

    def leave_atime(self, noatime: bool, /) -> None:
        """Whether reads from now on are of an open with O_NOATIME.

        Reading a lower file leaves its access time alone anyway. To be called before each read, where several
        share the descriptor.
        """
        if noatime is self._noatime:
            return
        self._noatime = noatime
        if self._upper:
            flags = fcntl.fcntl(self.fd, fcntl.F_GETFL)
            flags = flags | os.O_NOATIME if noatime else flags & ~os.O_NOATIME
            # The kernel has checked that the caller owns the file, which an ordinary user's daemon may not.
            with contextlib.suppress(PermissionError):
                fcntl.fcntl(self.fd, fcntl.F_SETFL, flags)

    def read_now(self, offset: int, size: int) -> bytes | None:
        """Read what is in the page cache; None when the disk would have to be waited for."""
        buffer = bytearray(size)
        count = self.read_into(buffer, offset)
        return None if count is None else bytes(memoryview(buffer)[:count])

    def read_into(self, buffer: bytearray | memoryview, offset: int) -> int | None:
        """As `read_now`, into a buffer of the size to be read; returns how much it was."""
        self.follow_copy_up()
        try:
            count = os.preadv(self.fd, (buffer,), offset, _RWF_NOWAIT)
        except OSError as error:
            if error.errno in BLOCKS:
                return None
            raise
        if count and count < len(buffer) and offset + count < os.fstat(self.fd).st_size:
            return None
        return count

    def read(self, offset: int, size: int) -> bytes:
        """Read, waiting for the disk; any thread."""
        return os.pread(self.fd, size, offset)

    def write(
        self, offset: int, data: bytes | memoryview, kill: bool | None = None, writer: Caller | None = None
    ) -> int:
        """Write at *offset*; without CAP_FSETID that drops setuid and setgid.

        *kill* says whether the writer lacks it; None: whether *writer* does, or else the opener.
        """
        inode = self.inode
        if inode.mode & _SET_IDS:
            with lent_for(self._fs, inode):
                drop_set_ids(inode, writer or self.caller, kill)
        if self._appends:
            return self._append(offset, data)
        return os.pwrite(self.fd, data, offset)

    def write_back(self, offset: int, data: bytes | memoryview) -> int:
        """Write what the kernel's cache has held, all of it: a mapping's, or of a write(2) that is over.

        Whatever that cuts off is gone already; what the file was given since then stays. fuse.ko does not
        look at how much it was: where there is room for a part, that is stored, and the rest fails.
        """
        inode = self.inode
        capability = None if inode.no_capability else capability_of(self.fd)
        if capability is None:
            upper = self._fs.upper
            # Under another name a write leaves it.
            if upper is None or not upper.isolates_security:
                inode.no_capability = True
            return self._write_all(offset, data)
        try:
            return self._write_all(offset, data)
        finally:
            os.setxattr(self.fd, CAPABILITY, capability)

    def _append(self, offset: int, data: bytes | memoryview) -> int:
        """Write to a file that is append-only in upper itself.

        The kernel's cache hands whole pages back, so that what the file holds already may come again. EPERM
        for what changes the file or leaves a hole in it.
        """
        known = os.fstat(self.fd).st_size - offset
        old = data[: max(known, 0)]
        if known < 0 or (old and os.pread(self.fd, len(old), offset) != old):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        rest = data[len(old) :]
        return len(old) + (os.write(self.fd, rest) if rest else 0)

    def _write_all(self, offset: int, data: bytes | memoryview) -> int:
        write = self._append if self._appends else self._pwrite
        size = len(data)
        written = write(offset, data)
        while written < size:
            written += write(offset + written, data[written:])
        return written

    def _pwrite(self, offset: int, data: bytes | memoryview) -> int:
        return os.pwrite(self.fd, data, offset)

    def sync_fd(self) -> int | None:
        """A new descriptor of the upper file, for fsync; None where the file lies in a lower."""
        inode = self.inode
        if not inode.on_upper:
            return None
        if inode.metacopy or self.stays:
            return open_for_daemon(self._fs, inode, os.O_RDONLY)
        self.follow_copy_up()
        return os.dup(self.fd)

    def flush(self) -> None:
        """What closing one of its descriptors does: report a late error of the filesystem; any thread."""
        os.close(os.dup(self.fd))

    def close(self) -> None:
        self.inode.end_of_handle(self.fd)
        for fd in self._retired:
            os.close(fd)
        self._retired = []


def open_file(fs: OverlayFs, inode: Inode, flags: int, caller: Caller, kill: bool | None = None) -> OpenFile:
    """open(2) of a regular file; one that may write copies up first, O_TRUNC without the data.

    The access mode, O_TRUNC, O_APPEND and O_NOATIME matter here; the kernel has taken care of the rest, and
    sends an FSYNC after what is written by O_SYNC or O_DSYNC (generic_write_sync()). *kill* as for
    `drop_set_ids`.
    """
    inode = _regular(inode)
    appends = False
    access = flags & os.O_ACCMODE
    if access == os.O_ACCMODE:
        # Neither reads nor writes (OPEN_FMODE()): for ioctl(2), by a caller with permission for both.
        access = os.O_RDONLY
    truncate = bool(flags & os.O_TRUNC)
    writable = access != os.O_RDONLY
    if writable or truncate:
        fs.writable_work()
        check_open(fs, inode, flags)
        ensure_upper(fs, inode, truncate=truncate)
        if truncate:
            drop_set_ids(inode, caller, kill)
            path, follow = inode.proc_path()
            fs.owner_store.drop_capability(path, follow=follow)
            inode.no_capability = False
        open_real = functools.partial(open_for_daemon, fs, inode)
        wanted = access | flags & os.O_TRUNC
        fd, appends = _open_to_write(open_real, wanted, appends=bool(flags & os.O_APPEND))
    else:
        fd = open_data_for_daemon(fs, inode)
    inode.nopen += 1
    file = OpenFile(fs, inode, fd, caller, writable=writable, appends=appends)
    file.leave_atime(bool(flags & os.O_NOATIME))
    return file


def _open_to_write(open_real: Callable[[int], int], flags: int, *, appends: bool) -> tuple[int, bool]:
    """Open with O_APPEND where upper itself takes nothing else (may_open()) and the caller *appends*.

    Returns the descriptor, and whether it is so.
    """
    try:
        return open_real(flags), False
    except PermissionError as error:
        if error.errno != errno.EPERM or not appends:
            raise
    return open_real(flags | os.O_APPEND), True


def _regular(inode: Inode) -> File:
    """The inode, if its data is ours to open: what a device or a FIFO is, the kernel opens by itself."""
    if not isinstance(inode, File):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(inode.mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return inode


def open_granted(fs: OverlayFs, inode: Inode, caller: Caller, *, writes: bool) -> OpenFile:
    """Open a regular file to read, and to write if *writes*, whatever its mode is by now.

    For transports whose kernel opens files by itself. Copies up to write; may raise `Wait`.
    """
    inode = _regular(inode)
    appends = False
    if writes:
        fs.writable_work()
        check_open(fs, inode, os.O_WRONLY | os.O_APPEND)
        ensure_upper(fs, inode)
        fd, appends = _open_to_write(functools.partial(open_for_daemon, fs, inode), os.O_RDWR, appends=True)
    else:
        fd = open_data_for_daemon(fs, inode)
    inode.nopen += 1
    return OpenFile(fs, inode, fd, caller, writable=writes, appends=appends)


def open_lower(fs: OverlayFs, inode: Inode, caller: Caller) -> OpenFile:
    """Open the lower file that holds the data, or has held it before the copy-up, to read and to stay at."""
    if not isinstance(inode, File):
        raise OSError(errno.EISDIR, os.strerror(errno.EISDIR))
    inode.nopen += 1
    try:
        return OpenFile(fs, inode, inode.open_lower(os.O_RDONLY), caller, writable=False, stays=True)
    except BaseException:
        inode.nopen -= 1
        raise
