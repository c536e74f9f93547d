"""Requests about names and attributes: LOOKUP to RENAME2, GETATTR to REMOVEXATTR, FORGET, STATFS, READLINK.

A thin translation: each handler parses its request, calls one method of `Union`, and packs the reply.
"""

from __future__ import annotations

import errno
import os
from time import time_ns

from unionfs.overlay.attr import Changes, blocks
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.buffer import Buffer
from unionfs.transport.direct.dir_streams import SharedDirStreams
from unionfs.transport.direct.file_ops import FileOps
from unionfs.transport.direct.protocol import BODY, Opcode
from unionfs.transport.direct.readdirplus import ReaddirplusPolicy
from unionfs.transport.direct.replies import SECOND, ReplyPacker, decode_dev, join_time, split_time
from unionfs.transport.direct.requests import (
    INVALID_ID,
    caller,
    creator,
    malformed,
    name_at,
    string_at,
    two_names_at,
)
from unionfs.transport.direct.server import NO_REPLY, Handler, Reply, Server

_STATX_BTIME = 0x800
_STATX_BASIC = 0x7FF

_XATTR_SIZE_MAX = 65536


def _is_touch(valid: int) -> bool:
    """Whether both times are to be set to now (ATTR_TOUCH).

    With a writeback cache the kernel always sends a modification time of its own, and CTIME along with it.
    """
    now = valid & (p.FATTR_MTIME_NOW | p.FATTR_CTIME)
    return bool(now and valid & p.FATTR_MTIME and valid & p.FATTR_ATIME_NOW)


