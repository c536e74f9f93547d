"""The handlers that pyfuse3 calls: a thin translation between its requests and `Union`.

Facts about pyfuse3 that shape this file: listings are always readdirplus, and each entry that `readdir_reply`
takes counts as one lookup; `st_ino` is the node id too; `open` and `opendir` must never raise ENOSYS.

Handlers run on the state thread and do not wait, except where the union needs slow work (`Wait`), reads from
the disk or syncs: then a worker thread does it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os

import pyfuse3
import trio

from unionfs.linux.syscalls import needs_flush
from unionfs.overlay.attr import Changes, blocks, link_counter
from unionfs.overlay.cred import Caller
from unionfs.overlay.file import OpenFile
from unionfs.overlay.inode import Inode
from unionfs.overlay.listing import DirHandle
from unionfs.overlay.super import Union
from unionfs.overlay.wait import Owner, Task
from unionfs.transport.pyfuse3.handlers import op, slow_op, to_fuse_error

log = logging.getLogger(__name__)

_FOREVER = 1e9
"""Seconds for which the kernel may cache where every change comes through the mount."""

_COPY_THREADS = 4
_SYNC_THREADS = 8


def _caller(ctx: pyfuse3.RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.pid, ctx.umask)


class _InvalidatePages:
    """Has the kernel drop a file's pages. In the background: it waits for the replies to their requests."""

    __slots__ = ("_ino",)

    def __init__(self, ino: int) -> None:
        self._ino = ino

    def run(self) -> None:
        # ENOENT: the kernel has forgotten the inode already.
        with contextlib.suppress(FileNotFoundError):
            pyfuse3.invalidate_inode(self._ino)


