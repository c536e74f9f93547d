"""WRITEs of cached data that failed: what the mount then shows of the file, and which call gets the errno.

With a writeback cache, and always for shared mappings, fuse.ko sends WRITE after write(2) has returned. If it
fails, fuse.ko keeps the pages as if they were clean, and the size, and returns the errno from the next
fsync(2) or close(2) (mapping_set_error()). Invariant 15: so that the mount does not go on showing data that
is stored nowhere, the file's dentries are invalidated, so that its inode goes with its last close(2), since
fuse.ko trusts its own size as long as it has the inode; and its pages are invalidated, to be read again. The
next write(2) is refused while there is no space: before each, fuse.ko sends GETATTR for attributes that it
does not have (fuse_cache_write_iter()).

Nothing here waits, and no reply waits for it: an invalidation of dentries and pages waits for locks whose
holders wait for replies, so workers of a pool of their own send them.
"""

from __future__ import annotations

import errno
import os

from unionfs.overlay.inode import File
from unionfs.transport.direct.buffer import Buffer
from unionfs.transport.direct.protocol import BODY, IN_HEADER, WRITE_CACHE, WRITE_IN
from unionfs.transport.direct.server import Server

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class WritebackErrors:
    """Failed WRITEs of cached data by inode number. All but `_invalidate` is called with the server's lock.

    `pending` has, of each file whose next write(2) is to fail, the errno and how many bytes found no space;
    `oversized` are the files whose size in the kernel is larger than what was stored.
    """

    __slots__ = ("_getattr_before_write", "_invalidating", "_server", "_writeback", "oversized", "pending")

    def __init__(self, server: Server, *, writeback: bool, getattr_before_write: bool) -> None:
        """*getattr_before_write*: only write(2) sends GETATTR with an open file, as since Linux 5.16."""
        self._server = server
        self._writeback = writeback
        self._getattr_before_write = getattr_before_write
        self.pending: dict[int, tuple[int, int]] = {}
        self.oversized: set[int] = set()
        # Inodes that a worker is invalidating or about to, and whether another WRITE failed meanwhile.
        self._invalidating: dict[int, bool] = {}

    def write_failed(self, request: Buffer, code: int) -> None:
        """A WRITE has failed, also because its file could not be copied up; the reply follows."""
        _, _, size, flags, *_ = WRITE_IN.unpack_from(request, BODY)
        if not flags & WRITE_CACHE:
            return  # write(2) waits for the reply, and fuse.ko keeps no page of it
        node = IN_HEADER.unpack_from(request)[3]
        ino = self._server.extra_nodes.get(node, node)
        if self._writeback:
            self.oversized.add(ino)
            if self._getattr_before_write:
                self.pending[ino] = code, size
                self._server.invalidate_attrs(node)
        self._schedule_invalidation(ino)

    def check_before_write(self, ino: int) -> None:
        """GETATTR before a write(2): raise the pending errno if this write could not be stored either."""
        pending = self.pending.get(ino)
        if pending is None:
            return
        code, size = pending
        if code not in _NO_SPACE:
            # Whether the cause is gone (EFBIG, EIO) is not known: it is reported once.
            del self.pending[ino]
        elif self._server.union.has_room(size):
            del self.pending[ino]
            return
        raise OSError(code, os.strerror(code))

    def looked_up(self, ino: int) -> None:
        """A file has been looked up, so that the kernel has a dentry of it again."""
        if ino in self.oversized:
            self._schedule_invalidation(ino)

    def resized(self, ino: int) -> None:
        """SETATTR has given the kernel a size that is stored."""
        self.pending.pop(ino, None)
        self.oversized.discard(ino)

    def forget(self, ino: int) -> None:
        """The kernel has dropped lookups of an inode; with the last its wrong size is gone."""
        if ino in self.oversized and not self._server.union.knows(ino):
            self.resized(ino)

    def _schedule_invalidation(self, ino: int) -> None:
        if ino in self._invalidating:
            self._invalidating[ino] = True
        else:
            self._invalidating[ino] = False
            self._server.submit(self._server.invalidators, self._invalidate, ino)

    def _invalidate(self, ino: int) -> None:
        """A worker: have the kernel drop the dentries and the pages."""
        server = self._server
        more = True
        while more:
            with server.lock:
                dentries, nodes = self._dentries(ino), server.nodes_of(ino)
                self._invalidating[ino] = False
            for parent, name in dentries:
                server.invalidate_entry(parent, name)
            # The kernel first sends WRITE for dirty pages, which may fail as well.
            for node in nodes:
                server.invalidate_inode(node, 0)
            with server.lock:
                more = self._invalidating[ino]
                if not more:
                    del self._invalidating[ino]

    def _dentries(self, ino: int) -> list[tuple[int, bytes]]:
        """Parent and name of each dentry that the kernel may have of a file whose size it has wrong."""
        inode = self._server.union.fs.table.get(ino) if ino in self.oversized else None
        if not isinstance(inode, File):
            return []
        return [(parent.ino, name) for parent, name in inode.names()]
