"""How a lower file that is opened for reading is served: by passthrough, or through the kernel's cache.

A reader by passthrough keeps the lower file for as long as it has it open, whatever is written to the file
meanwhile, so only files that are not written in place while they are read may be served so: programs and
libraries, and large files that are neither text (logs) nor databases. Decides by size and first bytes, and
stores small files in the kernel's cache before the reply to the OPEN, so that no READ follows.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from enum import Enum

from unionfs.overlay.file import BLOCKS
from unionfs.overlay.inode import File
from unionfs.overlay.order import Pace
from unionfs.overlay.super import Union
from unionfs.transport.direct.buffer import new_buffer
from unionfs.transport.direct.nodes import NodeMap
from unionfs.transport.direct.server import Server
from unionfs.transport.direct.sibling_readahead import SiblingReadahead

log = logging.getLogger(__name__)

HEAD_SIZE = 4096
"""How many bytes of a file decide."""

STORE_MAX = 64 << 10
"""Files up to this size are stored in the kernel's cache at OPEN; larger ones it READs."""

LARGE_FILE = 1 << 20
"""Files from this size on gain more by passthrough than the opens of their readers cost."""


class LowerPassthrough(Enum):
    """Which lower files are read by passthrough: with `passthrough=on`, `passthrough=auto`, `coherent`."""

    ALL = "all"
    UNCHANGING = "unchanging"
    NONE = "none"


_ELF = b"\x7fELF"
_ET_EXEC, _ET_DYN = 2, 3

_DATABASES = (
    (0, b"SQLite format 3\0"),
    (0, b"RpmP"),  # rpm's ndb
    (0, b"LPKSHHRH"),  # the journal of systemd
    (0, b"QFI\xfb"),  # qcow2
    *((0, (0x13579ACD + n).to_bytes(4, order)) for n in range(3) for order in ("little", "big")),  # GDBM
    *((12, n.to_bytes(4, order)) for n in (0x061561, 0x053162, 0x042253) for order in ("little", "big")),
    # Berkeley DB: hash, btree and queue
    *((16, n.to_bytes(4, order)) for n in (0xBEEFC0DE,) for order in ("little", "big")),  # LMDB
)
"""Signatures of databases, journals and disk images, which are written in place while they are read."""


def is_unchanging(head: bytes | memoryview, size: int) -> bool:
    """Whether a file of *size* bytes that begins with *head* is not written in place while it is read."""
    if size < LARGE_FILE and head[:4] != _ELF:
        return False
    head = bytes(head[:HEAD_SIZE])
    if head.startswith(_ELF):
        # Not object files, which compilers write in place. EI_DATA has the byte order of e_type.
        kind = int.from_bytes(head[16:18], "big" if head[5:6] == b"\2" else "little")
        return kind in (_ET_EXEC, _ET_DYN)
    # Text has no zero byte, which is also the rule of grep(1) and git.
    return 0 in head and size >= LARGE_FILE and not any(head.startswith(mark, at) for at, mark in _DATABASES)