class Operations(pyfuse3.Operations):
    """The handlers. `counts` has the number of requests of each opcode."""

    enable_acl = True
    enable_writeback_cache = False
    supports_dot_lookup = True

    def __init__(self, union: Union) -> None:
        super().__init__()
        self.enable_acl = union.fs.config.acl
        self.union = union
        self.debug = log.isEnabledFor(logging.DEBUG)
        self.fs = union.fs
        self.counts: dict[str, int] = {}
        self.files: dict[int, OpenFile] = {}
        self.dirs: dict[int, DirHandle] = {}
        self._next_handle = 0
        self.pending_tasks: dict[Task, trio.Event] = {}
        self.background_event = trio.Event()
        # Apart from each other and from reads of the disk: long copies must not keep those waiting.
        self._copiers = trio.CapacityLimiter(_COPY_THREADS)
        self._syncers = trio.CapacityLimiter(_SYNC_THREADS)
        timeout = union.fs.config.timeout
        self._links = link_counter(union.fs)
        self._timeout = _FOREVER if timeout is None else timeout
        self._keep_cache = timeout is None
        self._needs_flush = needs_flush(union.fs.root.top.open())

    # --- helpers ---------------------------------------------------------------------------------

    @staticmethod
    def _require(available: bool) -> None:
        """ENOSYS for what the mount's options disable.

        The kernel sends no more of these: it answers EOPNOTSUPP for xattrs, and success for a sync.
        """
        if not available:
            raise pyfuse3.FUSEError(errno.ENOSYS)

    async def run_task(self, task: Task, opcode: str) -> None:
        """Run slow work once for all requests that need it; the first of them gets its failure."""
        done = self.pending_tasks.get(task)
        if done is not None:
            await done.wait()
            return
        done = self.pending_tasks[task] = trio.Event()
        failure: BaseException | None = None
        try:
            with trio.CancelScope(shield=True):
                try:
                    await trio.to_thread.run_sync(task.run, limiter=self._copiers)
                except BaseException as error:
                    failure = error
                try:
                    task.finish(failure)
                except BaseException as error:
                    failure = failure or error
        finally:
            del self.pending_tasks[task]
            done.set()
        if failure is not None:
            raise to_fuse_error(failure, opcode) from None

    async def give_up(self, owner: Owner, task: Task) -> None:
        """Undo in slices, between which other requests are handled."""
        with trio.CancelScope(shield=True):
            following = owner.given_up(task)
            while following is not None:
                await trio.lowlevel.checkpoint()
                following = owner.given_up(following)
        self.after_operation()

    def after_operation(self) -> None:
        """Invalidate attributes that an operation has changed, and start its background jobs."""
        fs = self.fs
        if fs.attrs_to_invalidate:
            for ino in self.union.take_attrs_to_invalidate():
                # Unlike an invalidation of data, this takes no lock and cannot deadlock.
                with contextlib.suppress(FileNotFoundError):  # the kernel has forgotten the inode already
                    pyfuse3.invalidate_inode(ino, attr_only=True)
        if fs.background_jobs:
            self.background_event.set()

    def _attributes(self, inode: Inode, st: os.stat_result) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode.ino
        entry.entry_timeout = entry.attr_timeout = self._timeout
        entry.st_mode = st.st_mode
        entry.st_nlink = self._links(inode, st)
        entry.st_uid = st.st_uid
        entry.st_gid = st.st_gid
        entry.st_rdev = st.st_rdev
        entry.st_size = st.st_size
        entry.st_blksize = st.st_blksize
        entry.st_blocks = blocks(inode, st)
        entry.st_atime_ns = st.st_atime_ns
        entry.st_mtime_ns = st.st_mtime_ns
        entry.st_ctime_ns = st.st_ctime_ns
        return entry

    def _placeholder(self) -> pyfuse3.EntryAttributes:
        """The entry of a name whose lookup fails: of no type, so that the kernel asks anew."""
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = self.union.unused_number()
        entry.st_mode = 0
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    def _handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    def _file_info(self, file: OpenFile) -> pyfuse3.FileInfo:
        fh = self._handle()
        self.files[fh] = file
        return pyfuse3.FileInfo(fh=fh, keep_cache=self._keep_cache)

    # --- names -----------------------------------------------------------------------------------

    @op("LOOKUP")
    def lookup(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        entry = self.union.lookup(parent, name)
        if entry is None:
            # Node 0 has the kernel cache that there is no such name.
            miss = pyfuse3.EntryAttributes()
            miss.st_ino = 0
            miss.entry_timeout = self._timeout
            return miss
        return self._attributes(*entry)

    async def forget(self, inode_list: list[tuple[int, int]]) -> None:  # type: ignore[override]
        self.counts["FORGET"] = self.counts.get("FORGET", 0) + len(inode_list)
        for ino, count in inode_list:
            try:
                self.union.forget(ino, count)
            except Exception:
                log.exception("FORGET of inode %d: unhandled exception", ino)
        self.union.give_memory_back()

    @op("MKDIR")
    def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._attributes(*self.union.mkdir(parent, name, mode & 0o7777, _caller(ctx)))

    @op("MKNOD")
    def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._attributes(*self.union.mknod(parent, name, mode, rdev, _caller(ctx)))

    @op("SYMLINK")
    def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._attributes(*self.union.symlink(parent, name, target, _caller(ctx)))

    @op("LINK")
    def link(
        self, inode: int, parent: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        return self._attributes(*self.union.link(inode, parent, name))

    @op("UNLINK")
    def unlink(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self.union.unlink(parent, name)

    @op("RMDIR")
    def rmdir(self, parent: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self.union.rmdir(parent, name)

    @op("RENAME")
    def rename(
        self,
        parent: int,
        name: bytes,
        newparent: int,
        newname: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        self.union.rename(parent, name, newparent, newname, flags)

    @op("CREATE")
    def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        inode, st, file = self.union.create(parent, name, mode & 0o7777, flags, _caller(ctx))
        return self._file_info(file), self._attributes(inode, st)

    # --- attributes ------------------------------------------------------------------------------

    @op("GETATTR")
    def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self._attributes(*self.union.getattr(inode))

    @op("SETATTR")
    def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        # No system call changes the mode together with size or owner: such a mode is fuse.ko's own idea of
        # which set-id bits to clear, and the union's rule is exact (setgid without group execute).
        killpriv_mode = fields.update_size or fields.update_uid or fields.update_gid
        changes = Changes(
            mode=attr.st_mode if fields.update_mode and not killpriv_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            size=attr.st_size if fields.update_size else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        if changes.is_empty:
            # What remains of file_remove_privs() before a write, or of a chown(2) to the same owner.
            changes.writing = any(file.writable and file.inode.ino == inode for file in self.files.values())
        handle = self.files.get(fh) if fh is not None else None
        return self._attributes(*self.union.setattr(inode, changes, _caller(ctx), handle))

    @op("READLINK")
    def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        return self.union.readlink(inode)

    @op("STATFS")
    def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        st = self.union.statfs()
        data = pyfuse3.StatvfsData()
        data.f_bsize = st.f_bsize
        data.f_frsize = st.f_frsize
        data.f_blocks = st.f_blocks
        data.f_bfree = st.f_bfree
        data.f_bavail = st.f_bavail
        data.f_files = st.f_files
        data.f_ffree = st.f_ffree
        data.f_favail = st.f_favail
        data.f_namemax = st.f_namemax
        return data

    @op("GETXATTR")
    def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        self._require(self.fs.config.xattrs)
        return self.union.getxattr(inode, name)

    @op("LISTXATTR")
    def listxattr(self, inode: int, ctx: pyfuse3.RequestContext) -> list[bytes]:
        self._require(self.fs.config.xattrs)
        return self.union.listxattr(inode, _caller(ctx))

    @op("SETXATTR")
    def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._require(self.fs.config.xattrs)
        # pyfuse3 has checked XATTR_CREATE and XATTR_REPLACE by a getxattr; the kernel holds the inode's
        # lock all the while, so nothing comes in between.
        self.union.setxattr(inode, name, value, 0, _caller(ctx))

    @op("REMOVEXATTR")
    def removexattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        self._require(self.fs.config.xattrs)
        self.union.removexattr(inode, name, _caller(ctx))

    # --- open files ------------------------------------------------------------------------------

    @op("OPEN")
    def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        return self._file_info(self.union.open_file(inode, flags, _caller(ctx)))

    @slow_op("READ")
    async def read(self, fh: int, off: int, size: int) -> bytes:
        file = self.files[fh]
        data = file.read_now(off, size)
        if data is None:
            return await trio.to_thread.run_sync(file.read, off, size)
        return data

    @op("WRITE")
    def write(self, fh: int, off: int, buf: bytes) -> int:
        file = self.files[fh]
        written = -1
        try:
            written = file.write(off, buf)
        finally:
            if written != len(buf):
                # It may come from a mapping, whose pages fuse.ko would keep.
                self.fs.background_jobs.append(_InvalidatePages(file.inode.ino))
                self.background_event.set()
        return written

    @slow_op("FLUSH")
    async def flush(self, fh: int) -> None:
        if not self._needs_flush:
            # The kernel sends no FLUSH after this.
            raise pyfuse3.FUSEError(errno.ENOSYS)
        await trio.to_thread.run_sync(self.files[fh].flush)

    @op("RELEASE")
    def release(self, fh: int) -> None:
        self.union.release(self.files.pop(fh))

    @slow_op("FSYNC")
    async def fsync(self, fh: int, datasync: bool) -> None:
        if not self.fs.config.fsync:
            # The kernel sends the next FSYNC too, as it must: else data stored through a mapping would be
            # reported as safe after the daemon was killed.
            return
        await self._sync(self.union.sync_file(self.files[fh]), datasync)

    # --- open directories ------------------------------------------------------------------------

    @op("OPENDIR")
    def opendir(self, inode: int, ctx: pyfuse3.RequestContext) -> int:
        fh = self._handle()
        self.dirs[fh] = self.union.open_dir(inode)
        return fh

    @op("READDIRPLUS")
    def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        union = self.union
        for name, entry, cookie in union.read_dir(self.dirs[fh], start_id):
            if entry is None:
                if not pyfuse3.readdir_reply(token, name, self._placeholder(), cookie):
                    return
                continue
            inode, st = entry
            if not pyfuse3.readdir_reply(token, name, self._attributes(inode, st), cookie):
                union.drop_if_unused(inode)
                return
            if cookie > 2:
                union.remember(inode)

    @op("RELEASEDIR")
    def releasedir(self, fh: int) -> None:
        self.union.release_dir(self.dirs.pop(fh))

    @slow_op("FSYNCDIR")
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        self._require(self.fs.config.fsync)
        await self._sync(self.union.sync_dir(self.dirs[fh].directory.ino), datasync)

    async def _sync(self, fd: int | None, data_only: bool) -> None:
        """fsync or fdatasync in a worker, and close."""
        if fd is not None:
            try:
                how = os.fdatasync if data_only else os.fsync
                await trio.to_thread.run_sync(how, fd, limiter=self._syncers)
            finally:
                os.close(fd)

    async def run_background_jobs(self) -> None:
        """Run the jobs that operations have left for the background."""
        while True:
            await self.background_event.wait()
            self.background_event = trio.Event()
            for job in self.union.take_background_jobs():
                try:
                    await trio.to_thread.run_sync(job.run, limiter=self._copiers)
                except OSError as error:
                    log.warning("%s", error.strerror)
