"""Requests about open files: OPEN, CREATE, READ, WRITE, RELEASE, and those that pyfuse3 does not support.

Most data is never read here: it goes by passthrough, or is in the kernel's cache.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable

from unionfs.linux.syscalls import needs_flush
from unionfs.overlay.cred import Caller
from unionfs.overlay.file import OpenFile
from unionfs.overlay.inode import Inode
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.buffer import Buffer, new_buffer
from unionfs.transport.direct.negotiate import MAX_WRITE
from unionfs.transport.direct.no_open import NoOpenFiles
from unionfs.transport.direct.nodes import NodeMap
from unionfs.transport.direct.passthrough import Handle, Passthrough
from unionfs.transport.direct.protocol import BODY, IN_HEADER, Opcode
from unionfs.transport.direct.replies import ReplyPacker
from unionfs.transport.direct.requests import caller, creator, malformed, name_at, string_at
from unionfs.transport.direct.server import Handler, Reply, Server
from unionfs.transport.direct.writeback_errors import WritebackErrors

_CHUNK = 64 << 20
"""Bytes that copy_file_range copies in one request at most, after which a killed caller can end."""

FS_IOC_GETFLAGS = 0x80086601
FS_IOC_SETFLAGS = 0x40086602
FS_IOC32_GETFLAGS = 0x80046601
FS_IOC32_SETFLAGS = 0x40046602
FS_IOC_FSGETXATTR = 0x801C581F
FS_IOC_FSSETXATTR = 0x401C5820
_FSXATTR_SIZE = 28
_SET_IDS = stat.S_ISUID | stat.S_ISGID


class FileOps:
    """The handlers of requests about open files. `nodes` says which node is open how."""

    def __init__(
        self,
        server: Server,
        replies: ReplyPacker,
        nodes: NodeMap,
        passthrough: Passthrough | None,
        *,
        no_open_files: NoOpenFiles | None,
        writeback_errors: WritebackErrors,
        writeback: bool,
        killpriv: bool,
    ) -> None:
        self._server = server
        self._union = server.union
        self._replies = replies
        self.nodes = nodes
        self.passthrough = passthrough
        self._no_open_files = no_open_files
        self.writeback_errors = writeback_errors
        server.on_write_error = writeback_errors.write_failed
        self._writeback = writeback
        self._killpriv = killpriv
        self._handles: dict[int, Handle] = {}
        self._next = 0
        self._read_buffer = memoryview(new_buffer(MAX_WRITE))
        union = server.union
        # With timeouts the layers may change underneath: each open drops what was cached.
        self._open_flags = p.FOPEN_KEEP_CACHE if union.fs.layers_static else 0
        self._needs_flush = needs_flush(union.fs.root.top.open())
        if not self._needs_flush:
            self._open_flags |= p.FOPEN_NOFLUSH
        # Passthrough excludes the flags of the kernel's cache (FOPEN_PASSTHROUGH_MASK).
        self._passthrough_flags = self._open_flags & p.FOPEN_NOFLUSH | p.FOPEN_PASSTHROUGH
        self._own = Caller(os.geteuid(), os.getegid(), os.getpid(), 0)

    def handlers(self) -> dict[Opcode, Handler]:
        return {
            Opcode.OPEN: self.open,
            Opcode.CREATE: self.create,
            Opcode.TMPFILE: self.tmpfile,
            Opcode.READ: self.read,
            Opcode.WRITE: self.write,
            Opcode.FLUSH: self.flush,
            Opcode.RELEASE: self.release,
            Opcode.FSYNC: self.fsync,
            Opcode.FALLOCATE: self.fallocate,
            Opcode.LSEEK: self.lseek,
            Opcode.COPY_FILE_RANGE: self.copy_file_range,
            Opcode.COPY_FILE_RANGE_64: self.copy_file_range,
            Opcode.SYNCFS: self.syncfs,
            Opcode.IOCTL: self.ioctl,
        }

    @property
    def no_open(self) -> bool:
        """Whether the kernel opens files without a request."""
        return self._no_open_files is not None

    def open_handles(self) -> int:
        return len(self._handles)

    def close(self) -> None:
        """Close every open file."""
        for handle in self._handles.values():
            if handle.file is not None:
                self._union.release(handle.file)
        self._handles.clear()
        if self._no_open_files is not None:
            self._no_open_files.close()

    def _handle(self, fh: int) -> Handle:
        handle = self._handles.get(fh)
        if handle is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return handle

    def file(self, fh: int, ino: int, *, writes: bool = False) -> OpenFile:
        """The file of a handle, or of a node that was opened without a request (its handle is 0).

        EBADF for a handle that no reply has had, or that is another file's.
        """
        if not fh and self._no_open_files is not None:
            return self._no_open_files.get(ino, writes=writes)
        handle = self._handle(fh)
        if self._server.extra_nodes.get(handle.node, handle.node) != ino:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        if handle.file is None:
            if handle.backing is not None and not handle.backing.is_upper:
                handle.file = self._union.open_lower(ino, self._own)
            else:
                handle.file = self._union.open_granted(ino, self._own, writes=False)
        return handle.file

    def forget(self, node: int, ino: int) -> None:
        """The kernel has dropped lookups of a node."""
        self.writeback_errors.forget(ino)
        if self._no_open_files is not None:
            self._no_open_files.forget(ino)
        if self.passthrough is not None:
            self.passthrough.forget(node)

    def may_be_before_write(self, ino: int, *, with_ctime: bool) -> bool | None:
        """Whether a SETATTR of nothing may be what comes before a write to this file; None: not known.

        Where the kernel keeps the times, CTIME comes with a chown(2) to the same owner, and with that only.
        """
        if self._writeback:
            return not with_ctime
        if self.no_open:
            return None
        return any(
            handle.file is not None and handle.file.writable and handle.file.inode.ino == ino
            for handle in self._handles.values()
        )

    def before_change(self, node: int, ino: int) -> None:
        """Called before the data of a file that is not open is changed; may raise ESTALE or `Wait`."""
        if self.passthrough is not None:
            self.passthrough.before_open(node, ino, writes=True)

    # --- opening ---------------------------------------------------------------------------------

    def _access(self, flags: int) -> int:
        # With a writeback cache the kernel fills pages by reading from handles that can only write; and the
        # file of an inode without OPEN is shared by all callers.
        if (self._writeback or self._no_open_files is not None) and flags & os.O_ACCMODE == os.O_WRONLY:
            return flags & ~os.O_ACCMODE | os.O_RDWR
        return flags

    def _open_reply(self, file: OpenFile, node: int, ino: int, access: int) -> bytes:
        handle = Handle(file, node)
        flags, backing = self._open_flags, 0
        if self.passthrough is not None:
            try:
                backing = self.passthrough.bind(handle, file, ino)
            except BaseException:
                self._union.release(file)
                raise
            if backing:
                flags = self._passthrough_flags
                if access & os.O_ACCMODE == os.O_RDWR:
                    self.nodes.maybe_mmapped.add(ino)
        return p.OPEN_OUT.pack(self._add(handle), flags, backing)

    def _add(self, handle: Handle) -> int:
        self._next = fh = self._next + 1
        self._handles[fh] = handle
        return fh

    def open(self, buffer: Buffer, end: int, ino: int) -> object:
        if self._no_open_files is not None:
            # The kernel sends no OPEN after this.
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        flags, open_flags = p.OPEN_IN.unpack_from(buffer, BODY)
        _, _, _, node, _, _, thread, _, _ = IN_HEADER.unpack_from(buffer)
        passthrough = self.passthrough
        if passthrough is not None:
            writes = flags & os.O_ACCMODE in (os.O_WRONLY, os.O_RDWR) or bool(flags & os.O_TRUNC)
            handle = None if writes else passthrough.reopen(node, ino, thread)
            if handle is not None:
                return self._reopen_reply(handle)
            passthrough.before_open(node, ino, thread, writes=writes)
            lower = None if writes else passthrough.lower_reads.undecided(node, ino)
            if lower is not None:
                task = passthrough.lower_reads.decide(node, lower)
                if task is not None:
                    return self._server.defer(task, self._server.readers, buffer, end)
                handle = passthrough.reopen(node, ino, thread)
                if handle is not None:
                    return self._reopen_reply(handle)
        kill = bool(open_flags & p.OPEN_KILL_SUIDGID) if self._killpriv else None
        access = self._access(flags)
        try:
            file = self._union.open_file(ino, access, caller(buffer), kill)
        except PermissionError:
            if access == flags:
                raise
            file = self._union.open_file(ino, flags, caller(buffer), kill)
        mapped = self.nodes.maybe_mmapped
        before = len(mapped)
        reply = self._open_reply(file, node, ino, flags)
        if len(mapped) > before:
            # The kernel may have cached attributes before.
            self._server.invalidate_attrs(node)
        return reply

    def _reopen_reply(self, handle: Handle) -> bytes:
        """The reply to an open for which no file need be opened here yet."""
        if handle.backing is None:
            return p.OPEN_OUT.pack(self._add(handle), self._open_flags, 0)
        return p.OPEN_OUT.pack(self._add(handle), self._passthrough_flags, handle.backing.id)

    def create(self, buffer: Buffer, end: int, ino: int) -> Reply:
        flags, mode, umask, _ = p.CREATE_IN.unpack_from(buffer, BODY)
        start = BODY + p.CREATE_IN.size
        creds, stop = creator(buffer, start, end, umask)
        name = name_at(buffer, start, stop)
        return self._create_reply(
            *self._union.create(ino, name, mode & 0o7777, self._access(flags), creds), flags
        )

    def tmpfile(self, buffer: Buffer, end: int, ino: int) -> Reply:
        flags, mode, umask, _ = p.CREATE_IN.unpack_from(buffer, BODY)
        start = BODY + p.CREATE_IN.size
        creds, stop = creator(buffer, start, end, umask)
        string_at(buffer, start, stop)  # "/", which has no meaning
        return self._create_reply(*self._union.tmpfile(ino, mode & 0o7777, self._access(flags), creds), flags)

    def _create_reply(self, inode: Inode, st: os.stat_result, file: OpenFile, access: int) -> bytes:
        entry = self._replies.entry(inode, st)
        if self._no_open_files is not None:
            # Once an OPEN was answered ENOSYS, the kernel sends no RELEASE, not even for what CREATE opened.
            self._no_open_files.add(file)
            return entry + p.OPEN_OUT.pack(0, self._open_flags, 0)
        node = self.nodes.current.get(inode.ino, inode.ino)
        return entry + self._open_reply(file, node, inode.ino, access)

    def release(self, buffer: Buffer, end: int, ino: int) -> Reply:
        fh = p.RELEASE_IN.unpack_from(buffer, BODY)[0]
        if not fh and self._no_open_files is not None:
            return None
        handle = self._handle(fh)
        del self._handles[fh]
        try:
            if self.passthrough is not None:
                self.passthrough.release(handle)
        finally:
            if handle.file is not None:
                self._union.release(handle.file)
        if self.passthrough is not None and not self._union.knows(ino):
            # The last FORGET came before this request: fuse.ko queues them separately.
            self.nodes.drop(ino)
            self.passthrough.forget(handle.node)
        return None

    # --- data ------------------------------------------------------------------------------------

    def read(self, buffer: Buffer, end: int, ino: int) -> object:
        fh, offset, size, _, _, flags, _ = p.READ_IN.unpack_from(buffer, BODY)
        if size > MAX_WRITE or offset < 0:
            raise malformed("read size over the limit, or negative offset")
        file = self.file(fh, ino)
        file.leave_atime(flags & os.O_NOATIME != 0)
        # One buffer for all replies: it is sent before the next request is read.
        room = self._read_buffer[:size]
        count = file.read_into(room, offset)
        if count is not None:
            return (room[:count],)
        server = self._server
        work = self._pinned(lambda: file.read(offset, size), (fh, file))
        return server.reply_later(server.readers, Opcode.READ, IN_HEADER.unpack_from(buffer)[2], work)

    def _pinned(self, job: Callable[[], Reply], *opened: tuple[int, OpenFile]) -> Callable[[], Reply]:
        """*job* for a worker, with the files that it uses (and their handles) pinned until it is done.

        The kernel releases no handle that is in use, but a file without OPEN may be closed at any time.
        """
        no_open_files = self._no_open_files
        files = [file for fh, file in opened if not fh]
        if no_open_files is None or not files:
            return job
        for file in files:
            no_open_files.pin(file)

        def work() -> Reply:
            try:
                return job()
            finally:
                with self._server.lock:
                    for file in files:
                        no_open_files.unpin(file)

        return work

    def write(self, buffer: Buffer, end: int, ino: int) -> Reply:
        fh, offset, size, flags, *_ = p.WRITE_IN.unpack_from(buffer, BODY)
        start = BODY + p.WRITE_IN.size
        if start + size != end or offset < 0:
            raise malformed("data is not as long as its size, or negative offset")
        file = self.file(fh, ino, writes=True)
        data = memoryview(buffer)[start:end]
        if flags & p.WRITE_CACHE:
            written = file.write_back(offset, data)
        else:
            kill = bool(flags & p.WRITE_KILL_SUIDGID) if self._killpriv else None
            # The process that writes may not be the one that opened the file.
            writer = caller(buffer) if file.inode.mode & _SET_IDS else None
            written = file.write(offset, data, kill, writer)
        return p.WRITE_OUT.pack(written, 0)

    def flush(self, buffer: Buffer, end: int, ino: int) -> object:
        if not self._needs_flush:
            if self._writeback and self._union.fs.upper is not None:
                # Only a FLUSH that fails has close(2) fail when the daemon was killed: data that can be sent
                # to no daemon fuse.ko drops without an error (fuse_send_writepage()). And before Linux 5.8
                # close(2) does not even write back where it sends no FLUSH.
                return None
            # The kernel sends no FLUSH after this.
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fh = p.FLUSH_IN.unpack_from(buffer, BODY)[0]
        file = self.file(fh, ino)
        server, work = self._server, self._pinned(file.flush, (fh, file))
        return server.reply_later(server.syncers, Opcode.FLUSH, IN_HEADER.unpack_from(buffer)[2], work)

    def fsync(self, buffer: Buffer, end: int, ino: int) -> object:
        fh, flags, _ = p.FSYNC_IN.unpack_from(buffer, BODY)
        fd = self._union.sync_file(self.file(fh, ino))
        return self.sync(fd, bool(flags & p.FSYNC_FDATASYNC), Opcode.FSYNC, IN_HEADER.unpack_from(buffer)[2])

    def sync(self, fd: int | None, data_only: bool, opcode: Opcode, unique: int) -> object:
        """fsync or fdatasync by a worker, and close."""
        if fd is None:
            return None

        def work() -> None:
            try:
                os.fdatasync(fd) if data_only else os.fsync(fd)
            finally:
                os.close(fd)

        return self._server.reply_later(self._server.syncers, opcode, unique, work)

    def syncfs(self, buffer: Buffer, end: int, ino: int) -> object:
        server = self._server
        return server.reply_later(
            server.syncers, Opcode.SYNCFS, IN_HEADER.unpack_from(buffer)[2], self._union.syncfs_for_caller
        )

    def fallocate(self, buffer: Buffer, end: int, ino: int) -> object:
        fh, offset, length, mode, _ = p.FALLOCATE_IN.unpack_from(buffer, BODY)
        if offset < 0 or length <= 0:
            raise malformed("negative offset, or length that is not positive")
        file = self.file(fh, ino, writes=True)
        job = self._union.allocate_job(file, mode, offset, length, caller(buffer))
        server, work = self._server, self._pinned(job, (fh, file))
        return server.reply_later(server.syncers, Opcode.FALLOCATE, IN_HEADER.unpack_from(buffer)[2], work)

    def lseek(self, buffer: Buffer, end: int, ino: int) -> Reply:
        if self._writeback:
            # Data that the kernel has not written back would be a hole. It sends no LSEEK after this, and
            # reports no holes.
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        fh, offset, whence, _ = p.LSEEK_IN.unpack_from(buffer, BODY)
        return p.LSEEK_OUT.pack(self._union.seek(self.file(fh, ino), offset, whence))

    def copy_file_range(self, buffer: Buffer, end: int, ino: int) -> object:
        (fh_in, off_in, node_out, fh_out, off_out, length, flags) = p.COPY_FILE_RANGE_IN.unpack_from(
            buffer, BODY
        )
        if flags or off_in < 0 or off_out < 0:
            raise malformed("unknown flags, or negative offset")
        _, opcode, unique, *_ = IN_HEADER.unpack_from(buffer)
        # The target first: opening it to write may replace what the same file was read by.
        target = self.file(fh_out, self._server.extra_nodes.get(node_out, node_out), writes=True)
        source = self.file(fh_in, ino)
        job = self._union.copy_range_job(source, off_in, target, off_out, min(length, _CHUNK), caller(buffer))
        # The reply to COPY_FILE_RANGE has 32 bits for the count; a chunk fits either.
        wide = opcode == Opcode.COPY_FILE_RANGE_64

        def copy() -> bytes:
            copied = job()
            return p.LSEEK_OUT.pack(copied) if wide else p.WRITE_OUT.pack(copied, 0)

        work = self._pinned(copy, (fh_in, source), (fh_out, target))
        return self._server.reply_later(self._server.copiers, opcode, unique, work)

    # --- inode flags -----------------------------------------------------------------------------

    def ioctl(self, buffer: Buffer, end: int, ino: int) -> Reply:
        _, _, command, _, in_size, out_size = p.IOCTL_IN.unpack_from(buffer, BODY)
        start = BODY + p.IOCTL_IN.size
        if start + in_size > end:
            raise malformed("ioctl data is shorter than in_size")
        data = bytes(buffer[start : start + in_size])
        union = self._union
        result = b""
        if command in (FS_IOC_GETFLAGS, FS_IOC32_GETFLAGS):
            result = p.U32.pack(union.get_flags(ino))
        elif command in (FS_IOC_SETFLAGS, FS_IOC32_SETFLAGS) and in_size >= p.U32.size:
            union.set_flags(ino, p.U32.unpack_from(data)[0], caller(buffer))
        elif command == FS_IOC_FSGETXATTR:
            result = union.get_fsxattr(ino)
        elif command == FS_IOC_FSSETXATTR and in_size == _FSXATTR_SIZE:
            union.set_fsxattr(ino, data, caller(buffer))
        else:
            raise OSError(errno.ENOTTY, os.strerror(errno.ENOTTY))
        if len(result) > out_size:
            raise malformed("ioctl out_size is too small for the result")
        return p.IOCTL_OUT.pack(0, 0, 0, 0) + result
