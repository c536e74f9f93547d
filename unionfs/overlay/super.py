"""The union as a whole: the one face that transports call.

To be called by the state thread only, except where a docstring says "any thread". Every operation takes inode
numbers as the kernel knows them, raises OSError with the errno that the caller must see, or `Wait` before
anything has changed (see `wait.py`). An operation that answers with an entry counts one lookup of it.
"""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable, Iterator

from unionfs.linux import syscalls
from unionfs.overlay import allocate, attr, copy_range, create, fileattr, iterate, xattr
from unionfs.overlay import dir as ovl_dir
from unionfs.overlay.access import listing_fd
from unionfs.overlay.attr import Changes, StatX
from unionfs.overlay.config import UnionConfig
from unionfs.overlay.copy_up import ensure_upper
from unionfs.overlay.cred import Caller
from unionfs.overlay.file import OpenFile, open_file, open_granted, open_lower
from unionfs.overlay.fs import OverlayFs
from unionfs.overlay.inode import Directory, File, Inode
from unionfs.overlay.iterate import Entry, Listed, New, Plain
from unionfs.overlay.listing import DirHandle
from unionfs.overlay.namei import lookup
from unionfs.overlay.open_fs import Use, open_fs
from unionfs.overlay.protect import check_writable
from unionfs.overlay.rename import rename
from unionfs.overlay.under_way import Report
from unionfs.overlay.wait import BackgroundJob


