"""Requests about open directories: OPENDIR, READDIR, READDIRPLUS, FSYNCDIR.

Where nothing changes but through the mount, OPENDIR is answered ENOSYS: the kernel then opens directories
without a request and caches their listings (fs/fuse/readdir.c). No request says then when a reader begins or
ends, so all readers of a directory share one stream, whose cookies stay valid.

The kernel reads every listing by READDIRPLUS, and the daemon decides which entries are full
(`readdirplus.py`).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from struct import Struct

from unionfs.overlay.layer import NAME_MAX
from unionfs.overlay.listing import DirHandle
from unionfs.transport.direct import protocol as p
from unionfs.transport.direct.buffer import Buffer
from unionfs.transport.direct.dir_streams import SharedDirStreams
from unionfs.transport.direct.file_ops import FileOps
from unionfs.transport.direct.negotiate import MAX_WRITE
from unionfs.transport.direct.protocol import BODY, IN_HEADER, Opcode
from unionfs.transport.direct.readdirplus import ReaddirplusPolicy
from unionfs.transport.direct.replies import ReplyPacker
from unionfs.transport.direct.requests import (
    malformed,
)
from unionfs.transport.direct.server import Handler, Reply, Server

Pack = Callable[..., bytes]

_LENGTHS = range(NAME_MAX + 1)
_DIRENTS: list[Pack] = [Struct(f"={p.DIRENT_FIELDS}{length + 7 & -8}s").pack for length in _LENGTHS]
"""By the length of the name: packs inode number, cookie, length, type and name as an entry of READDIR."""
_BARE_ENTRIES: list[Pack] = [
    Struct(f"={p.ENTRY_OUT.size}x{p.DIRENT_FIELDS}{length + 7 & -8}s").pack for length in _LENGTHS
]
"""The same for READDIRPLUS: of an entry without a node the kernel uses what READDIR would have."""
_BARE = p.ENTRY_OUT.size + p.DIRENT.size


class DirOps:
    """The handlers of requests about open directories."""

    def __init__(
        self,
        server: Server,
        replies: ReplyPacker,
        file_ops: FileOps,
        dir_streams: SharedDirStreams,
        policy: ReaddirplusPolicy,
        *,
        no_opendir: bool,
    ) -> None:
        self._server = server
        self._union = server.union
        self._replies = replies
        self._file_ops = file_ops
        self._dir_streams = dir_streams
        self._policy = policy
        self._no_opendir = no_opendir
        self._dirs: dict[int, DirHandle] = {}
        self._next = 0

    def handlers(self) -> dict[Opcode, Handler]:
        return {
            Opcode.OPENDIR: self.opendir,
            Opcode.READDIR: self.readdir,
            Opcode.READDIRPLUS: self.readdirplus,
            Opcode.RELEASEDIR: self.releasedir,
            Opcode.FSYNCDIR: self.fsyncdir,
        }

    def open_handles(self) -> int:
        return len(self._dirs)

    def close(self) -> None:
        for handle in self._dirs.values():
            self._union.release_dir(handle)
        self._dirs.clear()

    def opendir(self, buffer: Buffer, end: int, ino: int) -> Reply:
        if self._no_opendir:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        handle = self._union.open_dir(ino)
        self._next = fh = self._next + 1
        self._dirs[fh] = handle
        return p.OPEN_OUT.pack(fh, 0, 0)

    def releasedir(self, buffer: Buffer, end: int, ino: int) -> Reply:
        handle = self._dirs.pop(p.RELEASE_IN.unpack_from(buffer, BODY)[0], None)
        if handle is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        self._union.release_dir(handle)
        return None

    def fsyncdir(self, buffer: Buffer, end: int, ino: int) -> object:
        _, flags, _ = p.FSYNC_IN.unpack_from(buffer, BODY)
        fd = self._union.sync_dir(ino)
        unique = IN_HEADER.unpack_from(buffer)[2]
        return self._file_ops.sync(fd, bool(flags & p.FSYNC_FDATASYNC), Opcode.FSYNCDIR, unique)

    def _handle(self, fh: int, ino: int) -> DirHandle:
        if self._no_opendir:
            return self._dir_streams.get(ino)
        handle = self._dirs.get(fh)
        if handle is None or handle.directory.ino != ino:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return handle

    def readdir(self, buffer: Buffer, end: int, ino: int) -> Reply:
        fh, offset, size = _read_args(buffer)
        handle = self._handle(fh, ino)
        self._union.list_dir(handle, offset)
        return b"".join(self._plain(handle, offset, size, _DIRENTS))

    def readdirplus(self, buffer: Buffer, end: int, ino: int) -> Reply:
        fh, offset, size = _read_args(buffer)
        handle = self._handle(fh, ino)
        count = self._union.list_dir(handle, offset)
        usage = self._policy.before_read(ino, count, offset)
        if usage is None or usage.full:
            entries = self._full(handle, offset, size)
        else:
            entries = self._plain(handle, offset, size, _BARE_ENTRIES)
            usage.plain_entries += len(entries)
        if not entries and usage is not None and usage.plain_entries and self._no_opendir:
            # The kernel would cache it, and send no request for the next reader.
            self._server.invalidate_listing(ino)
        return b"".join(entries)

    def _plain(self, handle: DirHandle, offset: int, size: int, packers: list[Pack]) -> list[bytes]:
        """Entries with inode number and type only, as many as fit."""
        entries: list[bytes] = []
        room = size
        for name, number, kind, cookie in self._union.read_dir_plain(handle, offset):
            length = len(name)
            entry = packers[length](number, cookie, length, kind, name)
            room -= len(entry)
            if room < 0:
                if not entries:
                    raise malformed("size is too small for one entry")
                break
            entries.append(entry)
        return entries

    def _full(self, handle: DirHandle, offset: int, size: int) -> list[bytes]:
        """Entries, with attributes where the kernel does not have the inode already."""
        entries: list[bytes] = []
        union, pack = self._union, self._replies.entry
        extra_nodes = self._file_ops.nodes.current
        room = size
        for name, inode, cookie in union.read_dir_new(handle, offset):
            length = len(name)
            room -= _BARE + (length + 7 & -8)
            if room < 0:
                if not entries:
                    raise malformed("size is too small for one entry")
                break
            if inode is None or inode.ino in extra_nodes:
                try:
                    entry = union.list_entry(handle, name)
                except OSError:
                    # The name exists, but its lookup fails: LOOKUP will return the error.
                    entries.append(_BARE_ENTRIES[length](union.unused_number(), cookie, length, 0, name))
                    continue
                if entry is None:
                    room += _BARE + (length + 7 & -8)
                    continue
                inode = entry[0]
                entries.append(
                    pack(*entry) + _DIRENTS[length](inode.ino, cookie, length, inode.mode >> 12, name)
                )
            else:
                entries.append(_BARE_ENTRIES[length](inode.ino, cookie, length, inode.mode >> 12, name))
        return entries


def _read_args(buffer: Buffer) -> tuple[int, int, int]:
    """The handle, the cookie after which to continue, and the size of the reply."""
    fh, offset, size, *_ = p.READ_IN.unpack_from(buffer, BODY)
    if offset < 0:
        raise malformed("negative offset")
    return fh, offset, min(size, MAX_WRITE)