class LowerReadPolicy:
    """Decides at the first open of a lower file, for as long as the kernel has the node."""

    __slots__ = ("_buffer", "_nodes", "_pace", "_policy", "_reads", "_server", "_siblings", "_union")

    def __init__(self, server: Server, nodes: NodeMap, policy: LowerPassthrough) -> None:
        self._server = server
        self._union: Union = server.union
        self._nodes = nodes
        self._policy = policy
        self._buffer = memoryview(new_buffer(STORE_MAX))
        # By node, the pending reads by workers that a decision waits for.
        self._reads: dict[int, _FirstRead] = {}
        self._pace = Pace()
        self._siblings = SiblingReadahead(server.readers, STORE_MAX)

    def uses_passthrough(self, node: int) -> bool:
        """Whether the lower file of a node is read by passthrough."""
        if self._policy is LowerPassthrough.UNCHANGING:
            return self._nodes.lower_passthrough.get(node, False)
        return self._policy is LowerPassthrough.ALL

    def undecided(self, node: int, ino: int) -> File | None:
        """The inode, where `decide` must be called before the node is opened for reading."""
        nodes = self._nodes
        if self._policy is LowerPassthrough.ALL or node in nodes.backings or node in nodes.cached_opens:
            return None
        if node in nodes.lower_passthrough and self._union.fs.layers_static:
            return None
        return _file_in_lower(self._union, ino)

    def decide(self, node: int, inode: File) -> _FirstRead | None:
        """Decide by the file's beginning; where the disk is slow, return the read that must be run first."""
        read = self._reads.get(node)
        if read is not None:
            return read
        fd = inode.open_data(os.O_RDONLY)
        try:
            size = os.fstat(fd).st_size
            room = self._buffer[: _bytes_to_read(size)]
            count = _read_cached(fd, room)
            self._siblings.opened(inode, cold=count != len(room))
            if count != len(room):
                # With a timeout layers may change, and what a worker has read may be old: then wait here.
                if self._union.fs.layers_static and not self._pace.is_quick:
                    read = self._reads[node] = _FirstRead(self, node, inode.ino, fd, size)
                    return read
                began = time.perf_counter()
                count = _read(fd, room)
                self._pace.note(time.perf_counter() - began)
            self._decided(node, inode, size, room[:count])
            return None
        finally:
            if read is None:
                os.close(fd)

    def _decided(self, node: int, inode: File, size: int, data: memoryview) -> None:
        """Record how the file is read. *data* is its beginning; all of it, where that is to be stored."""
        by_passthrough = self._policy is LowerPassthrough.UNCHANGING and is_unchanging(data, size)
        self._nodes.lower_passthrough[node] = by_passthrough
        if by_passthrough or not data or len(data) < size or not self._union.fs.layers_static:
            return
        # A metacopy has a size of its own, which is the one that the kernel has.
        if not inode.metacopy or inode.lstat().st_size == size:
            self._server.store(node, data)

    def first_read_done(self, read: _FirstRead, size: int, data: bytes, seconds: float) -> None:
        """A worker has read a file's beginning. Look the inode up again: it may have changed meanwhile."""
        self._pace.note(seconds)
        del self._reads[read.node]
        nodes = self._nodes
        if read.node in nodes.cached_opens or read.node in nodes.backings or not self._union.knows(read.ino):
            return
        inode = _file_in_lower(self._union, read.ino)
        if inode is not None:
            self._decided(read.node, inode, size, memoryview(data))


class _FirstRead:
    """The task of reading a lower file's beginning from the disk, after which its open is decided."""

    __slots__ = ("_data", "_fd", "_reads", "_seconds", "_size", "ino", "node")

    def __init__(self, reads: LowerReadPolicy, node: int, ino: int, fd: int, size: int) -> None:
        self._reads = reads
        self.node = node
        self.ino = ino
        self._fd = fd
        self._size = size
        self._data = b""
        self._seconds = 0.0

    def run(self) -> None:
        """Any thread."""
        began = time.perf_counter()
        room = memoryview(bytearray(_bytes_to_read(self._size)))
        self._data = bytes(room[: _read(self._fd, room)])
        self._seconds = time.perf_counter() - began

    def finish(self, error: BaseException | None) -> None:
        """Decide. State thread only."""
        os.close(self._fd)
        self._reads.first_read_done(self, self._size, self._data, self._seconds)


def _file_in_lower(union: Union, ino: int) -> File | None:
    """The inode, where it is a regular file whose data lies in a lower."""
    inode = union.inode(ino)
    if not isinstance(inode, File) or not stat.S_ISREG(inode.mode):
        return None
    return inode if inode.metacopy or not inode.on_upper else None


def _bytes_to_read(size: int) -> int:
    """How much of a file is read to decide: all of one that is stored, else what identifies its type."""
    return size if size <= STORE_MAX else HEAD_SIZE


def _read_cached(fd: int, room: memoryview) -> int:
    """Read what the page cache holds; less than *room* where the read would wait for the disk."""
    if not room:
        return 0
    try:
        return os.preadv(fd, (room,), 0, os.RWF_NOWAIT)
    except OSError as error:
        if error.errno in BLOCKS:
            return 0
        return _read(fd, room)


def _read(fd: int, room: memoryview) -> int:
    """Read from the disk. After an error the file goes through the cache: read(2) reports it, not open(2)."""
    try:
        return os.preadv(fd, (room,), 0)
    except OSError as error:
        log.warning("reading the start of a lower file failed: %s; it is served through the cache", error)
        return 0