class InodeOps:
    """The handlers of requests that need no open file."""

    def __init__(
        self,
        server: Server,
        replies: ReplyPacker,
        file_ops: FileOps,
        dir_streams: SharedDirStreams,
        policy: ReaddirplusPolicy,
        *,
        setxattr_ext: bool,
        killpriv: bool,
        writeback: bool,
    ) -> None:
        self._server = server
        self._union = server.union
        self._replies = replies
        self._file_ops = file_ops
        self._dir_streams = dir_streams
        # A thread that sends LOOKUP has a name to reach the new node: see `Passthrough.reopen`.
        self._refused = {} if file_ops.passthrough is None else file_ops.passthrough.refused
        self._dir_usage = policy.usage
        self._writeback_errors = file_ops.writeback_errors
        self._killpriv = killpriv
        self._writeback = writeback
        self._setxattr_in = p.SETXATTR_IN if setxattr_ext else p.SETXATTR_IN_COMPAT

    def handlers(self) -> dict[Opcode, Handler]:
        return {
            Opcode.LOOKUP: self.lookup,
            Opcode.FORGET: self.forget,
            Opcode.BATCH_FORGET: self.batch_forget,
            Opcode.GETATTR: self.getattr,
            Opcode.SETATTR: self.setattr,
            Opcode.STATX: self.statx,
            Opcode.READLINK: self.readlink,
            Opcode.SYMLINK: self.symlink,
            Opcode.MKNOD: self.mknod,
            Opcode.MKDIR: self.mkdir,
            Opcode.UNLINK: self.unlink,
            Opcode.RMDIR: self.rmdir,
            Opcode.RENAME: self.rename,
            Opcode.RENAME2: self.rename2,
            Opcode.LINK: self.link,
            Opcode.STATFS: self.statfs,
            Opcode.SETXATTR: self.setxattr,
            Opcode.GETXATTR: self.getxattr,
            Opcode.LISTXATTR: self.listxattr,
            Opcode.REMOVEXATTR: self.removexattr,
            Opcode.DESTROY: self.destroy,
        }

    def lookup(self, buffer: Buffer, end: int, ino: int) -> Reply:
        name = string_at(buffer, BODY, end)
        if b"/" in name:  # nfsd looks up "." and ".."
            raise malformed("name has a slash")
        if self._refused:
            self._refused.pop(p.IN_HEADER.unpack_from(buffer)[6], None)
        if ino in self._dir_usage:
            self._dir_usage[ino].lookups += 1
        entry = self._union.lookup(ino, name)
        if entry is None:
            return self._replies.negative_entry()
        writeback_errors = self._writeback_errors
        if writeback_errors.oversized:
            writeback_errors.looked_up(entry[0].ino)
        return self._replies.entry(*entry)

    def forget(self, buffer: Buffer, end: int, ino: int) -> object:
        (count,) = p.FORGET_IN.unpack_from(buffer, BODY)
        self._forget(p.IN_HEADER.unpack_from(buffer)[3], count)
        self._union.give_memory_back()
        return NO_REPLY

    def batch_forget(self, buffer: Buffer, end: int, ino: int) -> object:
        (count, _) = p.BATCH_FORGET_IN.unpack_from(buffer, BODY)
        start = BODY + p.BATCH_FORGET_IN.size
        stop = start + count * p.FORGET_ONE.size
        if stop > end:
            raise malformed("fewer nodes than its count")
        for node, lookups in p.FORGET_ONE.iter_unpack(memoryview(buffer)[start:stop]):
            self._forget(node, lookups)
        self._union.give_memory_back()
        return NO_REPLY

    def _forget(self, node: int, count: int) -> None:
        nodes = self._file_ops.nodes
        ino = nodes.forget(node, count) if node in nodes.inos else node
        self._union.forget(ino, count)
        if (ino in nodes.current or ino in nodes.maybe_mmapped) and not self._union.knows(ino):
            nodes.drop(ino)
        self._dir_streams.forget(ino)
        self._file_ops.forget(node, ino)

    # --- making and removing ---------------------------------------------------------------------

    def mkdir(self, buffer: Buffer, end: int, ino: int) -> Reply:
        mode, umask = p.MKDIR_IN.unpack_from(buffer, BODY)
        start = BODY + p.MKDIR_IN.size
        creds, stop = creator(buffer, start, end, umask)
        name = name_at(buffer, start, stop)
        return self._replies.entry(*self._union.mkdir(ino, name, mode & 0o7777, creds))

    def mknod(self, buffer: Buffer, end: int, ino: int) -> Reply:
        mode, rdev, umask, _ = p.MKNOD_IN.unpack_from(buffer, BODY)
        start = BODY + p.MKNOD_IN.size
        creds, stop = creator(buffer, start, end, umask)
        name = name_at(buffer, start, stop)
        return self._replies.entry(*self._union.mknod(ino, name, mode & 0o177777, decode_dev(rdev), creds))

    def symlink(self, buffer: Buffer, end: int, ino: int) -> Reply:
        creds, stop = creator(buffer, BODY, end, 0)
        name = name_at(buffer, BODY, stop)
        target = string_at(buffer, BODY + len(name) + 1, stop)
        return self._replies.entry(*self._union.symlink(ino, name, target, creds))

    def link(self, buffer: Buffer, end: int, ino: int) -> Reply:
        (old,) = p.LINK_IN.unpack_from(buffer, BODY)
        name = name_at(buffer, BODY + p.LINK_IN.size, end)
        return self._replies.entry(*self._union.link(self._server.extra_nodes.get(old, old), ino, name))

    def unlink(self, buffer: Buffer, end: int, ino: int) -> Reply:
        self._union.unlink(ino, name_at(buffer, BODY, end))
        return None

    def rmdir(self, buffer: Buffer, end: int, ino: int) -> Reply:
        self._union.rmdir(ino, name_at(buffer, BODY, end))
        return None

    def rename(self, buffer: Buffer, end: int, ino: int) -> Reply:
        (newdir,) = p.RENAME_IN.unpack_from(buffer, BODY)
        old, new = two_names_at(buffer, BODY + p.RENAME_IN.size, end)
        self._union.rename(ino, old, newdir, new, 0)
        return None

    def rename2(self, buffer: Buffer, end: int, ino: int) -> Reply:
        newdir, flags, _ = p.RENAME2_IN.unpack_from(buffer, BODY)
        old, new = two_names_at(buffer, BODY + p.RENAME2_IN.size, end)
        self._union.rename(ino, old, newdir, new, flags)
        return None

    # --- attributes ------------------------------------------------------------------------------

    def getattr(self, buffer: Buffer, end: int, ino: int) -> Reply:
        writeback_errors = self._writeback_errors
        if writeback_errors.pending and p.GETATTR_IN.unpack_from(buffer, BODY)[0] & p.GETATTR_FH:
            writeback_errors.check_before_write(ino)
        return self._replies.attr(*self._union.getattr(ino))

    def setattr(self, buffer: Buffer, end: int, ino: int) -> Reply:
        (valid, _, fh, size, _, atime, mtime, _, atime_ns, mtime_ns, _, mode, _, uid, gid, _) = (
            p.SETATTR_IN.unpack_from(buffer, BODY)
        )
        resized = bool(valid & p.FATTR_SIZE)
        if (
            (resized and size < 0)
            or (valid & p.FATTR_UID and uid == INVALID_ID)
            or (valid & p.FATTR_GID and gid == INVALID_ID)
            or (valid & p.FATTR_ATIME and atime_ns >= SECOND)
            or (valid & p.FATTR_MTIME and mtime_ns >= SECOND)
        ):
            raise malformed("negative size, invalid uid or gid, or invalid nanoseconds")
        handle = self._file_ops.file(fh, ino) if valid & p.FATTR_FH and fh else None
        if resized and handle is None:
            self._file_ops.before_change(p.IN_HEADER.unpack_from(buffer)[3], ino)
        now = time_ns() if valid & (p.FATTR_ATIME_NOW | p.FATTR_MTIME_NOW) else 0
        # No system call changes the mode together with size or owner: without HANDLE_KILLPRIV such a mode is
        # fuse.ko's own idea of which set-id bits to clear, and the union's rule is exact.
        killpriv_mode = valid & (p.FATTR_SIZE | p.FATTR_UID | p.FATTR_GID)
        changes = Changes(
            mode=mode if valid & p.FATTR_MODE and not killpriv_mode else None,
            uid=uid if valid & p.FATTR_UID else None,
            gid=gid if valid & p.FATTR_GID else None,
            size=size if resized else None,
            kill=bool(valid & p.FATTR_KILL_SUIDGID) if self._killpriv else None,
            touch=_is_touch(valid),
            by_handle=bool(valid & p.FATTR_FH),
            kept=bool(valid & p.FATTR_CTIME),
            # fuse.ko sends a time of its own with every other size (fuse_do_setattr()).
            keeps_mtime=self._writeback and not valid & p.FATTR_MTIME,
        )
        if valid & p.FATTR_ATIME:
            changes.atime_ns = now if valid & p.FATTR_ATIME_NOW else join_time(atime, atime_ns)
        if valid & p.FATTR_MTIME:
            changes.mtime_ns = now if valid & p.FATTR_MTIME_NOW else join_time(mtime, mtime_ns)
        if changes.is_empty:
            # What remains of file_remove_privs() before a write, or of a chown(2) to the same owner.
            changes.writing = self._file_ops.may_be_before_write(ino, with_ctime=changes.kept)
        entry = self._union.setattr(ino, changes, caller(buffer), handle)
        if resized:
            self._writeback_errors.resized(ino)
        return self._replies.attr(*entry)

    def statx(self, buffer: Buffer, end: int, ino: int) -> Reply:
        more = self._union.statx(ino)
        inode, st = more.inode, more.stat
        rdev = st.st_rdev
        known = _STATX_BASIC if more.btime is None else _STATX_BASIC | _STATX_BTIME
        times = (
            *(*split_time(st.st_atime_ns), 0),
            *(*(more.btime or (0, 0)), 0),
            *(*split_time(st.st_ctime_ns), 0),
            *(*split_time(st.st_mtime_ns), 0),
        )
        return p.STATX_OUT.pack(
            *(*self._replies.attr_valid(inode), 0),
            *(known, st.st_blksize, more.attributes),
            *(self._replies.links(inode, st), st.st_uid, st.st_gid, st.st_mode, 0),
            *(inode.ino, st.st_size, blocks(inode, st), more.attributes_mask),
            *times,
            *(os.major(rdev), os.minor(rdev), 0, 0),
        )

    def readlink(self, buffer: Buffer, end: int, ino: int) -> Reply:
        return self._union.readlink(ino)

    def statfs(self, buffer: Buffer, end: int, ino: int) -> Reply:
        st = self._union.statfs()
        return p.STATFS_OUT.pack(
            *(st.f_blocks, st.f_bfree, st.f_bavail, st.f_files, st.f_ffree),
            *(st.f_bsize, st.f_namemax, st.f_frsize),
            *(0,) * 7,
        )

    # --- extended attributes ---------------------------------------------------------------------

    def setxattr(self, buffer: Buffer, end: int, ino: int) -> Reply:
        size, flags = p.SETXATTR_IN_COMPAT.unpack_from(buffer, BODY)
        start = BODY + self._setxattr_in.size
        name = string_at(buffer, start, end)
        start += len(name) + 1
        if start + size != end or flags & ~(os.XATTR_CREATE | os.XATTR_REPLACE):
            raise malformed("value is not as long as its size, or unknown flags")
        self._union.setxattr(ino, name, bytes(buffer[start:end]), flags, caller(buffer))
        return None

    def getxattr(self, buffer: Buffer, end: int, ino: int) -> Reply:
        size, _ = p.GETXATTR_IN.unpack_from(buffer, BODY)
        name = string_at(buffer, BODY + p.GETXATTR_IN.size, end)
        return _sized(self._union.getxattr(ino, name), size)

    def listxattr(self, buffer: Buffer, end: int, ino: int) -> Reply:
        size, _ = p.GETXATTR_IN.unpack_from(buffer, BODY)
        names = self._union.listxattr(ino, caller(buffer))
        return _sized(b"".join(name + b"\0" for name in names), size)

    def removexattr(self, buffer: Buffer, end: int, ino: int) -> Reply:
        self._union.removexattr(ino, string_at(buffer, BODY, end), caller(buffer))
        return None

    def destroy(self, buffer: Buffer, end: int, ino: int) -> Reply:
        return None


def _sized(value: bytes, size: int) -> bytes:
    """A value as getxattr(2) returns it: its length for a size of 0, ERANGE for a size that is too small."""
    if not size:
        return p.GETXATTR_OUT.pack(len(value), 0)
    if len(value) > size:
        raise OSError(errno.ERANGE if size < _XATTR_SIZE_MAX else errno.E2BIG, "the value is longer")
    return value