class Union:
    """A mounted stack. Made by `Union.open`, ended by `close`."""

    __slots__ = ("_open_files", "fs")

    def __init__(self, fs: OverlayFs) -> None:
        self.fs = fs
        self._open_files = 0

    @classmethod
    def open(cls, config: UnionConfig) -> Union:
        """Open the layers, clear work and mark it as in use; as `open_fs`."""
        return cls(open_fs(config, Use.MOUNT))

    def close(self) -> None:
        """Clear work and let go of the layers. Nothing of the union can be used after it."""
        self.fs.close()

    def syncfs(self) -> None:
        """Write all of upper's filesystem out, unless the mount is volatile. Any thread."""
        fs = self.fs
        if fs.upper is not None and not fs.config.volatile:
            syscalls.syncfs(fs.upper.root_fd)

    def syncfs_for_caller(self) -> None:
        """syncfs(2), which `fsync=0` leaves out, too. Any thread."""
        if self.fs.syncs:
            self.syncfs()

    def stats(self) -> dict[str, int]:
        fs = self.fs
        return {
            "copy_ups": fs.copy_ups,
            "inodes": len(fs.table),
            "open_files": self._open_files,
            "layers": sum(1 for _ in fs.layers()),
            "directory_descriptors": len(fs.dirfds),
        }

    def under_way(self) -> list[Report]:
        """The slow work that workers are at, the longest first. Any thread."""
        return self.fs.under_way.report()

    def space(self) -> dict[str, int] | None:
        """Bytes that upper's filesystem has in all, and that are free for its users. Any thread.

        None without an upper, or where statvfs(2) fails.
        """
        upper = self.fs.upper
        if upper is None:
            return None
        try:
            found = os.fstatvfs(upper.root_fd)
        except OSError:
            return None  # a disk that fails must not hide the rest of the status
        return {"size": found.f_blocks * found.f_frsize, "free": found.f_bavail * found.f_frsize}

    def has_room(self, size: int) -> bool:
        """Whether upper's filesystem would take so many bytes more of this daemon now."""
        return allocate.has_room(self.fs, size)

    # --- inodes ----------------------------------------------------------------------------------

    def inode(self, ino: int) -> Inode:
        """The inode of a number that the kernel holds; ESTALE for one that it should not know.

        Every operation begins here, and has no descriptor of a directory in hand yet.
        """
        self.fs.dirfds.trim()
        inode = self.fs.table.get(ino)
        if inode is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return inode

    def knows(self, ino: int) -> bool:
        """Whether the inode is still in the table; after a `forget`, say."""
        return self.fs.table.get(ino) is not None

    def directory(self, ino: int) -> Directory:
        """The directory of a number; ENOTDIR for another inode, ESTALE as for `inode`."""
        inode = self.inode(ino)
        if not isinstance(inode, Directory):
            raise OSError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        return inode

    def forget(self, ino: int, count: int) -> None:
        """The kernel has dropped *count* lookups; never raises."""
        inode = self.fs.table.get(ino)
        if inode is not None:
            inode.nlookup = max(inode.nlookup - count, 0)
            self.fs.table.drop_if_unused(inode)

    def give_memory_back(self) -> None:
        """To be called after a round of `forget`: return what many forgotten inodes have held."""
        if self.fs.table.shrink():
            gc.collect()
            syscalls.malloc_trim()

    def remember(self, inode: Inode) -> None:
        """Count a lookup of an entry that a listing has handed to the kernel."""
        inode.nlookup += 1

    def unused_number(self) -> int:
        """A number that no inode has or will have."""
        return self.fs.table.numbers.allocate()

    def drop_if_unused(self, inode: Inode) -> None:
        """Let go of an entry of a listing that the kernel did not take."""
        self.fs.table.drop_if_unused(inode)

    def take_attrs_to_invalidate(self) -> list[int]:
        """The inodes whose attributes changed by operations on others, since the last call; each once.

        A transport that caches attributes must invalidate them before it replies.
        """
        fs = self.fs
        stale = fs.attrs_to_invalidate
        if stale:
            fs.attrs_to_invalidate = []
            return list(dict.fromkeys(stale))
        return stale

    def take_background_jobs(self) -> list[BackgroundJob]:
        """What operations have left to be done by workers, since the last call."""
        jobs, self.fs.background_jobs = self.fs.background_jobs, []
        return jobs

    # --- names -----------------------------------------------------------------------------------

    def lookup(self, parent: int, name: bytes) -> Entry | None:
        """The entry of a name; None where there is none."""
        fs = self.fs
        directory = self.directory(parent)
        if name == b"." or name == b"..":
            inode: Inode = directory if name == b"." else directory.parent or directory
            entry: Entry | None = (inode, inode.lstat())
        else:
            entry = lookup(fs, directory, name)
        if entry is not None:
            entry[0].nlookup += 1
        return entry

    def mkdir(self, parent: int, name: bytes, mode: int, caller: Caller) -> Entry:
        return self._made(create.mkdir(self.fs, self.directory(parent), name, mode, caller))

    def mknod(self, parent: int, name: bytes, mode: int, rdev: int, caller: Caller) -> Entry:
        return self._made(create.mknod(self.fs, self.directory(parent), name, mode, rdev, caller))

    def symlink(self, parent: int, name: bytes, target: bytes, caller: Caller) -> Entry:
        return self._made(create.symlink(self.fs, self.directory(parent), name, target, caller))

    def create(
        self, parent: int, name: bytes, mode: int, flags: int, caller: Caller
    ) -> tuple[Inode, os.stat_result, OpenFile]:
        """Make a regular file and open it."""
        access = flags & os.O_ACCMODE
        inode, st, fd = create.create(self.fs, self.directory(parent), name, mode, access, caller)
        assert isinstance(inode, File)
        file = self._made_open(inode, fd, caller, writable=access != os.O_RDONLY)
        file.leave_atime(bool(flags & os.O_NOATIME))
        return inode, st, file

    def tmpfile(
        self, parent: int, mode: int, flags: int, caller: Caller
    ) -> tuple[Inode, os.stat_result, OpenFile]:
        """Make a regular file without a name and open it (O_TMPFILE); `link` may give it a name."""
        inode, st, fd = create.tmpfile(self.fs, self.directory(parent), mode, flags, caller)
        file = self._made_open(inode, fd, caller, writable=True)
        file.leave_atime(bool(flags & os.O_NOATIME))
        return inode, st, file

    def _made_open(self, inode: File, fd: int, caller: Caller, *, writable: bool) -> OpenFile:
        inode.nopen += 1
        inode.nlookup += 1
        self._open_files += 1
        return OpenFile(self.fs, inode, fd, caller, writable=writable)

    @staticmethod
    def _made(entry: Entry) -> Entry:
        entry[0].nlookup += 1
        return entry

    def link(self, ino: int, parent: int, name: bytes) -> Entry:
        inode = self.inode(ino)
        st = ovl_dir.link(self.fs, inode, self.directory(parent), name)
        inode.nlookup += 1
        return inode, st

    def unlink(self, parent: int, name: bytes) -> None:
        ovl_dir.unlink(self.fs, self.directory(parent), name)

    def rmdir(self, parent: int, name: bytes) -> None:
        ovl_dir.rmdir(self.fs, self.directory(parent), name)

    def rename(self, parent: int, name: bytes, newparent: int, newname: bytes, flags: int) -> None:
        rename(self.fs, self.directory(parent), name, self.directory(newparent), newname, flags)

    # --- attributes ------------------------------------------------------------------------------

    def getattr(self, ino: int) -> Entry:
        inode = self.inode(ino)
        return inode, inode.lstat()

    def statx(self, ino: int) -> StatX:
        """The attributes, and what statx(2) says beyond them."""
        return attr.statx(self.fs, self.inode(ino))

    def setattr(self, ino: int, changes: Changes, caller: Caller, handle: OpenFile | None) -> Entry:
        inode = self.inode(ino)
        return inode, attr.change(self.fs, inode, changes, caller, handle)

    def copy_up(self, ino: int) -> None:
        """Have a file in upper, with its data, for an open that may write. May raise `Wait`."""
        inode = self.inode(ino)
        self.fs.writable_work()
        check_writable(self.fs, inode)
        ensure_upper(self.fs, inode)

    def get_flags(self, ino: int) -> int:
        """FS_IOC_GETFLAGS, as lsattr(1) shows them."""
        return fileattr.get_flags(self.fs, self.inode(ino))

    def set_flags(self, ino: int, flags: int, caller: Caller) -> None:
        """FS_IOC_SETFLAGS, as chattr(1) does it."""
        fileattr.set_flags(self.fs, self.inode(ino), flags, caller)

    def get_fsxattr(self, ino: int) -> bytes:
        """FS_IOC_FSGETXATTR: a `struct fsxattr`."""
        return fileattr.get_fsxattr(self.fs, self.inode(ino))

    def set_fsxattr(self, ino: int, value: bytes, caller: Caller) -> None:
        """FS_IOC_FSSETXATTR."""
        fileattr.set_fsxattr(self.fs, self.inode(ino), value, caller)

    def readlink(self, ino: int) -> bytes:
        return attr.readlink(self.inode(ino))

    def statfs(self) -> os.statvfs_result:
        return attr.statfs(self.fs)

    def getxattr(self, ino: int, name: bytes) -> bytes:
        return xattr.getxattr(self.fs, self.inode(ino), name)

    def listxattr(self, ino: int, caller: Caller) -> list[bytes]:
        return xattr.listxattr(self.fs, self.inode(ino), caller)

    def setxattr(self, ino: int, name: bytes, value: bytes, flags: int, caller: Caller) -> None:
        xattr.setxattr(self.fs, self.inode(ino), name, value, flags, caller)

    def removexattr(self, ino: int, name: bytes, caller: Caller) -> None:
        xattr.removexattr(self.fs, self.inode(ino), name, caller)

    # --- files and directories, open -------------------------------------------------------------

    def open_file(self, ino: int, flags: int, caller: Caller, kill: bool | None = None) -> OpenFile:
        """Open a regular file; *kill* says of O_TRUNC whether the caller lacks CAP_FSETID (None: look)."""
        handle = open_file(self.fs, self.inode(ino), flags, caller, kill)
        self._open_files += 1
        return handle

    def open_granted(self, ino: int, caller: Caller, *, writes: bool) -> OpenFile:
        """Open a regular file for data to which the kernel has granted access without a request."""
        handle = open_granted(self.fs, self.inode(ino), caller, writes=writes)
        self._open_files += 1
        return handle

    def allocate(self, handle: OpenFile, mode: int, offset: int, length: int, caller: Caller) -> None:
        """fallocate(2), here and now. See `allocate_job`."""
        self.allocate_job(handle, mode, offset, length, caller)()

    def open_lower(self, ino: int, caller: Caller) -> OpenFile:
        """Open the lower file of a regular file, whether or not it was copied up since, to read only that."""
        handle = open_lower(self.fs, self.inode(ino), caller)
        self._open_files += 1
        return handle

    def allocate_job(
        self, handle: OpenFile, mode: int, offset: int, length: int, caller: Caller
    ) -> Callable[[], None]:
        """fallocate(2) as a job for any thread; hold the handle open."""
        return allocate.prepare(self.fs, handle, mode, offset, length, caller)

    def seek(self, handle: OpenFile, offset: int, whence: int) -> int:
        """lseek(2) by SEEK_DATA or SEEK_HOLE."""
        return allocate.seek(handle, offset, whence)

    def copy_range_job(
        self,
        source: OpenFile,
        in_offset: int,
        target: OpenFile,
        out_offset: int,
        length: int,
        caller: Caller | None = None,
    ) -> Callable[[], int]:
        """copy_file_range(2) as a job for any thread, which returns the bytes copied; hold both handles open.

        Without a *caller* it is on behalf of the process that opened the target.
        """
        return copy_range.prepare(self.fs, source, in_offset, target, out_offset, length, caller)

    def release(self, handle: OpenFile) -> None:
        """The last descriptor of an open is gone."""
        self._open_files -= 1
        inode = handle.inode
        inode.nopen -= 1
        handle.close()
        self.fs.table.drop_if_unused(inode)

    def sync_file(self, handle: OpenFile) -> int | None:
        """A descriptor of the upper file to fsync and close, in any thread; None: nothing to sync."""
        return handle.sync_fd() if self.fs.syncs else None

    def open_dir(self, ino: int) -> DirHandle:
        directory = self.directory(ino)
        directory.nopen += 1
        return DirHandle(directory)

    def release_dir(self, handle: DirHandle) -> None:
        directory = handle.directory
        directory.nopen -= 1
        handle.close()
        self.fs.table.drop_if_unused(directory)

    def list_dir(self, handle: DirHandle, offset: int) -> int:
        """How many names there are to be read, of which a reader at this cookie is to see the rest.

        To be followed by one of the three below, which may raise `Wait` as this may, here and not later.
        """
        count = iterate.prepare(self.fs, handle, offset)
        handle.fresh = True
        return count

    def read_dir(self, handle: DirHandle, offset: int) -> Iterator[Listed]:
        """The entries from a cookie on, looked up; the entry is None where that fails.

        The kernel counts a lookup of each entry that it takes (`remember`), except "." and ".."; give the
        others to `drop_if_unused`.
        """
        iterate.prepare(self.fs, handle, offset)
        return iterate.entries(self.fs, handle, offset)

    def read_dir_new(self, handle: DirHandle, offset: int) -> Iterator[New]:
        """The names from a cookie on, each with its inode where the kernel holds that.

        Give the others to `list_entry`, if there is room for them.
        """
        iterate.prepare(self.fs, handle, offset)
        return iterate.new(self.fs, handle, offset)

    def list_entry(self, handle: DirHandle, name: bytes) -> Entry | None:
        """The entry of a listed name, which counts as a lookup; None where it is gone. Never waits."""
        entry = lookup(self.fs, handle.directory, name)
        if entry is not None:
            entry[0].nlookup += 1
        return entry

    def read_dir_plain(self, handle: DirHandle, offset: int) -> Iterator[Plain]:
        """The entries from a cookie on, with no more than number and type.

        The number is the one that stat(2) will give, and nothing is left in the inode table. The type is
        DT_UNKNOWN, and the number of no inode, for a name whose lookup fails.
        """
        iterate.prepare(self.fs, handle, offset, numbers=True)
        return iterate.plain(self.fs, handle, offset)

    def sync_dir(self, ino: int) -> int | None:
        """A descriptor of the upper directory to fsync and close, in any thread; None: nothing to sync."""
        upper = self.directory(ino).upper
        return None if upper is None or not self.fs.syncs else listing_fd(self.fs, upper)
