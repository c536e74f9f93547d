"""Data that the kernel took into its cache and that could not be stored: what it shows and answers then.

With a writeback cache, and always for shared mappings, fuse.ko asks to have data stored when write(2) is
over. If that fails it keeps the pages as if they were clean, and the size, and gives the errno to the next
fsync(2) or close(2) (mapping_set_error()). This sees to it that the mount does not go on showing what lies
nowhere. The file's names are dropped, so that its inode goes with the last close(2) of it, for fuse.ko trusts
its own size as long as it has the inode; and the pages, to be read again. The next write(2) is refused while
there is no room: before each, fuse.ko asks for attributes that it does not have (fuse_cache_write_iter()).

Nothing here waits, and no answer waits for it: dropping names and pages waits for the locks of those who wait
for answers, and is left to workers of a pool of their own.
"""

from __future__ import annotations

import errno
import os

from unionfs.overlay.inode import File
from unionfs.transport.direct.protocol import BODY, IN_HEADER, WRITE_CACHE, WRITE_IN
from unionfs.transport.direct.server import Buffer, Server

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class WriteBacks:
    """What could not be stored, by inode number. All but `_clean` is called with the server's lock held.

    `refused` has, of each file whose next write(2) is to fail, the errno and how many bytes found no room; in
    `oversized` are those whose size the kernel believes to be more than was stored.
    """

    __slots__ = ("_asked", "_cleaning", "_server", "_writeback", "oversized", "refused")

    def __init__(self, server: Server, *, writeback: bool, asked: bool) -> None:
        """*asked*: whether GETATTR with an open file comes from write(2) alone, as since Linux 5.16."""
        self._server = server
        self._writeback = writeback
        self._asked = asked
        self.refused: dict[int, tuple[int, int]] = {}
        self.oversized: set[int] = set()
        # Of each inode that a worker is at or about to be, whether there is more to do since it began.
        self._cleaning: dict[int, bool] = {}

    def failed(self, request: Buffer, code: int) -> None:
        """A WRITE has failed, be it that its file cannot be copied up; it is answered after this."""
        _, _, size, flags, *_ = WRITE_IN.unpack_from(request, BODY)
        if not flags & WRITE_CACHE:
            return  # the writer waits for the answer, and fuse.ko keeps no page of it
        node = IN_HEADER.unpack_from(request)[3]
        ino = self._server.numbered.get(node, node)
        if self._writeback:
            self.oversized.add(ino)
            if self._asked:
                self.refused[ino] = code, size
                self._server.invalidate_attributes(node)
        self._begin(ino)

    def before_write(self, ino: int) -> None:
        """The kernel asks for attributes before a write(2): refuse that if it cannot be stored either."""
        refusal = self.refused.get(ino)
        if refusal is None:
            return
        code, size = refusal
        if code not in _NO_ROOM:
            # Nothing tells whether it is over (EFBIG, EIO): it is said once.
            del self.refused[ino]
        elif self._server.union.has_room(size):
            del self.refused[ino]
            return
        raise OSError(code, os.strerror(code))

    def looked_up(self, ino: int) -> None:
        """A file has been looked up, so that the kernel has a name for it again."""
        if ino in self.oversized:
            self._begin(ino)

    def resized(self, ino: int) -> None:
        """The kernel has a size that is stored."""
        self.refused.pop(ino, None)
        self.oversized.discard(ino)

    def forget(self, ino: int) -> None:
        """The kernel has dropped lookups of an inode; with the last it has dropped what it believed."""
        if ino in self.oversized and not self._server.union.knows(ino):
            self.resized(ino)

    def _begin(self, ino: int) -> None:
        if ino in self._cleaning:
            self._cleaning[ino] = True
        else:
            self._cleaning[ino] = False
            self._server.submit(self._server.cleaners, self._clean, ino)

    def _clean(self, ino: int) -> None:
        """A worker: have the kernel drop the names and the pages."""
        server = self._server
        more = True
        while more:
            with server.lock:
                names, nodes = self._names(ino), server.nodes_of(ino)
                self._cleaning[ino] = False
            for parent, name in names:
                server.invalidate_entry(parent, name)
            # Of dirty pages the kernel asks to have them stored first, which may fail as well.
            for node in nodes:
                server.invalidate(node, 0)
            with server.lock:
                more = self._cleaning[ino]
                if not more:
                    del self._cleaning[ino]

    def _names(self, ino: int) -> list[tuple[int, bytes]]:
        """The names by which the kernel may know a file whose size it has wrong."""
        inode = self._server.union.fs.table.get(ino) if ino in self.oversized else None
        if not isinstance(inode, File):
            return []
        return [(parent.ino, name) for parent, name in inode.names()]
